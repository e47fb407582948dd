"""One row a category: values with intervals, or how many units lie where."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.conditions import in_order, looks
from mechlist.figures.style import GRID, INK, MUTED, SERIES, finish, plot_text
from mechlist.text import number, number_of, shortened, with_ends

_ROW = 24
"""Pixels of a row."""
_LARGEST = 20
"""Pixels across the largest bubble."""
_LETTER = 6.7
"""Pixels a letter of a row's label takes."""
_LONGEST = 48
"""Letters of a row's label that are shown."""


def interval_rows(
    values: xr.DataArray,
    *,
    low: xr.DataArray,
    high: xr.DataArray,
    title: str,
    caption: str,
    x_title: str,
    note: xr.DataArray | None = None,
    mean: float | None = None,
) -> go.Figure:
    """One point with its interval a row, from `values(category)`, first category on top.

    Args:
        values: dimension (category); its coordinate labels the rows. A row that is NaN stays empty.
        low: lower ends of the intervals, shaped like `values`; NaN where there is none.
        high: upper ends of the intervals, shaped like `values`.
        title: names the quantity.
        caption: one sentence that says how to read it, and what the intervals are.
        x_title: what the values are, with their unit.
        note: text that the hover box adds to each value.
        mean: where a dotted line goes, for the value over all categories.

    Raises:
        InputError: other dimensions, or intervals of another shape than the values.
    """
    x, bottom, top = (matrix(a, ("category",), name) for a, name in ((values, "values"), (low, "low"), (high, "high")))
    if bottom.shape != x.shape or top.shape != x.shape:
        raise InputError(
            f"low and high must have the shape of values, {x.shape}; received {bottom.shape}, {top.shape}."
        )
    names = [str(name) for name in coordinate(values, "category")]
    notes = [""] * len(names) if note is None else [str(text) for text in note.values]
    order = in_order(names)
    x, bottom, top = x[order], bottom[order], top[order]
    names, notes = [names[i] for i in order], [notes[i] for i in order]
    hover = [_hover(*row) for row in zip(names, x, bottom, top, notes, strict=True)]
    figure, drawn = go.Figure(), looks(names, other=SERIES[0])
    for look in dict.fromkeys(drawn):
        chosen = np.flatnonzero([one == look for one in drawn])
        marker = {"size": 8, "color": look.colour, "symbol": look.symbol}
        points = go.Scatter(x=x[chosen], y=chosen, mode="markers", marker=marker)
        ends = {"array": (top - x)[chosen], "arrayminus": (x - bottom)[chosen], "type": "data", "symmetric": False}
        points.update(error_x={**ends, "thickness": 1.4, "width": 3, "color": look.colour})
        points.update(customdata=[hover[i] for i in chosen], hovertemplate="%{customdata}<extra></extra>")
        figure.add_trace(points.update(cliponaxis=False))
    figure = _rows(figure, names, x_title)
    if mean is not None and np.isfinite(mean):
        line = {"color": MUTED, "width": 1.2, "dash": "dot"}
        figure.add_shape(type="line", x0=mean, x1=mean, y0=0, y1=1, yref="paper", line=line, layer="below")
        text = {"text": f"all {number(mean)}", "font": {"size": 11, "color": MUTED}, "showarrow": False}
        figure.add_annotation(x=mean, y=1, yref="paper", yanchor="bottom", **text)
    return finish(figure, title=title, caption=caption)


def bubble_rows(
    counts: xr.DataArray,
    *,
    title: str,
    caption: str,
    x_title: str,
    unit: str,
    median: xr.DataArray,
    low: xr.DataArray,
    high: xr.DataArray,
) -> go.Figure:
    """How many units lie at each x, a row a category, from `counts(category, series, x)`, first category on top.

    A bubble's area is the count. The first series is filled; the others are open and lie upon it, for units of which x
    is a lower bound. A bar marks the median, where there is one, and a thin line its interval.

    Args:
        counts: dimensions (category, series, x); coordinates label them.
        title: names the quantity.
        caption: one sentence that says how to read it, and what the intervals are.
        x_title: what x is, with its unit.
        unit: what is counted, in the plural.
        median: of each category, by the dimension (category); NaN or infinite where there is none.
        low: lower ends of the medians' intervals.
        high: upper ends; infinite ones end at the largest x.

    Raises:
        InputError: other dimensions.
    """
    cells = matrix(counts, ("category", "series", "x"), "counts")
    names, series = ([str(name) for name in coordinate(counts, dim)] for dim in ("category", "series"))
    order = in_order(names)
    cells, names = cells[order], [names[i] for i in order]
    median, low, high = (ends.isel(category=order) for ends in (median, low, high))
    x = np.asarray(coordinate(counts, "x"), dtype=float)
    figure, drawn = go.Figure(), looks(series)
    largest = max(float(cells.max()), 1.0)
    for index, name in enumerate(series):
        row, place = np.nonzero(cells[:, index])
        if not len(row):
            continue
        held = cells[row, index, place]
        sizes = np.maximum(_LARGEST * np.sqrt(held / largest), 4)
        colour = drawn[index].colour
        marker = {"size": sizes, "color": colour, "opacity": 1 if index else 0.55, "line": {"width": 0}}
        if index:
            marker |= {"symbol": "circle-open", "line": {"width": 1.6, "color": colour}}
        hover = [
            f"{plot_text(names[r])}<br>{number_of(h, unit)} at {x[p]:g}"
            for r, p, h in zip(row, place, held, strict=True)
        ]
        trace = go.Scatter(x=x[place], y=row, mode="markers", marker=marker, name=plot_text(name))
        trace.update(customdata=hover, hovertemplate="%{customdata}<extra></extra>", cliponaxis=False)
        figure.add_trace(trace)
    figure.add_trace(_medians(median, low, high, float(x.max())))
    figure = _rows(figure, names, x_title)
    figure.update_xaxes(range=[min(0.0, float(x.min())) - 0.5, float(x.max()) + 0.5], tickformat="d")
    if np.ptp(x) <= 14:
        figure.update_xaxes(dtick=1)
    figure.update_layout(showlegend=True, legend={"itemsizing": "constant"})
    return finish(figure, title=title, caption=caption)


def _medians(median: xr.DataArray, low: xr.DataArray, high: xr.DataArray, end: float) -> go.Scatter:
    x, bottom, top = (matrix(a, ("category",), n) for a, n in ((median, "median"), (low, "low"), (high, "high")))
    shown = np.isfinite(x)
    row = np.flatnonzero(shown)
    marker = {"symbol": "line-ns", "size": 14, "line": {"width": 2.4, "color": INK}}
    trace = go.Scatter(x=x[shown], y=row, mode="markers", marker=marker, name="median")
    ends = {"array": np.minimum(top[shown], end) - x[shown], "arrayminus": x[shown] - bottom[shown]}
    trace.update(error_x={**ends, "type": "data", "symmetric": False, "thickness": 1.2, "width": 0, "color": INK})
    texts = [
        _hover("median", float(value), float(a), float(b), "")
        for value, a, b in zip(x[shown], bottom[shown], top[shown], strict=True)
    ]
    trace.update(customdata=texts, hovertemplate="%{customdata}<extra></extra>", cliponaxis=False)
    return trace


def _hover(name: str, value: float, low: float, high: float, note: str) -> str:
    return f"{plot_text(name)}: {with_ends(value, low, high)}" + (f"<br>{plot_text(note)}" if note else "")


def _rows(figure: go.Figure, names: list[str], x_title: str) -> go.Figure:
    """Labels of the rows, and the figure's height from their number."""
    left = 24 + round(_LETTER * min(max(len(name) for name in names), _LONGEST))
    texts = [plot_text(shortened(name, _LONGEST)) for name in names]
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=texts, range=[len(names) - 0.4, -0.6], gridcolor=GRID, ticks="",
        showline=False,
    )  # fmt: skip
    figure.update_xaxes(title=plot_text(x_title), showgrid=True, gridcolor=GRID)
    height = _ROW * len(names) + 140
    figure.update_layout(height=height, margin_l=left, showlegend=False, meta={"min_width": 320 + left})
    return figure
