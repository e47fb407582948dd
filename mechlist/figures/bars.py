"""Grouped bars with their values printed, intervals, and dotted reference lines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.basedatatypes import BasePlotlyType

from mechlist.errors import InputError
from mechlist.figures.checks import coordinate, matrix
from mechlist.figures.conditions import Look, in_order, looks
from mechlist.figures.style import INK, MUTED, finish, plot_text
from mechlist.text import number, with_ends

_DIMS = ("category", "series")
_NO_LINES: Mapping[str, float | int] = {}
_PLOT_HEIGHT = 280
"""Pixels between the x axis and the top of the plot."""
_GAP = 3
"""Pixels between a bar, or its interval, and its printed value."""
_GROUP = 0.8
"""Share of a category's width that its bars fill."""


def grouped_bars(
    values: xr.DataArray,
    *,
    title: str,
    caption: str,
    y_title: str,
    reference: Mapping[str, float | int] = _NO_LINES,
    low: xr.DataArray | None = None,
    high: xr.DataArray | None = None,
) -> go.Figure:
    """One group a category and one bar a series, from `values(category, series)` or `values(category)`.

    Args:
        values: dimensions (category, series) in either order, or (category); coordinates label both.
        title: names the quantity.
        caption: one sentence that says how to read it, and what the intervals are.
        y_title: what the values are, with their unit.
        reference: label to height of a dotted line, for example a ceiling.
        low: lower ends of intervals, shaped like `values`; with `high`, or not at all.
        high: upper ends of intervals, shaped like `values`.

    Raises:
        InputError: other dimensions, or one end of the intervals without the other.
    """
    values = _with_series(values)
    heights = matrix(values, _DIMS, "values")
    bottom, top = _ends(heights, low, high)
    labels = {dim: [str(name) for name in coordinate(values, dim)] for dim in _DIMS}
    categories, series = (in_order(labels[dim]) for dim in _DIMS)
    heights, bottom, top = (ends[np.ix_(categories, series)] for ends in (heights, bottom, top))
    drawn = looks(labels["series"])
    span = _range([bottom, top, heights, np.array([0.0, *reference.values()])])
    unit = _PLOT_HEIGHT / (span[1] - span[0])
    figure = go.Figure()
    for index, of in enumerate(series):
        columns = (array[:, index] for array in (heights, bottom, top))
        bars = _Bars(*columns, gap=_GAP / unit, largest=float(np.nanmax(np.abs(heights), initial=0.0)))
        place = (index + 0.5) / len(series) - 0.5
        figure.add_traces(bars.traces(plot_text(labels["series"][of]), drawn[of], place, 0.9 / len(series)))
    _lay_out(figure, [labels["category"][of] for of in categories], len(series), y_title)
    figure.update_yaxes(range=span)
    _add_reference(figure, reference, unit)
    return finish(figure, title=title, caption=caption)


def _ends(heights: np.ndarray, low: xr.DataArray | None, high: xr.DataArray | None) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the intervals; the heights themselves where there are none."""
    if low is None and high is None:
        return heights, heights
    if low is None or high is None:
        raise InputError("low and high must be given together; received only one of them.")
    bottom, top = matrix(_with_series(low), _DIMS, "low"), matrix(_with_series(high), _DIMS, "high")
    if bottom.shape != heights.shape or top.shape != heights.shape:
        raise InputError(
            f"low and high must have the shape of values, {heights.shape}; received {bottom.shape} and {top.shape}."
        )
    return bottom, top


def _with_series(values: xr.DataArray) -> xr.DataArray:
    return values.expand_dims({"series": [""]}) if values.dims == ("category",) else values


@dataclass(frozen=True)
class _Bars:
    """The bars of one series."""

    heights: np.ndarray
    bottom: np.ndarray
    top: np.ndarray
    gap: float
    """From a bar to its printed value, in the unit of the values."""
    largest: float
    """Height in the figure."""

    def traces(self, name: str, look: Look, place: float, width: float) -> list[BasePlotlyType]:
        """Bars and their printed values; place and width are shares of a group's width."""
        x = np.arange(len(self.heights)) + _GROUP * place
        hover = [self._hover(index) for index in range(len(x))]
        marker = {"color": look.colour, "pattern": {"shape": look.pattern}}
        bars = go.Bar(x=x, y=self.heights, width=_GROUP * width, name=name, marker=marker, customdata=hover)
        bars.hovertemplate = "%{customdata}"
        if not np.array_equal(self.bottom, self.top, equal_nan=True):
            ends = {"array": self.top - self.heights, "arrayminus": self.heights - self.bottom}
            bars.error_y = {**ends, "thickness": 1.2, "width": 3, "color": INK}
        return [bars, self._printed(x)]

    def _printed(self, x: np.ndarray) -> go.Scatter:
        below = self.heights < 0
        above = np.nan_to_num(np.fmax(self.top, self.heights)) + self.gap
        return go.Scatter(
            x=x,
            y=np.where(below, np.fmin(self.bottom, self.heights) - self.gap, above),
            mode="text",
            text=[self._text(float(height)) for height in self.heights],
            textposition=["bottom center" if low else "top center" for low in below],
            textfont={"size": 11, "color": INK, "shadow": "0 0 2px white, 0 0 2px white, 0 0 3px white"},
            showlegend=False,
            hoverinfo="skip",
            cliponaxis=False,
        )

    def _text(self, height: float) -> str:
        """Beside a tall bar, three decimals are enough for a short one; the hover text has all digits."""
        if np.isnan(height):
            return "n/a"
        return f"{height:z.3f}" if 0.01 <= self.largest < 1e3 else number(height)

    def _hover(self, index: int) -> str:
        height, low, high = (float(ends[index]) for ends in (self.heights, self.bottom, self.top))
        return with_ends(height, low, high) if low < high else number(height)


def _lay_out(figure: go.Figure, categories: list[str], series: int, y_title: str) -> None:
    ticks = {"tickvals": list(range(len(categories))), "ticktext": [plot_text(name) for name in categories]}
    figure.update_xaxes(**ticks, ticks="", showline=False, range=[-0.5, len(categories) - 0.5])
    figure.update_yaxes(title=plot_text(y_title), zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    # A printed value takes about 40 pixels; narrower, a page scrolls the figure instead.
    bars = len(categories) * series
    least = max(320, 110 + 42 * bars)
    figure.update_layout(
        height=_PLOT_HEIGHT + 128,
        barmode="overlay",
        showlegend=series > 1,
        width=max(least, min(900, max(480, 160 + 70 * bars))),
        meta={"min_width": least},
    )


def _range(arrays: list[np.ndarray]) -> tuple[float, float]:
    """Lowest and highest y, with room for a printed value at both ends where bars go there."""
    every = np.concatenate([array[np.isfinite(array)] for array in arrays])
    low, high = float(every.min()), float(every.max())
    room = 0.1 * (high - low or 1.0)
    return (low - room if low < 0 else 0.0), (high + room if high > 0 else room / 2)


def _add_reference(figure: go.Figure, reference: Mapping[str, float | int], pixels_per_unit: float) -> None:
    """Dotted lines with their labels in the right margin, pushed apart where they would touch."""
    if not reference:
        return
    labels = {plot_text(f"{label} {number(height)}"): height for label, height in reference.items()}
    previous = -np.inf
    for label, height in sorted(labels.items(), key=lambda item: item[1]):
        pixel = max(height * pixels_per_unit, previous + 15)
        previous = pixel
        figure.add_shape(_line(height))
        figure.add_annotation(_label(label, height, shift=pixel - height * pixels_per_unit))
    figure.update_layout(margin_r=16 + round(6.5 * max(map(len, labels))))


def _line(height: float) -> dict[str, Any]:
    line = {"color": MUTED, "width": 1.2, "dash": "dot"}
    return {
        "type": "line",
        "x0": 0,
        "x1": 1,
        "xref": "paper",
        "y0": height,
        "y1": height,
        "line": line,
        "layer": "below",
    }


def _label(text: str, height: float, *, shift: float) -> dict[str, Any]:
    where = {
        "x": 1,
        "xref": "paper",
        "xanchor": "left",
        "xshift": 6,
        "y": height,
        "yanchor": "middle",
        "yshift": shift,
    }
    return {"text": text, "showarrow": False, "font": {"size": 11, "color": MUTED}, **where}
