"""Drawn graphs of circuits: the input below, the logits on top, heads and MLPs on the floors between.

A slider takes the first edges alone: a circuit of a hundred edges is no picture, and its strongest twenty are one.
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import plotly.graph_objects as go

from mechlist.errors import InputError
from mechlist.figures.graph.places import Place, middle, places_of
from mechlist.figures.style import GRID, INK, MUTED, finish, plot_text
from mechlist.text import number

COLOURS = {"q": "#c2571a", "k": "#2f6db5", "v": "#3a8f5c", "": "#6b7280"}
NAMES = {"q": "into queries", "k": "into keys", "v": "into values", "": "into MLPs and logits"}
WIDEST, THINNEST = 6.0, 0.8
ASIDE = {"q": -0.16, "k": 0.0, "v": 0.16, "": 0.0}
"""Columns by which the middle of an arrow is moved: a head's three entries do not cover each other."""
FLOOR, COLUMN, LEAST_COLUMN = 58, 96, 38
"""Pixels between floors; between nodes of one floor, and the fewest of them."""
SHORTEST, TALLEST = 420, 1400
NODE = 34
"""Pixels of a node's side; less where floors lie closer."""
AROUND = 150
"""Pixels above and below the floors."""
FIRST = 20
"""Edges that are shown at first, where there are more."""
TOLD = 5
"""Edges each way that a node's box tells."""
SLIDER = 84
"""Pixels that the slider takes."""


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
    exact: float = math.nan
    """What patching the edge does, where that was measured."""


def circuit_graph(
    floors: Sequence[Sequence[str]],
    edges: Sequence[GraphEdge],
    *,
    steps: Sequence[int] = (),
    joins: Sequence[tuple[str, str]] = (),
    beside: Container[str] = (),
    title: str,
    caption: str,
    unit: str,
) -> go.Figure:
    """Nodes floor by floor, from the lowest up, and arrows between them.

    A report's page lights the edges of the node that is clicked, and tells their numbers; boxes tell them everywhere.

    Args:
        floors: names of the nodes of each floor; empty floors are left out, and nodes of a floor are put in the order
            in which arrows cross least.
        edges: between nodes that are there.
        steps: numbers of edges that a slider offers, rising: the first so many of `edges`, and the nodes at their ends.
            Without, all edges and nodes.
        joins: pairs of nodes between which nothing is scored, as of keys that several heads share and these heads.
        beside: nodes that stand in a column of their own at the right.
        title: names the circuit.
        caption: one sentence that says how to read it.
        unit: of the scores.

    Raises:
        InputError: no node, an edge or join from or to a node that is not there, or steps that do not rise.
    """
    names = [name for floor in floors for name in floor]
    if not names:
        raise InputError("floors must hold one node at least; received none.")
    _check(names, edges, steps, joins)
    views = [_view(floors, edges[:count], joins, beside, whole=not steps) for count in steps or (len(edges),)]
    legend = [_legend(entry) for entry in COLOURS if any(edge.entry == entry for edge in edges)]
    figure, owners = go.Figure(legend), [-1] * len(legend)
    largest = max((abs(edge.score) for edge in edges), default=0.0) or 1.0
    first = max((n for n, count in enumerate(steps) if count <= FIRST), default=0)
    height = min(TALLEST, max(SHORTEST, AROUND + FLOOR * max(view.height for view in views)))
    for n, view in enumerate(views):
        traces = view.traces(largest, unit, height - AROUND)
        owners += [n] * len(traces)
        figure.add_traces([trace.update(visible=n == first) for trace in traces])
    columns = max(view.columns for view in views)
    figure.update_xaxes(visible=False, range=views[first].x_range)
    figure.update_yaxes(visible=False, range=views[first].y_range)
    figure.update_layout(
        width=max(460, min(1100, columns * COLUMN)),
        height=height + SLIDER * (len(views) > 1),
        margin={"l": 8, "r": 8, "b": 12 + SLIDER * (len(views) > 1)},
        meta={"min_width": max(320, columns * LEAST_COLUMN), "nodes": names},
    )
    if len(views) > 1:
        figure.update_layout(sliders=[_slider(views, owners, first)])
    return finish(figure, title=title, caption=caption)


def _check(
    names: Sequence[str], edges: Sequence[GraphEdge], steps: Sequence[int], joins: Sequence[tuple[str, str]]
) -> None:
    there = set(names)
    for name in (name for ends in [*((e.sender, e.receiver) for e in edges), *joins] for name in ends):
        if name not in there:
            raise InputError(f"Every end of an edge must be a node of the graph; {name!r} is none.")
    if list(steps) != sorted(set(steps)) or any(not 0 < count <= len(edges) for count in steps):
        raise InputError(f"steps must rise from 1 or more to at most the {len(edges)} edges, not {list(steps)}.")


@dataclass(frozen=True)
class _View:
    """The graph at one place of the slider."""

    edges: Sequence[GraphEdge]
    joins: Sequence[tuple[str, str]]
    places: Mapping[str, Place]

    @property
    def columns(self) -> float:
        """Nodes that stand side by side at most, with the room at both ends."""
        low, high = self.x_range
        return high - low

    @property
    def height(self) -> float:
        """Floors from the lowest to the highest node."""
        return max(y for _, y in self.places.values())

    @cached_property
    def middles(self) -> dict[GraphEdge, Place]:
        """Of each arrow, the widest last."""
        ordered = sorted(self.edges, key=lambda edge: abs(edge.score))
        return {edge: middle(self.places, edge.sender, edge.receiver, ASIDE[edge.entry]) for edge in ordered}

    @property
    def x_range(self) -> list[float]:
        """Of the axis: arrows bend beyond the nodes."""
        columns, bends = [x for x, _ in self.places.values()], [x for x, _ in self.middles.values()]
        return [
            min([min(columns) - 0.7, *(x - 0.2 for x in bends)]),
            max([max(columns) + 0.7, *(x + 0.2 for x in bends)]),
        ]

    @property
    def y_range(self) -> list[float]:
        """Of the axis: a tall graph needs less of it below and above."""
        room = max(0.5, 0.03 * self.height)
        return [-room, self.height + room]

    def traces(self, largest: float, unit: str, pixels: float | int) -> list[go.Scatter]:
        """Arrows, the widest last and so on top of the others; their boxes; nodes."""
        lines = [_line(edge, self.places, at, largest, self.readers(edge)) for edge, at in self.middles.items()]
        joins = [_join(self.places[a], self.places[b], (a, b)) for a, b in self.joins]
        low, high = self.y_range
        return [*joins, *lines, _hover(self.middles, unit), self.nodes(unit, min(NODE, 0.85 * pixels / (high - low)))]

    def readers(self, edge: GraphEdge) -> list[str]:
        """Nodes that an edge reaches by way of a join."""
        return [upper for lower, upper in self.joins if lower == edge.receiver]

    def nodes(self, unit: str, side: float | int) -> go.Scatter:
        """The nodes, with sides of so many pixels, and their edges: as boxes tell them, and all with their numbers."""
        told = []
        for name in self.places:
            ordered = sorted(self.edges, key=lambda edge: -abs(edge.score))
            into = [edge for edge in ordered if name in (edge.receiver, *self.readers(edge))]
            out = [edge for edge in ordered if edge.sender == name]
            told.append([_box(name, into, out, unit), _numbers([*into, *out])])
        return _nodes(self.places, told, unit, side)


def _view(
    floors: Sequence[Sequence[str]],
    edges: Sequence[GraphEdge],
    joins: Sequence[tuple[str, str]],
    beside: Container[str],
    *,
    whole: bool,
) -> _View:
    """The graph of some edges, with the nodes at their ends, or all of them with `whole`."""
    ends = {name for edge in edges for name in (edge.sender, edge.receiver)}
    shown = [[name for name in floor if whole or name in ends] for floor in floors]
    kept = [(a, b) for a, b in joins if whole or {a, b} <= ends]
    links = [*((edge.sender, edge.receiver) for edge in edges), *kept]
    return _View(edges, kept, places_of([floor for floor in shown if floor], links, beside))


def _slider(views: Sequence[_View], owners: Sequence[int], first: int) -> dict[str, object]:
    """The slider; each of its steps shows the traces of one view, and all of its room."""
    steps = []
    for n, view in enumerate(views):
        axes = {"xaxis.range": view.x_range, "yaxis.range": view.y_range}
        shown = [owner in (-1, n) for owner in owners]
        steps.append({"label": str(len(view.edges)), "method": "update", "args": [{"visible": shown}, axes]})
    return {
        "active": first,
        "steps": steps,
        "currentvalue": {"prefix": "edges shown: ", "font": {"size": 12}},
        "pad": {"t": 18, "b": 4, "l": 12, "r": 12},
        "font": {"size": 11, "color": INK},
        "bgcolor": GRID,
        "activebgcolor": MUTED,
        "bordercolor": MUTED,
        "tickcolor": MUTED,
    }


def _legend(entry: str) -> go.Scatter:
    line = {"width": 3, "color": COLOURS[entry]}
    return go.Scatter(x=[None], y=[None], mode="lines", line=line, name=NAMES[entry], hoverinfo="skip")


def _line(
    edge: GraphEdge, places: Mapping[str, Place], at: Place, largest: float, readers: Sequence[str]
) -> go.Scatter:
    (x0, y0), (x1, y1), (x, y) = places[edge.sender], places[edge.receiver], at
    width = THINNEST + (WIDEST - THINNEST) * abs(edge.score) / largest
    dash = "solid" if edge.score <= 0 else "dot"
    return go.Scatter(
        x=[x0, x, x1],
        y=[y0, y, y1],
        mode="lines",
        line={"width": round(width, 2), "color": COLOURS[edge.entry], "shape": "spline", "dash": dash},
        opacity=0.75,
        showlegend=False,
        hoverinfo="skip",
        meta={"ends": [edge.sender, edge.receiver], "readers": list(readers)},
    )


def _join(lower: Place, upper: Place, ends: tuple[str, str]) -> go.Scatter:
    return go.Scatter(
        x=[lower[0], upper[0]],
        y=[lower[1], upper[1]],
        mode="lines",
        line={"width": 1, "color": MUTED},
        opacity=0.75,
        showlegend=False,
        hoverinfo="skip",
        meta={"ends": list(ends)},
    )


def _effect(edge: GraphEdge, unit: str) -> str:
    exact = "" if math.isnan(edge.exact) else f" (patched exactly: {number(edge.exact)})"
    return f"{number(edge.score)} {unit}{exact}"


def _entry(edge: GraphEdge) -> str:
    return f" ({edge.entry})" if edge.entry else ""


def _hover(middles: Mapping[GraphEdge, Place], unit: str) -> go.Scatter:
    texts = [plot_text(f"{e.sender} to {e.receiver}{_entry(e)}: {_effect(e, unit)}") for e in middles]
    return go.Scatter(
        x=[x for x, _ in middles.values()],
        y=[y for _, y in middles.values()],
        mode="markers",
        marker={"size": 14, "opacity": 0},
        customdata=texts,
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )


def _nodes(places: Mapping[str, Place], told: Sequence[Sequence[str]], unit: str, side: float | int) -> go.Scatter:
    longest = max(map(len, places))
    return go.Scatter(
        x=[x for x, _ in places.values()],
        y=[y for _, y in places.values()],
        mode="markers+text",
        marker={
            "size": round(side, 1),
            "symbol": "square",
            "color": "white",
            "opacity": 1,
            "line": {"width": 1.5, "color": "#3d4451"},
        },
        unselected={"marker": {"opacity": 0.35}},
        text=list(places),
        textfont={"size": 11 if longest < 6 else 10, "color": INK},
        customdata=told,
        hovertemplate="%{customdata[0]}<extra></extra>",
        showlegend=False,
        meta={"nodes": True, "unit": unit},
    )


def _box(name: str, into: Sequence[GraphEdge], out: Sequence[GraphEdge], unit: str) -> str:
    """What is known of a node, for a box: its strongest edges."""
    lines = [f"<b>{plot_text(name)}</b>"]
    for words, side in (("from", into), ("to", out)):
        for edge in side[:TOLD]:
            end = edge.sender if words == "from" else edge.receiver
            lines.append(plot_text(f"{words} {end}{_entry(edge)}: {_effect(edge, unit)}"))
        lines += [f"and {len(side) - TOLD} more"] if len(side) > TOLD else []
    return "<br>".join(lines)


def _numbers(edges: Sequence[GraphEdge]) -> str:
    """A line each, with tabs between the edge, its score and its exact effect."""
    return "\n".join(
        f"{e.sender} to {e.receiver}{_entry(e)}\t{number(e.score)}\t{'' if math.isnan(e.exact) else number(e.exact)}"
        for e in edges
    )
