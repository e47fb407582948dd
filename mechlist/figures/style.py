"""One look for every figure: a template that is passed along, never made the global default."""

import html
from collections.abc import Mapping
from typing import Any, cast

import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
INK = "#1f2430"
MUTED = "#6b7280"
GRID = "#e6e8ec"
MISSING = "#d4d5d8"
"""Cells that were not measured, and the hairlines between cells."""

WHITE = "#fbfbfb"
BLUES = (
    "#d3eaf1",
    "#aad8eb",
    "#84c4e5",
    "#61aedd",
    "#4697d1",
    "#357fc1",
    "#2e67ab",
    "#2a5092",
    "#263b76",
    "#1f285a",
)
REDS = (
    "#f2e2d2",
    "#ecc8aa",
    "#e5ad84",
    "#db9162",
    "#ce7545",
    "#bc5b2f",
    "#a64320",
    "#8c2e19",
    "#711e16",
    "#551112",
)

SEQUENTIAL = [(step / 10, colour) for step, colour in enumerate([WHITE, *BLUES])]
"""Near-white at zero, equal steps in OKLab: what is not there recedes."""
DIVERGING = [(step / 20, colour) for step, colour in enumerate([*REDS[::-1], WHITE, *BLUES])]
"""Red below zero, near-white at zero, blue above; both arms have the same lightness."""
SERIES = ("#2a5f9e", "#c4562f", "#3f8f6b", "#b58a1b", "#7b5aa6", "#5f6b7a", "#2f9bb0", "#a8476f")

TITLE_SPACE = 40
"""Pixels at the top of a finished figure that hold its title."""

_AXIS = {
    "automargin": True,
    "gridcolor": GRID,
    "linecolor": "#b8bcc4",
    "showline": True,
    "tickcolor": "#b8bcc4",
    "ticklen": 4,
    "ticks": "outside",
    "tickfont": {"size": 11},
    "title": {"font": {"size": 12}, "standoff": 8},
    "zeroline": False,
}

_TABLE = go.Table(
    header={"line": {"color": GRID}, "fill": {"color": "#f4f5f7"}, "font": {"weight": 600}},
    cells={"line": {"color": GRID}, "fill": {"color": "white"}},
)

TEMPLATE = go.layout.Template(
    data={"table": [_TABLE]},
    layout={
        "colorway": SERIES,
        "coloraxis": {"colorbar": {"outlinewidth": 0, "thickness": 12, "tickfont": {"size": 11}}},
        "colorscale": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
        "dragmode": "zoom",
        "font": {"family": FONT, "size": 12, "color": INK},
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 64, "r": 24, "t": TITLE_SPACE + 32, "b": 56},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "title": {
            "font": {"size": 15, "weight": 600},
            "pad": {"l": 12, "t": 14},
            "x": 0,
            "xref": "container",
            "y": 1,
            "yanchor": "top",
            "yref": "container",
        },
        "xaxis": {**_AXIS, "showgrid": False},
        "yaxis": _AXIS,
    },
)


def plot_text(text: str) -> str:
    """Plain text as a plotly label: plotly renders a subset of HTML, so `<b>` must be escaped to show."""
    return html.escape(text, quote=False)


def layout_of(figure: go.Figure) -> dict[str, Any]:
    """A copy of the layout as plain nested dictionaries."""
    return cast(go.Layout, figure.layout).to_plotly_json()


def meta(figure: go.Figure) -> dict[str, Any]:
    """What `finish` and the drawing functions noted about a figure: caption, aspect, min_width."""
    return meta_of(layout_of(figure))


def meta_of(layout: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a plain layout."""
    noted = layout.get("meta")
    return dict(noted) if isinstance(noted, Mapping) else {}


def finish(figure: go.Figure, *, title: str, caption: str) -> go.Figure:
    """A copy of the figure with the house template, its title, and its caption in `layout.meta`.

    Args:
        figure: any plotly figure.
        title: names the quantity shown; plain text.
        caption: one sentence that says how to read it; plain text.
    """
    finished = go.Figure(figure)
    finished["layout"]["template"] = TEMPLATE  # update_layout would merge it into the global template
    finished.update_layout(title_text=plot_text(title), meta={**meta(figure), "caption": caption})
    return finished


def without_title(figure: go.Figure) -> go.Figure:
    """A copy without title and without the space for it, for a page that prints the title itself."""
    bare = go.Figure(figure)
    bare.update_layout({"title_text": None, **room_without_title(layout_of(figure))})
    return bare


def room_without_title(layout: Mapping[str, Any]) -> dict[str, float | int]:
    """Top margin (`margin_t`) and height of a plain layout without the space for its title; nothing if it has none."""
    inherited = layout.get("template", {}).get("layout", {}).get("margin", {})
    top = {**inherited, **layout.get("margin", {})}.get("t", 0)
    if top < TITLE_SPACE:
        return {}
    return {"margin_t": top - TITLE_SPACE} | ({"height": layout["height"] - TITLE_SPACE} if "height" in layout else {})
