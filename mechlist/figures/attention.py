"""Attention patterns: queries downwards, keys to the right, weights from white to blue."""

import html
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.colour import Scale
from mechlist.figures.panels import Grid, grid_figure
from mechlist.figures.style import MISSING, MONO, finish, plot_text
from mechlist.figures.tokens import token_labels

_DIMS = ("query", "key")
_UNIT = "attention weight"
_LETTER = 6.7
"""Pixels a letter of a token label takes."""


def attention_pattern(
    pattern: xr.DataArray,
    *,
    title: str,
    caption: str,
    labels: Sequence[str] | None = None,
    limit: float | int | None = None,
) -> go.Figure:
    """One head's attention weights, from `pattern(query, key)`; drag to zoom, and the ticks fill in.

    Args:
        pattern: dimensions (query, key) in either order, one position a step on both.
        title: names the head and the prompt.
        caption: one sentence that says how to read it.
        labels: token texts, one a key; queries take the last of them where there are fewer queries.
        limit: far end of the colour scale; by default 1, so that figures compare.
    """
    matrix(pattern, _DIMS, "pattern")
    pattern = pattern.expand_dims("name").drop_vars("name", errors="ignore")
    figure = _draw(pattern, [""], labels, limit, columns=1)
    return finish(figure, title=title, caption=caption)


def attention_panel(
    patterns: xr.DataArray,
    *,
    title: str,
    caption: str,
    labels: Sequence[str] | None = None,
    limit: float | int | None = None,
    columns: int = 3,
) -> go.Figure:
    """Several heads' attention weights side by side, from `patterns(name, query, key)`, on one colour scale.

    Args:
        patterns: dimensions (name, query, key); the coordinate `name` titles the panels.
        title: names the quantity.
        caption: one sentence that says how to read it.
        labels: token texts, one a key; queries take the last of them where there are fewer queries.
        limit: far end of the colour scale; by default 1, so that figures compare.
        columns: panels in a row.
    """
    if "name" not in patterns.dims:
        matrix(patterns, ("name", *_DIMS), "patterns")
    names = [str(name) for name in coordinate(patterns, "name")]
    return finish(_draw(patterns, names, labels, limit, columns=columns), title=title, caption=caption)


def _draw(
    patterns: xr.DataArray,
    names: list[str],
    labels: Sequence[str] | None,
    limit: float | int | None,
    *,
    columns: int,
) -> go.Figure:
    weights = matrix(patterns, ("name", *_DIMS), "patterns")
    x, y = _places(patterns, "key", labels), _places(patterns, "query", labels)
    scale = Scale(unit=_UNIT, limit=limit)
    grid = _grid(tuple(names), x, y, scale, columns)
    figure = grid_figure(grid)
    for index, name in enumerate(names):
        row, column = grid.cell(index)
        figure.add_trace(_trace(weights[index], x, y, name), row=row, col=column)
        figure.update_xaxes(_axis("key", x, shown=grid.is_bottom(index)), row=row, col=column)
        figure.update_yaxes(_axis("query", y, shown=grid.is_left(index)), row=row, col=column)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(coloraxis=scale.axis(list(weights), grid.area[1]), plot_bgcolor=MISSING)
    return figure


def _places(patterns: xr.DataArray, dim: str, labels: Sequence[str] | None) -> list:
    """Positions as numbers, or the labels of the tokens there."""
    if labels is None:
        return coordinate(patterns, dim)
    keys, here = patterns.sizes["key"], patterns.sizes[dim]
    if len(labels) != keys or here > keys:
        raise InputError(
            f"labels must hold one text a key, with no more queries than keys; received {len(labels)} labels "
            f"for {patterns.sizes['query']} queries and {keys} keys."
        )
    return token_labels(labels, longest=16)[keys - here :]


def _grid(names: tuple[str, ...], x: list, y: list, scale: Scale, columns: int) -> Grid:
    span, largest = (500, 48) if len(names) == 1 else (240, 30)
    cell = min(span / max(len(x), len(y)), largest)
    grid = Grid(
        names=names,
        width=round(len(x) * cell),
        height=round(len(y) * cell),
        columns=columns,
        left=34 + _letters(y),
        bottom=36 + _letters(x),
        gap_x=24,
        gap_y=40,
    )
    return replace(grid, right=scale.space(grid.area[1]))


def _letters(places: list) -> int:
    """Pixels that the longest label takes."""
    longest = max(len(html.unescape(str(place))) for place in places)
    return round(longest * _LETTER)


def _trace(weights: np.ndarray, x: list, y: list, name: str) -> go.Heatmap:
    hover = "query %{y}<br>key %{x}<br>weight %{z:.3f}<extra></extra>"
    return go.Heatmap(
        z=weights,
        x=x,
        y=y,
        name=plot_text(name),
        hovertemplate=hover,
        hoverongaps=False,
        coloraxis="coloraxis",
    )


def _axis(dim: str, places: list, *, shown: bool) -> dict[str, Any]:
    look = {"showgrid": False, "ticks": "outside" if shown else "", "showticklabels": shown, "mirror": True}
    title = {"title": {"text": f"{dim} (position)"}} if shown else {}
    if not any(isinstance(place, str) for place in places):
        return {**look, **title, "tickformat": "d", "tickangle": 0, "nticks": min(len(places), 11)}
    # Plotly thins the ticks of a category axis by itself and fills them in on zoom.
    angle = {"tickangle": -90} if dim == "key" else {}
    return {**look, **title, **angle, "type": "category", "tickfont": {"family": MONO, "size": 11}}
