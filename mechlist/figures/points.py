"""Points with their names beside them, in panels of their own scales."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.style import INK, SERIES, finish, plot_text

_PANEL = 420
"""Pixels of a panel's sides."""
_LONGEST = 14
"""Letters of a name that stand beside its point; the hover box has all."""


def named_points(
    values: xr.DataArray,
    names: Sequence[str],
    *,
    title: str,
    caption: str,
    panels: Sequence[str],
    axes: Sequence[tuple[str, str]],
    columns: int = 2,
) -> go.Figure:
    """Points of `values(panel, point, axis)`, with a number that says in which order they come.

    Args:
        values: dimensions (panel, point, axis); the axis has two entries.
        names: of the points, as plain text.
        title: names what the points are.
        caption: one sentence that says what to look for.
        panels: titles of the panels.
        axes: titles of both axes of each panel.
        columns: panels in a row.

    Raises:
        InputError: other dimensions, or names, titles and axes that are not one for each.
    """
    cells = matrix(values, ("panel", "point", "axis"), "values")
    if cells.shape[2] != 2 or len(names) != cells.shape[1] or not len(panels) == len(axes) == len(cells):
        raise InputError(
            f"names must be one for each of the {cells.shape[1]} points, panels and axes one for each of the "
            f"{len(cells)} panels, and the axis must have two entries; received {len(names)}, {len(panels)}, "
            f"{len(axes)} and {cells.shape[2]}."
        )
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    titles = [plot_text(panel) for panel in panels]
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=titles, vertical_spacing=0.16 / rows, horizontal_spacing=0.2 / columns
    )
    shown = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    place = coordinate(values, "point")
    for number, panel in enumerate(cells):
        hover = [f"{plot_text(name)} (position {at})" for name, at in zip(names, place, strict=True)]
        points = go.Scatter(
            x=panel[:, 0],
            y=panel[:, 1],
            mode="markers+text",
            text=[plot_text(text) for text in shown],
            textposition="top center",
            textfont={"size": 9, "color": INK},
            marker={"size": 7, "color": np.arange(len(panel)), "colorscale": [(0, "#aad8eb"), (1, SERIES[0])]},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            cliponaxis=False,
        )
        row, column = number // columns + 1, number % columns + 1
        figure.add_trace(points, row=row, col=column)
        figure.update_xaxes(title=plot_text(axes[number][0]), zeroline=True, row=row, col=column)
        figure.update_yaxes(title=plot_text(axes[number][1]), zeroline=True, row=row, col=column)
    figure.update_layout(
        width=columns * _PANEL + 120,
        height=rows * _PANEL + 110,
        showlegend=False,
        hovermode="closest",
        meta={"min_width": min(columns, 1) * _PANEL + 120},
    )
    return finish(figure, title=title, caption=caption)
