"""The Dash app: pages side by side in one layout, and the guard before every request."""

import logging
import os
import socket
from importlib import resources
from typing import Any

from dash import Dash, Input, Output, dcc, html
from flask import Response, request
from werkzeug.serving import BaseWSGIServer, make_server

from mechlist.app.access import Access
from mechlist.app.desk import Desk
from mechlist.app.documents import MOST_UPLOADED
from mechlist.app.pages import look, patching, response, runs, tree
from mechlist.app.widgets import MESSAGE, aria, explain
from mechlist.errors import InputError
from mechlist.report.plots import asset

PAGES = {
    "runs": ("Runs", runs),
    "response": ("Response", response),
    "tree": ("Tree", tree),
    "look": ("First look", look),
    "patching": ("Patching", patching),
}
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; worker-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(desk: Desk, access: Access) -> Dash:
    """The app; nothing of it is global, and it loads nothing from anywhere else."""
    app = Dash(
        "mechlist",
        title="mechlist",
        update_title="",
        serve_locally=True,
        assets_folder="none",
        include_assets_files=False,
        routes_pathname_prefix=access.prefix,
        requests_pathname_prefix=access.prefix,
        on_error=explain,
    )
    app.index_string = _index()
    app.server.config["MAX_CONTENT_LENGTH"] = 2 * MOST_UPLOADED
    _guard(app, access)
    app.layout = _layout(app, desk)
    for _, page in PAGES.values():
        page.register(app, desk)

    @app.callback(
        *(Output(f"page-{name}", "hidden") for name in PAGES),
        *(Output(f"link-{name}", "className") for name in PAGES),
        Input("place", "pathname"),
    )
    def show(path: str | None) -> Any:
        name = (app.strip_relative_path(path or access.prefix) or "").strip("/")
        chosen = name if name in PAGES else next(iter(PAGES))
        return *(page != chosen for page in PAGES), *("here" if page == chosen else "" for page in PAGES)

    return app


def _guard(app: Dash, access: Access) -> None:
    """Refuse whoever may not ask, at every request; tell browsers to load nothing from elsewhere."""

    @app.server.before_request
    def check() -> Response | None:
        refusal = access.refusal(request.path, request.headers.get("Host", ""), request.headers.get("Origin", ""))
        return Response(f"{refusal}\n", status=403, mimetype="text/plain") if refusal else None

    @app.server.after_request
    def tell(answer: Response) -> Response:
        answer.headers.update(_HEADERS)
        return answer


def _layout(app: Dash, desk: Desk) -> html.Div:
    links = [
        html.Li(dcc.Link(title, href=app.get_relative_path(f"/{name}"), id=f"link-{name}"))
        for name, (title, _) in PAGES.items()
    ]
    model = "no model" if desk.live is None else desk.live.name
    return html.Div(
        [
            dcc.Location(id="place", refresh="callback-nav"),
            html.Header([html.H1("mechlist"), html.P(model, className="subtitle")]),
            html.Nav(html.Ol(links), **aria(label="Pages")),
            html.Div(id=MESSAGE, role="alert"),
            html.Main(
                [
                    html.Section(page.layout(desk), id=f"page-{name}", hidden=name != next(iter(PAGES)))
                    for name, (_, page) in PAGES.items()
                ]
            ),
        ]
    )


def _index() -> str:
    """The page around the app, in the report's style."""
    own = resources.files("mechlist.app").joinpath("app.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            "{%metas%}",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            "<title>{%title%}</title>",
            "{%favicon%}",
            "{%css%}",
            f"<style>\n{asset('style.css')}\n{own}</style>",
            "</head>",
            "<body>",
            "{%app_entry%}",
            "<footer>{%config%}{%scripts%}{%renderer%}</footer>",
            "</body>",
            "</html>",
        ]
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        InputError: the port is taken, or the address is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port must be from 0 to 65535, not {port}.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise InputError(
            f"The app cannot listen at {host}, port {port} ({reason}): give another --port or --host."
        ) from error


def make_web_server(app: Dash, opened: socket.socket) -> BaseWSGIServer:
    """A server of the app at a socket; `serve_forever` and `shutdown` are its own."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = opened.getsockname()[:2]
    return make_server(host, port, app.server, threaded=True, fd=opened.fileno())
