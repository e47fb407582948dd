"""Figures inside a page: JSON that no token text can break out of, drawn when scrolled into view."""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from mechlist.figures.style import TEMPLATE, layout_of, meta_of, room_without_title
from mechlist.report.text import escape
from mechlist.report.themes import colours_of, dark, templates

_DEFAULT_HEIGHT = 450
_FALLBACK_TITLE = "Figure"


def plain_title(figure: go.Figure) -> str:
    """The figure's title as plain text, without plotly's markup; `Figure` where there is none."""
    return _title_of(layout_of(figure))


def _title_of(layout: Mapping[str, Any]) -> str:
    title = layout.get("title", {}).get("text") or ""
    return html.unescape(re.sub(r"<[^<>]*>", " ", title)).strip() or _FALLBACK_TITLE


def _plain(figure: go.Figure) -> dict[str, Any]:
    """The figure as plotly.js reads it, without the house template, which a page holds once.

    Plotly's default engine depends on what is installed, and one of them refuses lone surrogates.
    """
    value = json.loads(pio.to_json(figure, validate=False, remove_uids=True, engine="json") or "{}")
    if figure["layout"]["template"] == TEMPLATE:
        del value["layout"]["template"]
    return value


def _bare(figure: go.Figure, layout: Mapping[str, Any]) -> dict[str, Any]:
    """As `_plain`, and as `without_title`; the figure itself is not copied, which takes long."""
    value, room = _plain(figure), room_without_title(layout)
    own = value["layout"]
    own.get("title", {}).pop("text", None)
    if "margin_t" in room:
        own.setdefault("margin", {})["t"] = room["margin_t"]
    if "height" in room:
        own["height"] = room["height"]
    return value


def _safe(value: object) -> str:
    """ASCII JSON that is safe inside a script element; the same value gives the same text."""
    compact = json.dumps(value, separators=(",", ":"))
    return compact.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def figure_block(figure: go.Figure, anchor: str, *, name: str = "") -> str:
    """A figure element with title, plot and caption; the title is text of the page, so that it wraps.

    Args:
        figure: any plotly figure; `finish` gives it a caption.
        anchor: id of the element.
        name: file name offered for a download of the image.
    """
    layout = layout_of(figure)
    title, notes = _title_of(layout), meta_of(layout)
    caption = escape(str(notes.get("caption", "")))
    head = [
        f'<figure id="{anchor}" class="card">',
        f'<figcaption><a class="title" href="#{anchor}">{escape(title)}</a>',
        *([f'<span class="caption">{caption}</span>'] if caption else []),
        "</figcaption>",
    ]
    if "flow" in notes:
        return "\n".join([*head, *(_flow(**part) for part in notes["flow"]), "</figure>"])
    bare = _bare(figure, layout)
    height = bare["layout"].get("height", _DEFAULT_HEIGHT)
    lines = [
        *head,
        f'<div class="scroll plot"><div id="{anchor}-plot" data-figure="{anchor}-data" '
        f'data-name="{escape(name or anchor)}" style="height:{height}px"></div></div>',
        f'<script type="application/json" id="{anchor}-data">{_safe(bare)}</script>',
        "</figure>",
    ]
    return "\n".join(lines)


def _flow(name: str, tokens: Sequence[Sequence[str]]) -> str:
    """Running text that wraps as the page does: each token on its colour, what is known of it on hover or at a tap."""
    parts = []
    for text, colour, note in tokens:
        style = f' style="--light:{colour};--dark:{dark(colour)}"' if colour else ""
        shown = escape(text.removesuffix("\n"))
        parts.append(f'<span tabindex="0"{style} data-note="{escape(note)}">{shown}</span>')
        parts += ["<br>"] if text.endswith("\n") else []
    heading = f"<b>{escape(name)}</b>" if name else ""
    return f'{heading}<p class="flow">{"".join(parts)}</p>'


def scripts(figures: Iterable[go.Figure], plotly: str = "") -> str:
    """Plotly (inside, or at an address) and what draws figures, once at the end of a page with these figures.

    The house template stands there in light and dark, and what each colour of the figures is on a dark page.
    """
    colours = sorted({colour for figure in figures for colour in colours_of(_plain(figure))})
    themes = {"templates": templates(), "dark": {colour: dark(colour) for colour in colours}}
    library = f'<script src="{escape(plotly)}"></script>' if plotly else f"<script>{get_plotlyjs()}</script>"
    held = f'<script type="application/json" id="themes">{_safe(themes)}</script>'
    return f"{held}\n{library}\n<script>\n{asset('report.js')}</script>"


def asset(name: str) -> str:
    """Text of a file beside this module."""
    return resources.files("mechlist.report").joinpath(name).read_text(encoding="utf-8")
