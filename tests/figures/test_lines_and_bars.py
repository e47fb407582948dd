from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist import figures
from mechlist.errors import InputError

# As Any: plotly's layout and traces have no usable types.
grouped_bars: Any = figures.grouped_bars
position_lines: Any = figures.position_lines

LINE: dict[str, Any] = {
    "title": "Loss",
    "caption": "It falls.",
    "x_title": "position (tokens)",
    "y_title": "loss (nats)",
}
BAR: dict[str, Any] = {"title": "Accuracy", "caption": "It rises.", "y_title": "share of tokens"}


def bars() -> xr.DataArray:
    coords = {"category": ["first", "second", "<b>"], "series": ["gpt2", "tiny"]}
    return xr.DataArray([[0.02, 0.1], [0.94, np.nan], [-0.5, 0.3]], dims=("category", "series"), coords=coords)


def test_lines_run_over_the_coordinate():
    loss = xr.DataArray([3.0, np.nan, 1.0], dims="position", coords={"position": [10, 11, 12]})
    figure = position_lines({"a<b>": loss, "b": loss + 1}, **LINE)
    assert tuple(figure.data[0].x) == (10, 11, 12)
    np.testing.assert_array_equal(figure.data[1].y, [4, np.nan, 2])
    assert figure.data[0].name == "a&lt;b&gt;"
    assert figure.layout.xaxis.title.text == "position (tokens)"
    assert figure.layout.meta["caption"] == "It falls."


def test_marks_are_labelled_and_close_ones_staggered():
    loss = xr.DataArray(np.zeros(101), dims="position")
    figure = position_lines({"a": loss}, **LINE, marks={"second block": 51, "start": 1, "near": 53})
    assert [shape.x0 for shape in figure.layout.shapes] == [1, 51, 53]
    assert [note.text for note in figure.layout.annotations] == ["start", "second block", "near"]
    assert [note.yshift for note in figure.layout.annotations] == [0, 0, -16]


def test_a_single_position_is_a_line_too():
    figure = position_lines({"a": xr.DataArray([1.0], dims="position")}, **LINE, marks={"here": 0})
    assert figure.data[0].mode == "lines+markers"


def test_lines_refuse_what_is_not_a_line():
    with pytest.raises(InputError, match=r"at least one line"):
        position_lines({}, **LINE)
    with pytest.raises(InputError, match=r"values\['a'\] must have the dimensions \(position\); received \(x, y\)"):
        position_lines({"a": xr.DataArray([[1.0]], dims=("x", "y"))}, **LINE)


def test_bars_stand_at_their_category_with_their_value_printed():
    figure = grouped_bars(bars(), **BAR, reference={"ceiling": 0.95})
    gpt2, printed = figure.data[0], figure.data[1]
    np.testing.assert_array_equal(gpt2.y, [0.02, 0.94, -0.5])
    np.testing.assert_array_equal(np.round(gpt2.x), [0, 1, 2])
    assert printed.text == ("0.020", "0.940", "-0.500")
    assert printed.textposition == ("top center", "top center", "bottom center")
    assert figure.data[3].text[1] == "n/a"
    assert figure.layout.xaxis.ticktext == ("first", "second", "&lt;b&gt;")
    assert figure.layout.shapes[0].y0 == 0.95
    assert figure.layout.annotations[0].text == "ceiling 0.950"


def test_small_values_beside_large_ones_are_printed_short_and_never_as_minus_zero():
    values = xr.DataArray([[0.5, -3e-5], [0.2, 0.0004]], dims=("category", "series"))
    assert grouped_bars(values, **BAR).data[3].text == ("0.000", "0.000")
    assert grouped_bars(values[:, 1:], **BAR).data[1].text == ("-3e-05", "0.0004")


def test_intervals_are_drawn_around_the_bars():
    figure = grouped_bars(bars(), **BAR, low=bars() - 0.1, high=bars() + 0.2)
    np.testing.assert_allclose(figure.data[0].error_y.array, 0.2)
    np.testing.assert_allclose(figure.data[0].error_y.arrayminus, 0.1)
    assert figure.data[0].customdata[1] == "0.940 [0.840, 1.140]"
    low, high = figure.layout.yaxis.range
    assert low < -0.6
    assert high > 1.14


def test_references_close_together_are_pushed_apart():
    notes = grouped_bars(bars(), **BAR, reference={"b": 0.021, "a": 0.02}).layout.annotations
    assert notes[0].text.startswith("a")
    assert notes[1].yshift > 10


def test_one_series_needs_no_dimension_and_no_legend():
    figure = grouped_bars(bars()[:, 0].drop_vars("series"), **BAR)
    assert figure.layout.showlegend is False
    assert len(figure.data) == 2


def test_nothing_measured_still_draws():
    assert grouped_bars(bars() * np.nan, **BAR).data[1].text == ("n/a",) * 3


def test_bars_name_what_is_wrong():
    with pytest.raises(InputError, match=r"low and high must be given together"):
        grouped_bars(bars(), **BAR, low=bars())
    with pytest.raises(InputError, match=r"must have the shape of values, \(3, 2\)"):
        grouped_bars(bars(), **BAR, low=bars()[:2], high=bars())
    with pytest.raises(InputError, match=r"received \(category, x\)"):
        grouped_bars(bars().rename(series="x"), **BAR)
