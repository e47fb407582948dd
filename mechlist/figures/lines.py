"""Lines over positions, with labelled marks where something starts."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.conditions import in_order, looks
from mechlist.figures.style import MUTED, finish, plot_text

_NO_MARKS: Mapping[str, float | int] = {}
_NEAR = 0.2
"""Marks closer than this share of the axis get their labels on different lines."""


def position_lines(
    values: Mapping[str, xr.DataArray],
    *,
    title: str,
    caption: str,
    x_title: str,
    y_title: str,
    marks: Mapping[str, float | int] = _NO_MARKS,
) -> go.Figure:
    """One line a name, from arrays with one dimension; NaN leaves a gap.

    Args:
        values: name in the legend to values; x is the dimension's coordinate, or 0, 1, 2, ...
        title: names the quantity.
        caption: one sentence that says how to read it.
        x_title: what runs along x, with its unit.
        y_title: what the values are, with their unit.
        marks: label to position of a dotted vertical line.

    Raises:
        InputError: no lines, or an array with more or fewer dimensions than one.
    """
    if not values:
        raise InputError("values must hold at least one line; received none.")
    figure, names = go.Figure(), list(values)
    drawn = looks(names)
    for place in in_order(names):
        name, look = names[place], drawn[place]
        array = values[name]
        dims = tuple(str(dim) for dim in array.dims)
        y = matrix(array, dims if len(dims) == 1 else ("position",), f"values['{name}']")
        x = coordinate(array, dims[0])
        trace = go.Scatter(x=x, y=y, mode="lines" if len(x) > 24 else "lines+markers", name=plot_text(name))
        figure.add_trace(trace.update(line={"color": look.colour, "dash": look.dash}))
    figure.update_traces(line_width=1.8, marker_size=6, hovertemplate="%{y:.4g}")
    figure.update_layout(height=400, hovermode="x unified", showlegend=len(values) > 1, meta={"min_width": 320})
    figure.update_xaxes(title=plot_text(x_title))
    figure.update_yaxes(title=plot_text(y_title))
    for label, place, line in _staggered(marks, values):
        figure.add_shape(_mark_line(place))
        figure.add_annotation(_mark_label(label, place, line))
    return finish(figure, title=title, caption=caption)


def _staggered(marks: Mapping[str, float | int], values: Mapping[str, xr.DataArray]) -> list[tuple[str, float, int]]:
    """Marks from left to right, each with the line of text (0 on top) that keeps labels apart."""
    places = [place for array in values.values() for place in coordinate(array, str(array.dims[0]))]
    span = (max(places) - min(places)) or 1
    placed: list[tuple[str, float, int]] = []
    for label, place in sorted(marks.items(), key=lambda mark: mark[1]):
        near = bool(placed) and (place - placed[-1][1]) / span < _NEAR
        placed.append((label, float(place), placed[-1][2] + 1 if near else 0))
    return placed


def _mark_line(place: float) -> dict[str, Any]:
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return {
        "type": "line",
        "x0": place,
        "x1": place,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": line,
        "layer": "below",
    }


def _mark_label(label: str, place: float, line: int) -> dict[str, Any]:
    where = {
        "x": place,
        "xanchor": "left",
        "xshift": 3,
        "y": 1,
        "yref": "paper",
        "yanchor": "top",
        "yshift": -16 * line,
    }
    font = {"size": 11, "color": MUTED}
    return {
        "text": plot_text(label),
        "showarrow": False,
        "font": font,
        "bgcolor": "rgba(255,255,255,0.8)",
        **where,
    }
