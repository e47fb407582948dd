"""Two measures of the same things against each other, with the line on which they are equal."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mechlist.errors import InputError
from mechlist.figures.style import finish, plot_text
from mechlist.text import number

SIZE = 420
"""Pixels of either axis."""


def agreement(
    x: Sequence[float],
    y: Sequence[float],
    names: Sequence[str],
    *,
    title: str,
    caption: str,
    x_title: str,
    y_title: str,
) -> go.Figure:
    """Points (x, y) on axes of one scale, with the diagonal.

    Args:
        x: one measure.
        y: the other.
        names: of the points.
        title: names the quantity.
        caption: one sentence that says how to read it.
        x_title: of the horizontal axis, with the unit.
        y_title: of the vertical axis, with the unit.
    """
    if not len(x) == len(y) == len(names) > 0:
        raise InputError(f"There must be one name for each point, and one point at least, not {len(names)}.")
    low, high = float(np.min([x, y])), float(np.max([x, y]))
    room = 0.08 * ((high - low) or 1.0)
    ends = [min(low, 0.0) - room, max(high, 0.0) + room]
    figure = go.Figure()
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line={"width": 1, "color": "#b8bec9"}, hoverinfo="skip"))
    hover = [f"{plot_text(n)}<br>{number(a)} against {number(b)}" for n, a, b in zip(names, x, y, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=list(x),
            y=list(y),
            mode="markers",
            marker={"size": 8, "color": "#2f6db5", "line": {"width": 1, "color": "white"}},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(title=plot_text(x_title), range=ends)
    figure.update_yaxes(title=plot_text(y_title), range=ends)
    figure.update_layout(width=SIZE + 90, height=SIZE + 70, showlegend=False)
    return finish(figure, title=title, caption=caption)
