"""First look: what `mechlist look` says of a prompt, and where any head looks."""

from typing import Any

from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from mechlist.app.desk import Desk
from mechlist.app.widgets import answering, field, figure, frame_table, require_click, sentences
from mechlist.errors import InputError


def layout(desk: Desk) -> list[Component]:
    """The page, empty."""
    if desk.live is None:
        return [html.H2("First look"), html.P("This page needs a model: start the app with --model.")]
    layers, heads = desk.live.layers_and_heads
    number: dict[str, Any] = {"type": "number", "min": 0, "step": 1, "value": 0}
    return [
        html.H2("First look"),
        field("Prompt", dcc.Textarea(id="look-text", value="Write a short list of fruits", rows=3)),
        html.Div(
            [
                dcc.Checklist(id="look-every", options=[{"label": " every token", "value": "every"}], value=[]),
                html.Button("Look", id="look-go"),
            ],
            className="row",
        ),
        html.Div(id="look-shown"),
        html.H3("Attention of a head"),
        html.Div(
            [
                field(f"Layer, 0 to {layers - 1}", dcc.Input(id="look-layer", max=layers - 1, **number)),
                field(f"Head, 0 to {heads - 1}", dcc.Input(id="look-head", max=heads - 1, **number)),
                html.Button("Show", id="look-attention"),
            ],
            className="row",
        ),
        html.Div(id="look-pattern"),
    ]


def register(app: Dash, desk: Desk) -> None:
    """Callbacks of the page."""
    if desk.live is None:
        return

    @app.callback(
        Output("look-shown", "children"),
        Input("look-go", "n_clicks"),
        State("look-text", "value"),
        State("look-every", "value"),
        prevent_initial_call=True,
        running=[(Output("look-go", "disabled"), True, False)],
    )
    @answering
    def look(clicks: Any, text: str, every: list[str]) -> Any:  # noqa: ARG001
        require_click()
        said, tables = desk.model().look(text or "", every=bool(every))
        return [sentences(said), *(frame_table(frame, title) for title, frame in tables.items())]

    @app.callback(
        Output("look-pattern", "children"),
        Input("look-attention", "n_clicks"),
        State("look-text", "value"),
        State("look-layer", "value"),
        State("look-head", "value"),
        prevent_initial_call=True,
    )
    @answering
    def attention(clicks: Any, text: str, layer: int | None, head: int | None) -> Any:  # noqa: ARG001
        require_click()
        if layer is None or head is None:
            raise InputError("Give the numbers of a layer and of a head.")
        return figure(desk.model().attention(text or "", layer, head))
