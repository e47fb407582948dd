"""Drawn graphs of circuits: the input below, the logits on top, heads and MLPs on the floors between."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from mechlist.errors import InputError
from mechlist.figures.style import finish, plot_text
from mechlist.text import number

COLOURS = {"q": "#c2571a", "k": "#2f6db5", "v": "#3a8f5c", "": "#6b7280"}
NAMES = {"q": "into queries", "k": "into keys", "v": "into values", "": "into MLPs and logits"}
WIDEST, THINNEST = 6.0, 0.8
FLOOR, COLUMN = 92, 104
"""Pixels between floors, and between nodes of one floor."""


@dataclass(frozen=True)
class GraphEdge:
    """An arrow of the graph."""

    sender: str
    receiver: str
    """The node it leads to."""
    entry: str
    """`q`, `k` or `v`, or "" for an MLP or the logits."""
    score: float
    """Its size is the width, its sign the dash."""


def circuit_graph(
    floors: Sequence[Sequence[str]],
    edges: Sequence[GraphEdge],
    *,
    beside: Container[str] = (),
    title: str,
    caption: str,
    unit: str,
) -> go.Figure:
    """Nodes floor by floor, from the lowest up, and arrows between them.

    Args:
        floors: names of the nodes of each floor, from left to right; empty floors are left out.
        edges: between nodes that are there.
        beside: nodes that stand in a column of their own at the right.
        title: names the circuit.
        caption: one sentence that says how to read it.
        unit: of the scores.

    Raises:
        InputError: no node, or an edge from or to a node that is not there.
    """
    places = _places(floors, beside)
    if not places:
        raise InputError("floors must hold one node at least; received none.")
    for edge in edges:
        for name in (edge.sender, edge.receiver):
            if name not in places:
                raise InputError(f"Every end of an edge must be a node of the graph; {name!r} is none.")
    figure = go.Figure()
    largest = max((abs(edge.score) for edge in edges), default=0.0) or 1.0
    for entry in COLOURS:
        if any(edge.entry == entry for edge in edges):
            figure.add_trace(_legend(entry))
    # The widest last, on top of the others.
    for edge in sorted(edges, key=lambda edge: abs(edge.score)):
        figure.add_trace(_line(edge, places, largest))
    figure.add_trace(_hover(edges, places, unit))
    figure.add_trace(_nodes(places))
    columns, height = [x for x, _ in places.values()], 1 + max(y for _, y in places.values())
    width = max(columns) - min(columns) + 1.4
    figure.update_xaxes(visible=False, range=[min(columns) - 0.7, max(columns) + 0.7])
    figure.update_yaxes(visible=False, range=[-0.6, height - 0.4])
    figure.update_layout(
        width=max(460, min(1100, width * COLUMN)), height=min(1400, height * FLOOR + 150), plot_bgcolor="white"
    )
    return finish(figure, title=title, caption=caption)


def _places(floors: Sequence[Sequence[str]], beside: Container[str]) -> dict[str, tuple[float, float]]:
    """The middle of each node; every other floor a little aside, so that arrows do not hide each other."""
    out = {}
    standing = [floor for floor in floors if floor]
    right = max((len(floor) for floor in standing), default=0) / 2 + 0.7
    for height, floor in enumerate(standing):
        aside = 0.18 if len(floor) > 1 and height % 2 else 0.0
        for column, name in enumerate(floor):
            x = right if name in beside else column - (len(floor) - 1) / 2 + aside
            out[name] = (x, float(height))
    return out


def _legend(entry: str) -> go.Scatter:
    line = {"width": 3, "color": COLOURS[entry]}
    return go.Scatter(x=[None], y=[None], mode="lines", line=line, name=NAMES[entry], hoverinfo="skip")


def _line(edge: GraphEdge, places: dict[str, tuple[float, float]], largest: float) -> go.Scatter:
    (x0, y0), (x1, y1) = places[edge.sender], places[edge.receiver]
    x, y = _bend(edge, x0, y0, x1, y1)
    width = THINNEST + (WIDEST - THINNEST) * abs(edge.score) / largest
    dash = "solid" if edge.score <= 0 else "dot"
    return go.Scatter(
        x=[x0, x, x1],
        y=[y0, y, y1],
        mode="lines",
        line={"width": width, "color": COLOURS[edge.entry], "shape": "spline", "dash": dash},
        opacity=0.75,
        showlegend=False,
        hoverinfo="skip",
    )


def _bend(edge: GraphEdge, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float]:
    """The middle of an arrow, moved aside by its entry: a head's three entries do not cover each other."""
    aside = {"q": -0.16, "k": 0.0, "v": 0.16, "": 0.0}[edge.entry]
    # An arrow over several floors passes beside those between.
    over = 0.28 * (y1 - y0 > 1) * (1 if x0 + x1 >= 0 else -1)
    return (x0 + x1) / 2 + aside + over, (y0 + y1) / 2


def _hover(edges: Sequence[GraphEdge], places: dict[str, tuple[float, float]], unit: str) -> go.Scatter:
    middles = [_bend(edge, *places[edge.sender], *places[edge.receiver]) for edge in edges]
    texts = [
        plot_text(f"{e.sender} to {e.receiver}{f' ({e.entry})' if e.entry else ''}: {number(e.score)} {unit}")
        for e in edges
    ]
    return go.Scatter(
        x=[x for x, _ in middles],
        y=[y for _, y in middles],
        mode="markers",
        marker={"size": 14, "opacity": 0},
        customdata=texts,
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )


def _nodes(places: dict[str, tuple[float, float]]) -> go.Scatter:
    return go.Scatter(
        x=[x for x, _ in places.values()],
        y=[y for _, y in places.values()],
        mode="markers+text",
        marker={"size": 38, "symbol": "square", "color": "white", "line": {"width": 1.5, "color": "#3d4451"}},
        text=list(places),
        textfont={"size": 11},
        hoverinfo="skip",
        showlegend=False,
    )
