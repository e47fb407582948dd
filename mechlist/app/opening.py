"""Where a file or a run is opened on a page, by upload or by path."""

from typing import Any

from dash import Dash, Input, Output, State, dcc, html

from mechlist.app.documents import MOST_UPLOADED, Opened, open_path, open_upload, too_large
from mechlist.app.widgets import field, require_click, trigger
from mechlist.errors import InputError
from mechlist.text import visible

_SMALL_ENOUGH = """
(contents, name) => {
  if (!contents) return window.dash_clientside.no_update;
  const bytes = (contents.length - contents.indexOf(",") - 1) * 3 / 4;
  return bytes > %d ? { name, bytes } : { name, contents };
}
"""
"""Runs in the browser: of a file beyond the bound only its size is sent."""


def opener(page: str) -> html.Details:
    """Where a file is opened, by upload or by path."""
    return html.Details(
        [
            html.Summary("Open a file or a run"),
            dcc.Upload(
                html.Button("Choose a JSON or JSONL file", type="button"), id=f"{page}-upload", className="upload"
            ),
            dcc.Store(id=f"{page}-uploaded"),
            html.Div(
                [
                    field(
                        "or its path, or that of a run's directory",
                        dcc.Input(id=f"{page}-path", type="text", debounce=False, className="wide"),
                    ),
                    html.Button("Open", id=f"{page}-open"),
                ],
                className="row",
            ),
        ],
        open=True,
    )


def asked(page: str) -> list[Input | State]:
    """What calls when something is to be opened, and what `opened` then takes."""
    inputs = [Input(f"{page}-uploaded", "data"), Input(f"{page}-open", "n_clicks"), Input(f"{page}-path", "n_submit")]
    return [*inputs, State(f"{page}-path", "value")]


def opened(page: str, uploaded: dict[str, Any] | None, path: str | None) -> Opened:
    """What was asked for.

    Raises:
        InputError: it cannot be opened.
        PreventUpdate: nothing was asked.
    """
    require_click()
    if trigger() != f"{page}-uploaded":
        return open_path(path or "")
    sent = uploaded or {}
    name = str(sent.get("name") or "the upload")
    if "contents" not in sent:
        raise InputError(too_large(visible(name), int(sent.get("bytes") or 0)))
    return open_upload(str(sent["contents"]), name)


def register_opener(app: Dash, page: str) -> None:
    """Hand uploads on to the server, if they are small enough."""
    app.clientside_callback(
        _SMALL_ENOUGH % MOST_UPLOADED,
        Output(f"{page}-uploaded", "data"),
        Input(f"{page}-upload", "contents"),
        State(f"{page}-upload", "filename"),
        prevent_initial_call=True,
    )
