"""Parts that several pages use, and the one place where an error becomes a sentence on the page."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import pandas as pd
import plotly.graph_objects as go
from dash import ctx, dcc, html, set_props
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from mechlist.errors import MechlistError, what, where
from mechlist.figures.style import meta, without_title
from mechlist.report.plots import plain_title
from mechlist.report.tables import cell

MESSAGE = "message"
"""Id of the line in which the page says what went wrong."""
_ROWS = 100
"""Of a table that are shown."""

F = TypeVar("F", bound=Callable[..., Any])


def explain(error: Exception) -> None:
    """Say an error on the page."""
    if isinstance(error, MechlistError):
        said = " ".join(str(error).split())
    else:
        place = where(error)
        said = f"unexpected {what(error)}{f', at {place}' if place else ''}."
    set_props(MESSAGE, {"children": said})


def answering(function: F) -> F:
    """A callback behind which nothing is said of earlier errors any more."""

    @wraps(function)
    def answer(*arguments: Any) -> Any:
        result = function(*arguments)
        set_props(MESSAGE, {"children": ""})
        return result

    return answer  # pyright: ignore[reportReturnType]


def aria(**said: str) -> dict[str, Any]:
    """Attributes for those who do not see the page: `aria(label="Pages")`."""
    return {f"aria-{name}": value for name, value in said.items()}


def require_click() -> None:
    """Go on only if something was clicked: buttons that appear call, too.

    Raises:
        PreventUpdate: nothing was.
    """
    if not any(one["value"] for one in ctx.triggered):
        raise PreventUpdate


def trigger() -> Any:
    """The id of what called."""
    return cast(Any, ctx.triggered_id)


def clicked() -> Any:
    """The `index` of the button of a group that was clicked.

    Raises:
        PreventUpdate: none was.
    """
    require_click()
    return trigger()["index"]


def field(label: str, part: Component, hint: str = "") -> html.Label:
    """An input with its name above it."""
    return html.Label([html.Span(label), part, *([html.Small(hint)] if hint else [])], className="field")


def chat_box(name: str, *, known: bool) -> dcc.Checklist:
    """Whether a prompt goes into the chat template; ticked where the tokenizer knows one."""
    options = [{"label": " in the chat template", "value": "chat"}]
    return dcc.Checklist(id=name, options=options, value=["chat"] if known else [])


def frame_table(frame: pd.DataFrame, caption: str) -> html.Div:
    """A data frame as a table that scrolls."""
    shown = frame.head(_ROWS)
    cut = f" (first {_ROWS} of {len(frame)} rows)" if len(frame) > _ROWS else ""
    head = html.Thead(html.Tr([html.Th(str(name), scope="col") for name in shown.columns]))
    rows = [html.Tr([html.Td(cell(value)) for value in row]) for row in shown.itertuples(index=False)]
    table = html.Table([html.Caption(caption + cut), head, html.Tbody(rows)])
    return html.Div(table, className="scroll", tabIndex=0, role="region", **aria(label=caption))


def sentences(lines: Sequence[str]) -> Component:
    """Findings as a list."""
    return html.Ul([html.Li(line) for line in lines], className="findings")


def figure(drawn: go.Figure, name: str = "") -> html.Figure:
    """A figure on its card; its title and caption are text of the page, so that they wrap."""
    caption = str(meta(drawn).get("caption", ""))
    told = [html.Span(plain_title(drawn), className="title"), html.Span(caption, className="caption")]
    own: dict[str, Any] = {"id": name} if name else {}
    graph = dcc.Graph(figure=without_title(drawn), config={"displaylogo": False, "displayModeBar": "hover"}, **own)
    return html.Figure([html.Figcaption(told), html.Div(graph, className="scroll plot")], className="card")
