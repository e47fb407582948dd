"""Tree: the likely continuations of a prompt; what is open is shown."""

from typing import Any

import dash_cytoscape as cyto
from dash import ALL, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from mechlist.app.desk import Desk
from mechlist.app.opening import asked, opened, opener, register_opener
from mechlist.app.pages.response import Shown
from mechlist.app.response import Path, likeliest_leaf, record_of
from mechlist.app.tree_elements import STYLE, tree_elements
from mechlist.app.tree_view import MOST_CHILDREN, TreeSheet, TreeView, matches, next_match, way_to
from mechlist.app.widgets import answering, aria, chat_box, clicked, field, require_click, trigger
from mechlist.decode.tree import Tree, TreeConfig
from mechlist.errors import InputError
from mechlist.text import number_of, shortened, visible

_HEIGHT = 480
"""Pixels of the drawing."""


def layout(desk: Desk) -> list[Component]:
    """The page, empty."""
    return [
        html.H2("Tree"),
        _form(desk),
        opener("tree"),
        dcc.Store(id="tree-at"),
        html.Div(
            [
                html.P(id="tree-said", className="subtitle"),
                html.Div(
                    [
                        field("Search", dcc.Input(id="tree-query", type="text", debounce=False)),
                        html.Button("Next match", id="tree-next"),
                        html.Button("Collapse all", id="tree-fold"),
                        html.Button("Open as a response", id="tree-respond"),
                    ],
                    className="row",
                ),
                html.Div(
                    cyto.Cytoscape(
                        id="tree-graph",
                        elements=[],
                        layout={"name": "preset", "fit": False},
                        stylesheet=STYLE,
                        style={"width": "100%", "height": f"{_HEIGHT}px"},
                        minZoom=0.2,
                        maxZoom=2,
                        boxSelectionEnabled=False,
                        autoungrabify=True,
                        responsive=False,  # It would fit the drawing into the window at every change of its size.
                    ),
                    className="card",
                ),
                html.Pre(id="tree-hover"),
                html.Div(id="tree-panel"),
            ],
            id="tree-shown",
            hidden=True,
        ),
    ]


def _form(desk: Desk) -> Component:
    if desk.live is None:
        return html.P("No model is loaded: trees are read from files and runs. Start with --model to grow some.")
    return html.Div(
        [
            field("Prompt", dcc.Textarea(id="tree-prompt", value="Write a short list of fruits.", rows=3)),
            html.Div(
                [
                    chat_box("tree-chat", known=desk.live.has_chat),
                    field("Branch above", dcc.Input(id="tree-low", type="number", value=0.1, min=0, max=1, step="any")),
                    field("up to", dcc.Input(id="tree-high", type="number", value=0.5, min=0, max=1, step="any")),
                    field("Nodes", dcc.Input(id="tree-most", type="number", value=300, min=1, step=1)),
                    html.Button("Grow", id="tree-grow"),
                ],
                className="row",
            ),
        ]
    )


def register(app: Dash, desk: Desk) -> None:
    """Callbacks of the page."""
    register_opener(app, "tree")
    if desk.live is not None:
        _register_growing(app, desk)
    _register_opening(app, desk)
    _register_moves(app, desk)
    _register_showing(app, desk)


def _register_opening(app: Dash, desk: Desk) -> None:
    @app.callback(
        Output("tree-at", "data", allow_duplicate=True),
        *asked("tree"),
        prevent_initial_call=True,
    )
    @answering
    def open_one(uploaded: dict[str, Any] | None, clicks: Any, submits: Any, path: str | None) -> Any:  # noqa: ARG001
        found = opened("tree", uploaded, path)
        trees = [value for value in found.exhibits.values() if isinstance(value, Tree)]
        if not trees:
            raise InputError(f"{found.name} holds responses and no tree: open it on the page Response.")
        return put(desk, trees[0])


def _register_moves(app: Dash, desk: Desk) -> None:
    at = Output("tree-at", "data", allow_duplicate=True)

    @app.callback(at, Input("tree-graph", "tapNode"), State("tree-at", "data"), prevent_initial_call=True)
    @answering
    def tap(node: dict[str, Any] | None, data: dict[str, Any]) -> Any:
        if not node:
            raise PreventUpdate
        sheet, view = _read(desk, data)
        return _data(data, view.toggled(sheet, int(node["data"]["id"])), centred=False)

    @app.callback(
        at,
        Input({"type": "tree-go", "index": ALL}, "n_clicks"),
        Input({"type": "tree-toggle", "index": ALL}, "n_clicks"),
        State("tree-at", "data"),
        prevent_initial_call=True,
    )
    @answering
    def go(going: Any, toggling: Any, data: dict[str, Any]) -> Any:  # noqa: ARG001
        number = clicked()
        sheet, view = _read(desk, data)
        changed = view.select(number) if trigger()["type"] == "tree-go" else view.toggled(sheet, number)
        return _data(data, changed, centred=True)

    @app.callback(at, Input("tree-fold", "n_clicks"), State("tree-at", "data"), prevent_initial_call=True)
    @answering
    def fold(clicks: Any, data: dict[str, Any]) -> Any:  # noqa: ARG001
        require_click()
        return _data(data, TreeView(frozenset({0})), centred=True)

    @app.callback(
        at,
        Input("tree-next", "n_clicks"),
        Input("tree-query", "n_submit"),
        State("tree-query", "value"),
        State("tree-at", "data"),
        prevent_initial_call=True,
    )
    @answering
    def search(clicks: Any, submits: Any, query: str | None, data: dict[str, Any]) -> Any:  # noqa: ARG001
        require_click()
        sheet, view = _read(desk, data)
        found = next_match(matches(sheet, query or ""), view.selected)
        if not query:
            raise InputError("Type what to search for.")
        if found is None:
            raise InputError(f"No chain of the tree holds “{visible(query)}”.")
        return _data(data, view.select(found), centred=True) | {"query": query}


def _register_showing(app: Dash, desk: Desk) -> None:
    @app.callback(
        Output("tree-graph", "elements"),
        Output("tree-graph", "pan"),
        Output("tree-panel", "children"),
        Output("tree-said", "children"),
        Output("tree-shown", "hidden"),
        Input("tree-at", "data"),
    )
    def render(data: dict[str, Any] | None) -> Any:
        if not data:
            return [], no_update, [], "", True
        sheet, view = _read(desk, data)
        elements = tree_elements(sheet, view)
        pan = tree_pan(elements, view.selected) if data["centred"] else no_update
        return elements, pan, tree_panel(sheet, view), _said(sheet, view, data.get("query")), False

    @app.callback(Output("tree-hover", "children"), Input("tree-graph", "mouseoverNodeData"))
    def hover(node: dict[str, Any] | None) -> str:
        return node["hover"] if node else ""

    @app.callback(
        Output("response-at", "data", allow_duplicate=True),
        Output("place", "pathname", allow_duplicate=True),
        Input("tree-respond", "n_clicks"),
        State("tree-at", "data"),
        prevent_initial_call=True,
    )
    @answering
    def respond(clicks: Any, data: dict[str, Any]) -> Any:  # noqa: ARG001
        require_click()
        sheet, view = _read(desk, data)
        leaf = likeliest_leaf(sheet.tree, sheet.segments[view.selected].nodes[-1])
        shown = Shown(Path.of(record_of(sheet.tree, leaf)), sheet.tree)
        return {"shown": desk.shelf.put(shown), "place": None}, app.get_relative_path("/response")


def _register_growing(app: Dash, desk: Desk) -> None:
    names = ("prompt", "chat", "low", "high", "most")

    @app.callback(
        Output("tree-at", "data"),
        Input("tree-grow", "n_clicks"),
        *(State(f"tree-{name}", "value") for name in names),
        prevent_initial_call=True,
        running=[(Output("tree-grow", "disabled"), True, False)],
    )
    @answering
    def grow(clicks: Any, prompt: str, chat: list[str], low: float, high: float, most: int | None) -> Any:  # noqa: ARG001
        require_click()
        if low is None or high is None:
            raise InputError("Both thresholds must be numbers from 0 to 1.")
        config = TreeConfig(
            min_branch_threshold=low,
            max_branch_threshold=high,
            max_nodes=most or 0,
            max_depth=60,
            max_completed_paths=20,
        )
        return put(desk, desk.model().tree(prompt or "", config, chat=bool(chat)))


def put(desk: Desk, tree: Tree) -> dict[str, Any]:
    """What the browser holds of a tree that is shown."""
    sheet = TreeSheet.of(tree)
    return _data({"sheet": desk.shelf.put(sheet)}, TreeView.first(sheet), centred=True)


def _data(data: dict[str, Any], view: TreeView, *, centred: bool) -> dict[str, Any]:
    return {"sheet": data["sheet"], "open": sorted(view.open), "selected": view.selected, "centred": centred}


def _read(desk: Desk, data: dict[str, Any]) -> tuple[TreeSheet, TreeView]:
    return desk.shelf.get(data["sheet"], TreeSheet), TreeView(frozenset(data["open"]), data["selected"])


def tree_pan(elements: list[dict[str, Any]], number: int) -> dict[str, float]:
    """Where the drawing stands so that a chain is in sight, with some of what leads to it."""
    chain = next(one for one in elements if one["data"]["id"] == str(number))
    left = chain["position"]["x"] - chain["data"]["width"] / 2
    return {"x": (160 if number else 16) - left, "y": _HEIGHT / 2 - chain["position"]["y"]}


def _said(sheet: TreeSheet, view: TreeView, query: str | None) -> str:
    found = f" {number_of(len(matches(sheet, query)), 'chains')} hold “{visible(query)}”." if query else ""
    return (
        f"Behind “{shortened(visible(sheet.tree.prompt), 120)}”: {number_of(len(sheet.tree.nodes), 'nodes')}, "
        f"{len(view.shown(sheet))} of {number_of(len(sheet.segments), 'chains')} shown. Click a chain to open or close "
        f"it.{found}"
    )


def tree_panel(sheet: TreeSheet, view: TreeView) -> list[Component]:
    """The selected chain: its way from the prompt, what it says, and what follows it, as buttons."""
    number, segment = view.selected, sheet.segments[view.selected]
    way = [_go(sheet, at, "") for at in way_to(sheet, number)[:-1]]
    text = html.Pre(f"{visible(sheet.branches[number].text) or '∅'}\n{sheet.branches[number].hover}")
    children = [html.Li(_go(sheet, c, f"  {sheet.branches[c].value:.3f}")) for c in segment.children[:MOST_CHILDREN]]
    rest = len(segment.children) - len(children)
    toggle = html.Button(
        "Collapse" if number in view.open else "Expand",
        id={"type": "tree-toggle", "index": number},
        **aria(expanded="true" if number in view.open else "false"),
    )
    parts: list[Component] = [html.H3("Selected"), html.Div(way, className="row"), text]
    if children:
        parts += [toggle, html.H4("What follows"), html.Ol(children, className="others")]
    return parts + ([html.P(f"and {number_of(rest, 'less probable ones')}; search finds them.")] if rest else [])


def _go(sheet: TreeSheet, number: int, after: str) -> html.Button:
    label = shortened(visible(sheet.branches[number].text) or "∅", 60)
    return html.Button(f"{label}{after}", id={"type": "tree-go", "index": number})
