"""Response: text coloured by confidence; another token in a place, and what the model then writes."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from dash import ALL, Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from mechlist.app.desk import Desk
from mechlist.app.documents import Opened
from mechlist.app.opening import asked, opened, opener, register_opener
from mechlist.app.response import GoOn, Path, Step, cannot_go_on, likeliest_leaf, record_of, routes, same
from mechlist.app.widgets import answering, aria, chat_box, clicked, field, require_click, trigger
from mechlist.decode.records import Record, RecordedToken
from mechlist.decode.tree import Tree
from mechlist.figures.token_text import confidence_colour
from mechlist.report.exhibits import share, token_lines
from mechlist.text import number, number_of, shortened, visible
from mechlist.text_files import json_text

MOST_TOKENS = 1500
"""Of a response that are shown."""


@dataclass(frozen=True)
class Shown:
    """The path that a page shows, and the recorded tree that it can be led along."""

    path: Path
    tree: Tree | None = None

    @classmethod
    def of(cls, value: Record | Tree) -> "Shown":
        """A record, or the likeliest path of a tree."""
        if isinstance(value, Tree):
            return cls(Path.of(record_of(value, likeliest_leaf(value))), value)
        return cls(Path.of(value))


def layout(desk: Desk) -> list[Component]:
    """The page, empty."""
    return [
        html.H2("Response"),
        _form(desk),
        opener("response"),
        html.Div(
            field("Which one", dcc.Dropdown(id="response-which", options=[], clearable=False)),
            id="response-several",
            hidden=True,
        ),
        dcc.Store(id="response-opened"),
        dcc.Store(id="response-at"),
        html.Div(id="response-shown"),
        html.Div(
            [html.Button("Undo", id="response-undo"), html.Button("Download as JSON", id="response-save")],
            id="response-tools",
            className="row",
            hidden=True,
        ),
        dcc.Download(id="response-download"),
    ]


def _form(desk: Desk) -> Component:
    if desk.live is None:
        return html.P(
            "No model is loaded: responses are read from files and runs, and a choice follows the branches that a tree "
            "recorded. Start with --model to write some."
        )
    return html.Div(
        [
            field("Prompt", dcc.Textarea(id="response-prompt", value="Write a short list of fruits.", rows=3)),
            html.Div(
                [
                    chat_box("response-chat", known=desk.live.has_chat),
                    field("New tokens", dcc.Input(id="response-most", type="number", value=40, min=1, step=1)),
                    html.Button("Write", id="response-write"),
                ],
                className="row",
            ),
        ]
    )


def register(app: Dash, desk: Desk) -> None:
    """Callbacks of the page."""
    register_opener(app, "response")
    if desk.live is not None:
        _register_writing(app, desk)
    _register_opening(app, desk)
    _register_choices(app, desk)
    _register_showing(app, desk)


def _register_opening(app: Dash, desk: Desk) -> None:
    at = Output("response-at", "data", allow_duplicate=True)

    @app.callback(
        Output("response-opened", "data"),
        at,
        *asked("response"),
        prevent_initial_call=True,
    )
    @answering
    def open_one(uploaded: dict[str, Any] | None, clicks: Any, submits: Any, path: str | None) -> Any:  # noqa: ARG001
        found = opened("response", uploaded, path)
        return desk.shelf.put(found), put(desk, next(iter(found.exhibits.values())))

    @app.callback(
        Output("response-which", "options"),
        Output("response-which", "value"),
        Output("response-several", "hidden"),
        Input("response-opened", "data"),
        prevent_initial_call=True,
    )
    def offer(key: str) -> Any:
        exhibits = desk.shelf.get(key, Opened).exhibits
        titles = [{"label": _title(title, value), "value": title} for title, value in exhibits.items()]
        return titles, titles[0]["value"], len(titles) < 2

    @app.callback(at, Input("response-which", "value"), State("response-opened", "data"), prevent_initial_call=True)
    @answering
    def pick(title: str, key: str) -> Any:
        return put(desk, desk.shelf.get(key, Opened).exhibits[title])


def _register_choices(app: Dash, desk: Desk) -> None:
    at = Output("response-at", "data", allow_duplicate=True)

    @app.callback(
        at,
        Input({"type": "response-token", "index": ALL}, "n_clicks"),
        State("response-at", "data"),
        prevent_initial_call=True,
    )
    @answering
    def select(clicks: Any, data: dict[str, Any]) -> Any:  # noqa: ARG001
        return data | {"place": clicked()}

    @app.callback(
        at,
        Input({"type": "response-step", "index": ALL}, "n_clicks"),
        Input("response-undo", "n_clicks"),
        State("response-at", "data"),
        prevent_initial_call=True,
    )
    @answering
    def back(steps: Any, undo: Any, data: dict[str, Any]) -> Any:  # noqa: ARG001
        require_click()
        shown = desk.shelf.get(data["shown"], Shown)
        undone = trigger() == "response-undo"
        path = shown.path.undone() if undone else shown.path.at(trigger()["index"])
        return {"shown": desk.shelf.put(Shown(path, shown.tree)), "place": None}

    states = [State("response-chat", "value"), State("response-most", "value")] if desk.live is not None else []

    @app.callback(
        at,
        Input({"type": "response-other", "index": ALL}, "n_clicks"),
        State("response-at", "data"),
        *states,
        prevent_initial_call=True,
    )
    @answering
    def choose(clicks: Any, data: dict[str, Any], *settings: Any) -> Any:  # noqa: ARG001
        other = clicked()
        shown = desk.shelf.get(data["shown"], Shown)
        path = shown.path.chosen(data["place"], other, _go_on(desk, shown, *settings))
        return {"shown": desk.shelf.put(Shown(path, shown.tree)), "place": data["place"]}


def _register_showing(app: Dash, desk: Desk) -> None:
    @app.callback(
        Output("response-shown", "children"), Output("response-tools", "hidden"), Input("response-at", "data")
    )
    def render(data: dict[str, Any] | None) -> Any:
        if not data:
            return [], True
        return response_parts(desk.shelf.get(data["shown"], Shown).path, data["place"]), False

    @app.callback(
        Output("response-download", "data"),
        Input("response-save", "n_clicks"),
        State("response-at", "data"),
        prevent_initial_call=True,
    )
    @answering
    def save(clicks: Any, data: dict[str, Any]) -> Any:  # noqa: ARG001
        require_click()
        value = desk.shelf.get(data["shown"], Shown).path.to_json()
        return {"content": json_text(value, indent=1) + "\n", "filename": "response.json", "type": "application/json"}


def _register_writing(app: Dash, desk: Desk) -> None:
    @app.callback(
        Output("response-at", "data"),
        Input("response-write", "n_clicks"),
        State("response-prompt", "value"),
        State("response-chat", "value"),
        State("response-most", "value"),
        prevent_initial_call=True,
        running=[(Output("response-write", "disabled"), True, False)],
    )
    @answering
    def write(clicks: Any, prompt: str, chat: list[str], most: int | None) -> Any:  # noqa: ARG001
        require_click()
        return put(desk, desk.model().write(prompt or "", chat=bool(chat), most=most or 0))


def put(desk: Desk, value: Record | Tree) -> dict[str, Any]:
    """What the browser holds of a record or a tree that is shown."""
    return {"shown": desk.shelf.put(Shown.of(value)), "place": None}


def _go_on(desk: Desk, shown: Shown, chat: list[str] | None = None, most: int | None = None) -> GoOn:
    """The model where there is one, else the recorded branches."""
    if desk.live is not None:
        return partial(desk.live.go_on, chat=bool(chat), most=most or 0)
    return cannot_go_on if shown.tree is None else routes(shown.tree)


def _title(title: str, value: Record | Tree) -> str:
    return f"{title}: {shortened(visible(value.prompt), 60)}"


def response_parts(path: Path, place: int | None) -> list[Component]:
    """The response, the path so far, and what is known of the selected token."""
    record = path.now.record
    shown = record.tokens[:MOST_TOKENS]
    rest = len(record.tokens) - len(shown)
    chosen = {step.place for step in path.steps if step.place is not None}
    buttons: list[Component] = []
    for at, token in enumerate(shown):
        buttons.append(_token(token, at, pressed=at == place, chosen=at in chosen))
        if token.token.endswith("\n"):
            buttons.append(html.Br())
    said = [f"{number_of(len(record.tokens), 'tokens')}, perplexity {number(record.perplexity)}."]
    said += [f"Shown are the first {len(shown)}."] if rest else []
    return [
        html.P(f"Behind “{shortened(visible(record.prompt), 400)}”", className="subtitle"),
        html.Div(buttons, className="response", id="response-text"),
        html.P(" ".join(said), className="subtitle"),
        *([_others(record.tokens[place], place)] if place is not None and place < len(record.tokens) else [_HINT]),
        *([_steps(path.steps)] if len(path.steps) > 1 else []),
    ]


_HINT = html.P("Click a token to see what else might have come.")


def _token(token: RecordedToken, place: int, *, pressed: bool, chosen: bool) -> html.Button:
    return html.Button(
        visible(token.token) or "∅",
        id={"type": "response-token", "index": place},
        title="\n".join(token_lines(token)[:1]),
        className="token chosen" if chosen else "token",
        style={"background": confidence_colour(math.exp(token.log_prob))},
        **aria(pressed="true" if pressed else "false"),
    )


def _others(token: RecordedToken, place: int) -> Component:
    head = html.H3(f"Token {place + 1}: “{visible(token.token)}”")
    lines = token_lines(token, alternatives=False)
    if not token.alternatives:
        return html.Div([head, html.P("; ".join(lines) + "."), html.P("No alternatives were recorded here.")])
    buttons = [
        html.Li(
            html.Button(
                f"{visible(other.token) or '∅'}  {share(other.log_prob)}",
                id={"type": "response-other", "index": n},
                disabled=same(token, other),
            )
        )
        for n, other in enumerate(token.alternatives)
    ]
    return html.Div(
        [head, html.P("; ".join(lines) + ". Choose what comes in its place:"), html.Ol(buttons, className="others")]
    )


def _steps(steps: tuple[Step, ...]) -> Component:
    buttons = [
        html.Li(html.Button(step.said or "the first response", id={"type": "response-step", "index": n}))
        for n, step in enumerate(steps)
    ]
    return html.Div([html.H3("Path so far"), html.Ol(buttons, className="steps")])
