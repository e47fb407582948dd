"""Curves and bars over a numbered axis, each value with its confidence interval."""

from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.conditions import Look, in_order, looks
from mechlist.figures.style import INK, finish, plot_text
from mechlist.text import number, with_ends

_DIMS = ("series", "x")
FAR = 4
"""Times as far from 0 as all others is a value that is cut off, so that the others can be seen."""
MOST_CUT = 2
"""Values along x that are."""
_SPREAD = 0.16
"""Share of the narrowest step along x over which error bars of several series stand apart."""


def interval_lines(
    values: xr.DataArray,
    *,
    low: xr.DataArray,
    high: xr.DataArray,
    title: str,
    caption: str,
    x_title: str,
    y_title: str,
    shape: Literal["line", "step"] = "line",
    note: xr.DataArray | None = None,
    clip: bool = False,
) -> go.Figure:
    """One curve a series, from `values(series, x)`: a line with error bars, or a step curve inside a band.

    A step curve keeps its value from one x to the next, as a survival curve does. NaN ends a curve; an interval with a
    NaN end is not drawn.

    Args:
        values: dimensions (series, x) in either order; x is the coordinate, which must be numbers, or 0, 1, 2, ...
        low: lower ends of the intervals, shaped like `values`.
        high: upper ends of the intervals, shaped like `values`.
        title: names the quantity.
        caption: one sentence that says how to read it, and what the intervals are.
        x_title: what runs along x, with its unit.
        y_title: what the values are, with their unit.
        shape: line or step.
        note: text that the hover box adds to each value, such as the number of units behind it.
        clip: cut off one or two places along x that would flatten all others; the caption says which, and their values.

    Raises:
        InputError: other dimensions, or intervals of another shape than the values.
    """
    arrays = _arrays(values, low, high)
    x = np.asarray(coordinate(values, "x"), dtype=float)
    series = _series(values, arrays, note, x)
    figure = go.Figure()
    for index, (name, look, curve) in enumerate(series):
        if shape == "step":
            # Bands of many series lie upon each other, and must let the lines show.
            figure.add_traces(
                [*_band(curve, look.colour, min(0.16, 0.36 / len(series))), _line(curve, name, look, step=True)]
            )
        else:
            figure.add_trace(_line(_beside(curve, index, len(series)), name, look, step=False))
    told = np.concatenate([curve["x"] for _, _, curve in series])
    figure = _laid_out(figure, told, x_title, y_title, len(series))
    if clip:
        caption += _clipped(figure, series, arrays, dict(zip(x.tolist(), _numbers(x), strict=True)))
    return finish(figure, title=title, caption=caption)


def interval_bars(
    values: xr.DataArray,
    *,
    low: xr.DataArray,
    high: xr.DataArray,
    title: str,
    caption: str,
    x_title: str,
    y_title: str,
    note: xr.DataArray | None = None,
    clip: bool = False,
) -> go.Figure:
    """One group of bars at each x, from `values(series, x)`: a distribution with intervals.

    Args and errors are those of `interval_lines`; x may be labels here.
    """
    arrays, labels = _arrays(values, low, high), coordinate(values, "x")
    x = np.arange(len(labels), dtype=float)
    series = _series(values, arrays, note, x)
    figure = go.Figure()
    for name, look, curve in series:
        marker = {"color": look.colour, "pattern": {"shape": look.pattern}}
        bars = go.Bar(x=curve["x"], y=curve["y"], name=plot_text(name), marker=marker)
        bars.update(customdata=curve["hover"], hovertemplate="%{customdata}", error_y=_error(curve, INK))
        figure.add_trace(bars)
    figure = _laid_out(figure, x, x_title, y_title, len(series))
    figure.update_layout(barmode="group", bargap=0.2, hovermode="closest", width=None)
    names = [plot_text(str(label)) for label in labels]
    # Else plotly leaves out a slanted label that reaches beyond the axis.
    figure.update_xaxes(tickvals=x, ticktext=names, ticks="", ticklabeloverflow="allow")
    if clip:
        caption += _clipped(figure, series, arrays, dict(zip(x.tolist(), map(str, labels), strict=True)))
    return finish(figure, title=title, caption=caption)


def _clipped(
    figure: go.Figure, series: list[tuple[str, Look, dict[str, Any]]], arrays: list[np.ndarray], names: dict[float, str]
) -> str:
    """Give the y axis the room of all but the few places that would flatten them; says which, with their values."""
    sizes = np.nan_to_num(np.abs(arrays[0])).max(0)
    order = np.argsort(-sizes, kind="stable")
    far = [n for n in range(1, min(MOST_CUT, len(sizes) - 2) + 1) if sizes[order[n - 1]] > FAR * sizes[order[n]] > 0]
    if not far:
        return ""
    cut, kept = order[: far[-1]], np.concatenate([array[:, order[far[-1] :]].ravel() for array in arrays])
    low, high = min(0.0, float(np.nanmin(kept))), max(0.0, float(np.nanmax(kept)))
    room = 0.12 * (high - low)
    figure.update_yaxes(range=[low - room, high + room])
    # Lines may leave the plot otherwise.
    figure.update_traces(cliponaxis=True, selector={"type": "scatter"})
    places = np.array(list(names))[np.sort(cut)]
    values = [
        f"{names[place]}: "
        + ", ".join(
            number(float(curve["y"][at])) + (f" ({name})" if len(series) > 1 else "")
            for name, _, curve in series
            for at in np.flatnonzero(curve["x"] == place)
        )
        for place in places.tolist()
    ]
    return f" Cut off, so that the rest can be seen: {'; '.join(values)}."


def _numbers(x: np.ndarray) -> list[str]:
    return [f"{value:g}" for value in x.tolist()]


def _series(
    values: xr.DataArray, arrays: list[np.ndarray], note: xr.DataArray | None, x: np.ndarray
) -> list[tuple[str, Look, dict[str, Any]]]:
    """Name, look and curve of each series, in the order of their conditions."""
    names, notes = [str(name) for name in coordinate(values, "series")], _notes(note, arrays[0].shape)
    drawn = looks(names)
    heights, low, high = arrays
    return [(names[i], drawn[i], _curve(heights[i], low[i], high[i], notes[i], x)) for i in in_order(names)]


def _arrays(values: xr.DataArray, low: xr.DataArray, high: xr.DataArray) -> list[np.ndarray]:
    arrays = [matrix(array, _DIMS, name) for array, name in ((values, "values"), (low, "low"), (high, "high"))]
    if any(array.shape != arrays[0].shape for array in arrays):
        raise InputError(
            f"low and high must have the shape of values, {arrays[0].shape}; received {arrays[1].shape} and "
            f"{arrays[2].shape}."
        )
    return arrays


def _notes(note: xr.DataArray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, "", dtype=object) if note is None else note.transpose(*_DIMS).values


def _curve(y: np.ndarray, low: np.ndarray, high: np.ndarray, notes: np.ndarray, x: np.ndarray) -> dict[str, Any]:
    """What is known of a series, with the hover text of each point."""
    kept = np.isfinite(y)
    hover = [
        with_ends(float(value), float(a), float(b)) + (f"<br>{plot_text(str(text))}" if str(text) else "")
        for value, a, b, text in zip(y[kept], low[kept], high[kept], notes[kept], strict=True)
    ]
    return {"x": x[kept], "y": y[kept], "low": low[kept], "high": high[kept], "hover": hover}


def _beside(curve: dict[str, Any], index: int, count: int) -> dict[str, Any]:
    """The curve a little to the side, so that error bars of several series do not hide each other."""
    step = float(np.diff(np.unique(curve["x"])).min()) if len(curve["x"]) > 1 else 1.0
    shift = _SPREAD * step * ((index + 0.5) / count - 0.5)
    return curve | {"x": curve["x"] + shift}


def _line(curve: dict[str, Any], name: str, look: Look, *, step: bool) -> go.Scatter:
    points = len(curve["x"]) <= 40
    trace = go.Scatter(x=curve["x"], y=curve["y"], name=plot_text(name), mode="lines+markers" if points else "lines")
    line = {"color": look.colour, "dash": look.dash, "width": 1.8, "shape": "hv" if step else "linear"}
    trace.update(line=line, marker={"size": 6, "symbol": look.symbol})
    trace.update(customdata=curve["hover"], hovertemplate="%{customdata}", cliponaxis=False)
    if not step:
        trace.update(error_y=_error(curve, look.colour))
    return trace


def _error(curve: dict[str, Any], colour: str) -> dict[str, Any]:
    ends = {"array": curve["high"] - curve["y"], "arrayminus": curve["y"] - curve["low"]}
    return {**ends, "thickness": 1.2, "width": 3, "color": colour}


def _band(curve: dict[str, Any], colour: str, opacity: float) -> list[go.Scatter]:
    """The interval of a step curve, as the area between two invisible ones."""
    told = np.isfinite(curve["low"]) & np.isfinite(curve["high"])
    if told.sum() < 2:
        return []
    look: dict[str, Any] = {"mode": "lines", "showlegend": False, "hoverinfo": "skip"}
    edge = {"width": 0, "shape": "hv", "color": colour}
    below = go.Scatter(x=curve["x"][told], y=curve["low"][told], line=edge, **look)
    above = go.Scatter(x=curve["x"][told], y=curve["high"][told], line=edge, fill="tonexty", **look)
    above.update(fillcolor=f"rgba({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))}, {opacity:.2f})")
    return [below, above]


def _laid_out(figure: go.Figure, x: np.ndarray, x_title: str, y_title: str, series: int) -> go.Figure:
    figure.update_layout(height=400, hovermode="x", showlegend=series > 1, meta={"min_width": 320})
    figure.update_layout(legend_traceorder="normal")  # a filled area would turn it round
    whole = bool(np.all(x == np.round(x)))
    figure.update_xaxes(title=plot_text(x_title), tickformat="d" if whole else None)
    if whole and len(x) and np.ptp(x) <= 24:
        figure.update_xaxes(tickvals=np.unique(x))  # not beyond the data, where error bars beside each other reach
    figure.update_yaxes(title=plot_text(y_title), rangemode="tozero")
    return figure
