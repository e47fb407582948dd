"""Heat maps of layers and positions, with the tokens under the columns."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.colour import Scale
from mechlist.figures.marks import dots, frame, marked_cells, notes
from mechlist.figures.panels import Grid, grid_figure, thinned, tick_step
from mechlist.figures.style import MISSING, finish
from mechlist.text import number

_DIMS = ("layer", "position")
LABEL_HEIGHT = 5.4
"""Pixels that a character of a slanted label takes below the axis."""


def position_heatmap(
    values: xr.DataArray,
    labels: Sequence[str],
    *,
    title: str,
    caption: str,
    unit: str,
    limit: float | int | None = None,
    marked: xr.DataArray | None = None,
    note: xr.DataArray | None = None,
) -> go.Figure:
    """One value a layer and position, red below zero and blue above; layer 0 on top, NaN grey.

    Args:
        values: dimensions (layer, position) in either order.
        labels: one a position, such as `token_labels` makes.
        title: names the quantity.
        caption: one sentence that says how to read it.
        unit: title of the colour bar.
        limit: far end of the colour scale; by default the largest value.
        marked: cells that get a dot, such as those that survive a test; the caption should say which.
        note: text that the hover box adds to each cell, such as its p value.
    """
    grid_values = matrix(values, _DIMS, "values")
    layers, positions = grid_values.shape
    if len(labels) != positions:
        raise InputError(f"labels must be one for each of the {positions} positions, not {len(labels)}.")
    scale = Scale(unit=unit, diverging=True, limit=limit)
    width, height = int(np.clip(900 / positions, 14, 44)), int(np.clip(420 / layers, 16, 36))
    bottom = int(30 + LABEL_HEIGHT * max(map(len, labels), default=0))
    grid = Grid(names=("",), width=positions * width, height=layers * height, columns=1, left=46, bottom=bottom)
    grid = replace(grid, right=scale.space(grid.area[1]))
    figure = grid_figure(grid)
    names, cells = coordinate(values, "layer"), marked_cells(marked, values, _DIMS)
    hover = [
        [f"layer {n}, {label}: {number(v)}{line}" for label, v, line in zip(labels, row, added, strict=True)]
        for n, row, added in zip(names, grid_values, notes(note, values, _DIMS), strict=True)
    ]
    figure.add_trace(
        go.Heatmap(
            z=grid_values,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(
        tickvals=list(range(positions)), ticktext=list(labels), tickangle=-60, showgrid=False, showline=False, ticks=""
    )
    ticks = thinned(names, tick_step(layers, layers * height, spacing=16))
    figure.update_yaxes(**ticks, title="layer", autorange="reversed", showgrid=False, showline=False, ticks="")
    if cells is not None and cells.any():
        figure.add_trace(dots(cells, min(width, height), corner=False))
        across, down = frame(cells)
        figure.update_xaxes(across)
        figure.update_yaxes(down)
    # Not square: there are many more positions than layers.
    figure.update_yaxes(scaleanchor=False)
    figure.update_layout(coloraxis=scale.axis([grid_values], grid.area[1]), plot_bgcolor=MISSING)
    return finish(figure, title=title, caption=caption)
