"""Patching: a clean and a corrupt prompt, the heat map of every layer and position, and what one cell does."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd
from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from mechlist.app.desk import Desk
from mechlist.app.live import Patched
from mechlist.app.widgets import answering, field, figure, frame_table, require_click, sentences, trigger
from mechlist.datasets.pairs.pair import KEYS
from mechlist.errors import InputError
from mechlist.experiments.grid_report import cell_table
from mechlist.models.sites import ATTENTION_SITES, Site
from mechlist.text import number, with_ends

SITES = [site for site in get_args(Site) if site not in ATTENTION_SITES]
_EXAMPLE = {
    "clean": "Write a short list of",
    "corrupt": "Write a long list of",
    "answer": " short",
    "wrong": " long",
}


def layout(desk: Desk) -> list[Component]:
    """The page, empty."""
    if desk.live is None:
        return [html.H2("Patching"), html.P("This page needs a model: start the app with --model.")]
    whole: dict[str, Any] = {"type": "number", "min": 0, "step": 1, "value": 0}
    return [
        html.H2("Patching"),
        html.P("Several pairs stand one a line, in the same order in every box; then cells have intervals."),
        html.Div(
            [
                field("Clean prompt", dcc.Textarea(id="patch-clean", value=_EXAMPLE["clean"], rows=2)),
                field(
                    "Corrupt, as many tokens",
                    dcc.Textarea(id="patch-corrupt", value=_EXAMPLE["corrupt"], rows=2),
                ),
                field("Answer, with its blank", dcc.Textarea(id="patch-answer", value=_EXAMPLE["answer"], rows=2)),
                field("Wrong answer", dcc.Textarea(id="patch-wrong", value=_EXAMPLE["wrong"], rows=2)),
            ],
            className="boxes",
        ),
        html.Div(
            [
                field("Site", dcc.Dropdown(id="patch-site", options=SITES, value="resid_pre", clearable=False)),
                html.Button("Patch", id="patch-go"),
            ],
            className="row",
        ),
        dcc.Store(id="patch-at"),
        html.Div(id="patch-shown"),
        html.Div(
            [
                html.P("Click a cell, or give its layer and position."),
                html.Div(
                    [
                        field("Layer", dcc.Input(id="patch-layer", **whole)),
                        field("Position", dcc.Input(id="patch-position", **whole)),
                        html.Button("Show the cell", id="patch-cell"),
                    ],
                    className="row",
                ),
            ],
            id="patch-cells",
            hidden=True,
        ),
        html.Div(id="patch-told"),
    ]


def register(app: Dash, desk: Desk) -> None:
    """Callbacks of the page."""
    if desk.live is None:
        return

    @app.callback(
        Output("patch-shown", "children"),
        Output("patch-at", "data"),
        Output("patch-cells", "hidden"),
        Output("patch-told", "children"),
        Input("patch-go", "n_clicks"),
        *(State(f"patch-{name}", "value") for name in (*KEYS, "site")),
        prevent_initial_call=True,
        running=[(Output("patch-go", "disabled"), True, False)],
    )
    @answering
    def patch(clicks: Any, *values: str) -> Any:  # noqa: ARG001
        require_click()
        patched = desk.model().patch(pairs_from(dict(zip(KEYS, values[:-1], strict=True))), values[-1])
        said = [*patched.warned, *patched.experiment.findings(patched.results)]
        drawn = patched.experiment.figures(patched.results)["positions"]
        return [sentences(said), figure(drawn, "patch-map")], desk.shelf.put(patched), False, []

    @app.callback(
        Output("patch-told", "children", allow_duplicate=True),
        Output("patch-layer", "value"),
        Output("patch-position", "value"),
        Input("patch-map", "clickData", allow_optional=True),
        Input("patch-cell", "n_clicks"),
        State("patch-layer", "value"),
        State("patch-position", "value"),
        State("patch-at", "data"),
        prevent_initial_call=True,
    )
    @answering
    def tell(point: dict[str, Any] | None, clicks: Any, layer: int | None, position: int | None, key: str) -> Any:  # noqa: ARG001
        require_click()
        if trigger() == "patch-map" and point:
            layer, position = int(point["points"][0]["y"]), int(point["points"][0]["x"])
        if layer is None or position is None:
            raise InputError("Give the numbers of a layer and of a position.")
        patched = desk.shelf.get(key, Patched)
        frame = desk.model().cell(patched, layer, position)
        return cell_parts(patched, layer, position, frame), layer, position


def pairs_from(texts: Mapping[str, str | None]) -> list[dict[str, str]]:
    """Pairs from boxes that hold one a line; blanks at the ends of a line are part of it.

    Raises:
        InputError: an empty box, or boxes of several lengths.
    """
    lines = {name: [line for line in (text or "").split("\n") if line] for name, text in texts.items()}
    empty = [name for name, found in lines.items() if not found]
    if empty:
        raise InputError(f"{', '.join(empty)} must hold a text each, one a line for several pairs.")
    counts = {name: len(found) for name, found in lines.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InputError(f"Every box must hold as many lines: {told}.")
    return [dict(zip(lines, values, strict=True)) for values in zip(*lines.values(), strict=True)]


def cell_parts(patched: Patched, layer: int, position: int, frame: pd.DataFrame) -> Sequence[Component]:
    """What the grid says of a cell, and what the model says with it patched."""
    table = cell_table(patched.results)
    found = table[(table["layer"] == layer) & (table["position"] == position)]
    if found.empty:
        raise InputError(f"No prompt has a token at position {position}.")
    row = found.iloc[0]
    token = f" “{row['token']}”" if "token" in row else ""
    said = [f"Layer {layer}, position {position}{token}: the patch changes the logit difference by {_effect(row)}."]
    if "share" in row and pd.notna(row["share"]):
        said.append(f"That is {row['share']:.1%} of the difference between the two runs.")
    if "low" not in row:
        said.append("One pair has no interval: give several pairs, one a line, to get one over pairs.")
    return [html.H3("Cell"), sentences(said), frame_table(frame, "with this cell patched")]


def _effect(row: Any) -> str:
    """The mean effect, with its interval over pairs where there are several."""
    if "low" not in row:
        return f"{number(row['effect'])} logits"
    return f"{with_ends(row['effect'], row['low'], row['high'])} logits, mean over {int(row['n'])} pairs"
