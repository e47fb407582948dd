"""Runs: every run below a folder, one opened, two compared."""

from pathlib import Path
from typing import Any

from dash import ALL, Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from mechlist.app.comparing import compare_runs
from mechlist.app.desk import Desk
from mechlist.app.pages import response, tree
from mechlist.app.widgets import answering, clicked, field, figure, frame_table, require_click, sentences
from mechlist.decode.tree import Tree
from mechlist.errors import InputError
from mechlist.report.assemble import Finished, read_exhibits, read_finished
from mechlist.runs import RunDirectory, read_config, runs_in
from mechlist.study import read_study

MOST = 200
"""Runs that are listed, the newest."""


def layout(desk: Desk) -> list[Component]:
    """The page; its list is read when it is opened, and again on request."""
    return [
        html.H2("Runs"),
        html.Div([html.P(f"Below {desk.folder}"), html.Button("Read again", id="runs-again")], className="row"),
        dcc.Store(id="runs-paths"),
        html.Div(id="runs-list"),
        html.Div(
            [
                field("Compare", dcc.Dropdown(id="runs-one", options=[])),
                field("with", dcc.Dropdown(id="runs-other", options=[])),
                html.Button("Compare", id="runs-compare"),
            ],
            className="row",
            id="runs-two",
        ),
        dcc.Store(id="runs-at"),
        html.Div(id="runs-shown"),
    ]


def register(app: Dash, desk: Desk) -> None:
    """Callbacks of the page."""

    @app.callback(
        Output("runs-list", "children"),
        Output("runs-paths", "data"),
        Output("runs-one", "options"),
        Output("runs-other", "options"),
        Input("runs-again", "n_clicks"),
    )
    @answering
    def read(clicks: Any) -> Any:  # noqa: ARG001
        found = [run.path for run in runs_in(desk.folder, below=True)]
        paths = [str(path) for path in found[:MOST]]
        return run_list(found, desk.folder), paths, paths, paths

    @app.callback(
        Output("runs-shown", "children"),
        Output("runs-at", "data"),
        Input({"type": "runs-open", "index": ALL}, "n_clicks"),
        State("runs-paths", "data"),
        prevent_initial_call=True,
    )
    @answering
    def open_one(clicks: Any, paths: list[str]) -> Any:  # noqa: ARG001
        path = _listed(desk, paths[clicked()])
        return run_parts(path), str(path)

    @app.callback(
        Output("runs-shown", "children", allow_duplicate=True),
        Input("runs-compare", "n_clicks"),
        State("runs-one", "value"),
        State("runs-other", "value"),
        prevent_initial_call=True,
    )
    @answering
    def compare(clicks: Any, one: str | None, other: str | None) -> Any:  # noqa: ARG001
        require_click()
        if not one or not other:
            raise InputError("Choose two runs to compare.")
        return compared_parts(_listed(desk, one), _listed(desk, other))

    @app.callback(
        Output("response-at", "data", allow_duplicate=True),
        Output("tree-at", "data", allow_duplicate=True),
        Output("place", "pathname", allow_duplicate=True),
        Input({"type": "runs-exhibit", "index": ALL}, "n_clicks"),
        State("runs-at", "data"),
        prevent_initial_call=True,
    )
    @answering
    def click_through(clicks: Any, path: str) -> Any:  # noqa: ARG001
        title = clicked()
        value = read_exhibits(_listed(desk, path))[title]
        opened_tree = tree.put(desk, value) if isinstance(value, Tree) else None
        page = "/tree" if opened_tree else "/response"
        return response.put(desk, value), opened_tree, app.get_relative_path(page)


def _listed(desk: Desk, path: str) -> Path:
    """A path that the page offered: a browser may say anything.

    Raises:
        InputError: another one.
    """
    known = {str(run.path): run.path for run in runs_in(desk.folder, below=True)}
    if path not in known:
        raise InputError(f"{path} is no run below {desk.folder}: read the list again.")
    return known[path]


def run_list(paths: list[Path], folder: Path) -> Component:
    """A line a run, the newest first."""
    if not paths:
        return html.P(f"There are no runs below {folder}: mechlist run NAME --out {folder / 'NAME'} makes one.")
    rows = []
    for number, path in enumerate(paths[:MOST]):
        config, record = read_config(path), _record(path)
        what = str(config.get("experiment") or config.get("title") or "not readable")
        name = str(path.relative_to(folder)) if path != folder else path.name
        values = [what, str(config.get("model") or ""), str(record.get("status", "not begun"))]
        values.append(str(record.get("started", ""))[:16].replace("T", " "))
        button = html.Button(name, id={"type": "runs-open", "index": number})
        rows.append(html.Tr([html.Td(button), *(html.Td(value) for value in values)]))
    head = html.Thead(html.Tr([html.Th(name, scope="col") for name in ("run", "what", "model", "status", "started")]))
    more = [html.P(f"and {len(paths) - MOST} older ones.")] if len(paths) > MOST else []
    return html.Div([html.Div(html.Table([head, html.Tbody(rows)]), className="scroll", tabIndex=0), *more])


def _record(path: Path) -> dict[str, Any]:
    try:
        return RunDirectory(path).record()
    except InputError:
        return {"status": "run.json is damaged"}


def run_parts(path: Path) -> list[Component]:
    """A finished run: findings, figures, tables, configuration; of a study every step."""
    config = read_config(path)
    text = (path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    folded = html.Details([html.Summary("Configuration"), html.Pre(text)])
    if "steps" not in config:
        exhibits = list(read_exhibits(path)) if (path / "results.nc").is_file() else []
        return [html.H3(str(path)), *_finished(read_finished(path)), *_exhibits(exhibits), folded]
    study = read_study(path / "config.yaml", config)
    parts: list[Component] = [html.H3(study.title), html.P(study.question, className="question")]
    for step in study.steps:
        parts += [html.H4(step.name), *_finished(read_finished(path / step.name))]
    return [*parts, *_exhibits(list(read_exhibits(path))), folded]


def _finished(done: Finished) -> list[Component]:
    figures = [figure(drawn) for drawn in done.figures.values()]
    tables = [frame_table(frame, name) for name, frame in done.tables.items()]
    return [html.P(done.summary), sentences(done.findings), *figures, *tables]


def _exhibits(titles: list[str]) -> list[Component]:
    if not titles:
        return []
    buttons = [html.Button(title, id={"type": "runs-exhibit", "index": title}) for title in titles[:50]]
    return [html.H4("Click through"), html.Div(buttons, className="row")]


def compared_parts(one: Path, other: Path) -> list[Component]:
    """Two runs side by side."""
    found = compare_runs(one, other)
    changed = sentences(found.changed) if found.changed else html.P("They were asked the same.")
    sides = [_side(path) for path in (one, other)]
    return [
        html.H3(f"{one} and {other}"),
        changed,
        frame_table(found.variables, "variables"),
        html.Div(sides, className="sides"),
    ]


def _side(path: Path) -> Component:
    done = read_finished(path)
    figures = [figure(drawn) for drawn in done.figures.values()]
    return html.Div([html.H4(str(path)), sentences(done.findings), *figures])
