"""Heat maps with one row a unit, such as a list: several side by side, on one colour scale."""

import html
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.colour import Scale
from mechlist.figures.conditions import in_order
from mechlist.figures.panels import Grid, grid_figure, thinned, tick_step
from mechlist.figures.style import MISSING, finish, plot_text
from mechlist.text import number, shortened

_DIMS = ("name", "row", "column")
_ROW = 12
"""Pixels of a row."""
_LETTER = 6.2
"""Pixels a letter of a row's label takes."""
_LONGEST = 26
"""Letters of a row's label that are shown."""


def row_maps(
    values: xr.DataArray,
    labels: Sequence[str],
    *,
    title: str,
    caption: str,
    unit: str,
    row_title: str,
    column_title: str,
    diverging: bool = False,
    limit: float | int | None = None,
    columns: int = 2,
    turned: bool = False,
) -> go.Figure:
    """One panel a name and one row a unit, from `values(name, row, column)`; first row on top, NaN grey.

    Args:
        values: the coordinate `name` titles the panels, `column` labels the columns.
        labels: one a row.
        title: names the quantity.
        caption: one sentence that says how to read it.
        unit: title of the colour bar.
        row_title: what the rows are.
        column_title: what runs along the columns.
        diverging: red below zero, blue above; else white at zero to blue.
        limit: far end of the colour scale; by default the largest value, or 1 if less and not diverging.
        columns: panels in a row.
        turned: write the label of every column, upwards, and no title below them.

    Raises:
        InputError: other dimensions, labels that are not one a row, or values below zero on a scale that starts there.
    """
    cells = matrix(values, _DIMS, "values")
    if len(labels) != cells.shape[1]:
        raise InputError(f"labels must be one for each of the {cells.shape[1]} rows, not {len(labels)}.")
    names, along = [str(name) for name in coordinate(values, "name")], coordinate(values, "column")
    order = in_order(names)
    names, cells = [names[i] for i in order], cells[order]
    texts = [plot_text(shortened(text, _LONGEST)) for text in labels]
    scale = Scale(unit=unit, diverging=diverging, limit=limit)
    below = [plot_text(shortened(str(place), _LONGEST)) for place in along]
    room = 16 + round(_LETTER * max(len(html.unescape(text)) for text in below)) if turned else 48
    grid = _grid(names, cells.shape[1:], texts, scale, columns, room)
    figure = grid_figure(grid)
    widest = max(len(str(place)) for place in along)
    ticks = thinned(along, tick_step(len(along), grid.width, spacing=max(24, round(_LETTER * widest) + 6)))
    for index, name in enumerate(names):
        row, column = grid.cell(index)
        figure.add_trace(
            _trace(cells[index], [f"{row_title} {label}" for label in labels], along, column_title), row=row, col=column
        )
        look = {"showgrid": False, "showline": False, "ticks": "", "tickangle": 0}
        bottom = {"title": plot_text(column_title)} if grid.is_bottom(index) else {}
        figure.update_xaxes({**ticks, **look, **bottom}, row=row, col=column)
        places = range(0, len(texts), tick_step(len(texts), grid.height, spacing=11))
        shown = {"tickvals": list(places), "ticktext": [texts[place] for place in places]}
        shown |= {"title": plot_text(row_title)} if grid.is_left(index) else {"showticklabels": False}
        figure.update_yaxes({**shown, **look, "tickfont": {"size": 10}}, row=row, col=column)
        figure.update_traces(name=plot_text(name), row=row, col=column)
    # Not square: a row is a list, and as high as its label.
    figure.update_yaxes(autorange="reversed", scaleanchor=False)
    figure.update_layout(coloraxis=scale.axis(list(cells), grid.area[1]), plot_bgcolor=MISSING)
    if turned:
        every = {"tickmode": "array", "tickvals": list(range(len(below))), "ticktext": below}
        figure.update_xaxes({**every, "tickangle": -90, "title": None})
    return finish(figure, title=title, caption=caption)


def _grid(
    names: list[str], shape: tuple[int, ...], texts: Sequence[str], scale: Scale, columns: int, bottom: int
) -> Grid:
    rows, along = shape
    left = 40 + round(_LETTER * max(len(html.unescape(text)) for text in texts))
    width = int(np.clip(340 / along, 10, 34)) * along
    grid = Grid(
        names=tuple(names),
        width=width,
        height=max(rows * _ROW, 60),
        columns=columns,
        left=left,
        bottom=bottom,
        gap_x=20,
    )
    return replace(grid, right=scale.space(grid.area[1]))


def _trace(cells: np.ndarray, labels: Sequence[str], along: Sequence[object], column_title: str) -> go.Heatmap:
    hover = [
        [plot_text(f"{label}, {column_title} {place}: {number(v)}") for place, v in zip(along, row, strict=True)]
        for label, row in zip(labels, cells, strict=True)
    ]
    return go.Heatmap(
        z=cells,
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )
