"""Heat maps of pairs of things of one kind, such as topics: the same labels downwards and to the right."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.colour import Scale
from mechlist.figures.marks import dots, frame
from mechlist.figures.panels import Grid, grid_figure
from mechlist.figures.style import MISSING, finish, plot_text
from mechlist.text import number

_LETTER = 6.4
"""Pixels a letter of a label takes."""


def pair_map(
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
    """One value a pair, from a square array of values of 0 and above; the first label on top and left, NaN grey.

    Args:
        values: rows and columns in the order of the labels.
        labels: of both axes.
        title: names the quantity.
        caption: one sentence that says how to read it.
        unit: title of the colour bar.
        limit: far end of the colour scale; by default 1, or the largest value if more.
        marked: pairs that get a dot; the caption should say which.
        note: text that the hover box adds to each pair.
    """
    cells = values.values.astype(np.float64)
    if cells.shape != (len(labels), len(labels)):
        raise InputError(f"values must be square, one row for each of the {len(labels)} labels, not {cells.shape}.")
    scale, size = Scale(unit=unit, limit=limit), int(np.clip(560 / max(1, len(labels)), 12, 36))
    room = 24 + round(_LETTER * max(map(len, labels)))
    side = len(labels) * size
    grid = Grid(names=("",), width=side, height=side, columns=1, left=room, bottom=room, right=scale.space(side))
    figure = grid_figure(grid)
    lines = np.full(cells.shape, "", dtype=object) if note is None else note.values
    hover = [
        [
            f"{plot_text(down)} and {plot_text(right)}: {number(value)}{f'<br>{plot_text(line)}' if line else ''}"
            for right, value, line in zip(labels, row, added, strict=True)
        ]
        for down, row, added in zip(labels, cells, lines, strict=True)
    ]
    look = {"colorscale": None, "coloraxis": "coloraxis", "hovertemplate": "%{customdata}<extra></extra>"}
    figure.add_trace(go.Heatmap(z=cells, customdata=hover, xgap=1, ygap=1, **look))
    if marked is not None and marked.values.any():
        figure.add_trace(dots(marked.values, size))
        across, down = frame(marked.values)
        figure.update_xaxes(across)
        figure.update_yaxes(down)
    ticks = {"tickvals": list(range(len(labels))), "ticktext": [plot_text(label) for label in labels]}
    bare = {"showgrid": False, "showline": False, "ticks": ""}
    figure.update_xaxes(**ticks, **bare, tickangle=-60)
    figure.update_yaxes(**ticks, **bare, autorange="reversed")
    figure.update_layout(coloraxis=scale.axis([cells], grid.area[1]), plot_bgcolor=MISSING)
    return finish(figure, title=title, caption=caption)
