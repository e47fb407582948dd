"""Heat maps with one cell a head: layers downwards, heads to the right."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.colour import Scale
from mechlist.figures.conditions import in_order
from mechlist.figures.marks import dots, frame, marked_cells, notes
from mechlist.figures.panels import Grid, grid_figure, thinned, tick_step
from mechlist.figures.style import MISSING, finish
from mechlist.text import number
from mechlist.types import head_name

_DIMS = ("layer", "head")
_ANNOTATED = 64
"""Cells up to which the value is written into the cell."""


def head_heatmap(
    scores: xr.DataArray,
    *,
    title: str,
    caption: str,
    unit: str,
    diverging: bool = False,
    limit: float | int | None = None,
    marked: xr.DataArray | None = None,
    note: xr.DataArray | None = None,
) -> go.Figure:
    """One value a head, from `scores(layer, head)`; layer 0 on top, NaN grey.

    Args:
        scores: dimensions (layer, head) in either order; coordinates, where given, label layers and heads.
        title: names the quantity.
        caption: one sentence that says how to read it.
        unit: title of the colour bar.
        diverging: red below zero, blue above; else white at zero to blue.
        limit: far end of the colour scale; by default 1, or the largest value if more or diverging.
        marked: heads that get a dot, such as those that survive a test; the caption should say which.
        note: text that the hover box adds to each head, such as its p value.
    """
    scale = Scale(unit=unit, diverging=diverging, limit=limit)
    marks, words = ({} if array is None else {"": array} for array in (marked, note))
    return finish(_draw({"": scores}, scale, columns=1, marked=marks, note=words), title=title, caption=caption)


def heads_panel(
    scores: Mapping[str, xr.DataArray],
    *,
    title: str,
    caption: str,
    unit: str,
    diverging: bool = False,
    limit: float | int | None = None,
    columns: int = 3,
    marked: Mapping[str, xr.DataArray] | None = None,
    note: Mapping[str, xr.DataArray] | None = None,
) -> go.Figure:
    """Several head heat maps of one model side by side, with one colour scale.

    Args:
        scores: name of the panel to values with dimensions (layer, head), all of one shape.
        title: names the quantity.
        caption: one sentence that says how to read it.
        unit: title of the colour bar.
        diverging: red below zero, blue above; else white at zero to blue.
        limit: far end of the colour scale; by default 1, or the largest value if more or diverging.
        columns: panels in a row.
        marked: of some or all panels, the heads that get a dot; the caption should say which.
        note: of some or all panels, text that the hover box adds to each head.
    """
    scale = Scale(unit=unit, diverging=diverging, limit=limit)
    names = list(scores)
    panels = {names[place]: scores[names[place]] for place in in_order(names)}
    drawn = _draw(panels, scale, columns=columns, marked=marked or {}, note=note or {})
    return finish(drawn, title=title, caption=caption)


def _draw(
    scores: Mapping[str, xr.DataArray],
    scale: Scale,
    *,
    columns: int,
    marked: Mapping[str, xr.DataArray],
    note: Mapping[str, xr.DataArray],
) -> go.Figure:
    unknown = [name for name in (*marked, *note) if name not in scores]
    if unknown:
        raise InputError(f"marked and note must be of the panels {', '.join(scores)}; received {unknown[0]!r}.")
    grids = [matrix(values, _DIMS, f"scores['{name}']" if name else "scores") for name, values in scores.items()]
    shapes = sorted({values.shape for values in grids})
    if len(shapes) != 1:
        raise InputError(f"scores must hold one or more arrays of one shape; received shapes {shapes}.")
    grid = _grid(tuple(scores), shapes[0], scale, columns)
    figure = grid_figure(grid)
    figure.update_yaxes(autorange="reversed")
    for index, (values, (name, array)) in enumerate(zip(grids, scores.items(), strict=True)):
        row, column = grid.cell(index)
        pixels = grid.height // len(values)
        cells = marked_cells(marked.get(name), array, _DIMS)
        trace = _trace(values, array, notes(note.get(name), array, _DIMS), gap=1 if pixels >= 12 else 0)
        figure.add_trace(trace, row=row, col=column)
        if cells is not None and cells.any():
            figure.add_trace(dots(cells, pixels, corner=cells.size <= _ANNOTATED), row=row, col=column)
            across, down = frame(cells)
            figure.update_xaxes(across, row=row, col=column)
            figure.update_yaxes(down, row=row, col=column)
        x, y = _axis(array, "head", grid.width, 22), _axis(array, "layer", grid.height, 16)
        figure.update_xaxes(x, title="head" if grid.is_bottom(index) else None, row=row, col=column)
        figure.update_yaxes(y, title="layer" if grid.is_left(index) else None, row=row, col=column)
    figure.update_layout(coloraxis=scale.axis(grids, grid.area[1]), plot_bgcolor=MISSING)
    return figure


def _grid(names: tuple[str, ...], shape: tuple[int, ...], scale: Scale, columns: int) -> Grid:
    layers, heads = shape
    span, largest, smallest = (420, 74, 14) if len(names) == 1 else (230, 32, 6)
    cell = int(np.clip(span / max(layers, heads), smallest, largest))
    grid = Grid(names=names, width=heads * cell, height=layers * cell, columns=columns, left=46, bottom=48)
    return replace(grid, right=scale.space(grid.area[1]))


def _trace(values: np.ndarray, array: xr.DataArray, lines: np.ndarray, *, gap: int) -> go.Heatmap:
    layers, heads = coordinate(array, "layer"), coordinate(array, "head")
    hover = [
        [
            f"{head_name((layer, head))}: {number(value)}{line}"
            for head, value, line in zip(heads, row, added, strict=True)
        ]
        for layer, row, added in zip(layers, values, lines, strict=True)
    ]
    trace = go.Heatmap(
        z=values,
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        coloraxis="coloraxis",
        xgap=gap,
        ygap=gap,
    )
    if values.size <= _ANNOTATED:
        trace.text = [["" if np.isnan(value) else f"{value:z.2f}" for value in row] for row in values]
        trace.texttemplate = "%{text}"
    return trace


def _axis(array: xr.DataArray, dim: str, pixels: int, spacing: int) -> dict[str, Any]:
    labels = coordinate(array, dim)
    ticks = thinned(labels, tick_step(len(labels), pixels, spacing=spacing))
    return {**ticks, "showgrid": False, "showline": False, "ticks": "", "tickangle": 0}
