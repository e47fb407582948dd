"""Curves, bars and rows with intervals: what is drawn where."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist import figures
from mechlist.errors import InputError

# As Any: plotly's layout and traces have no usable types.
interval_lines: Any = figures.interval_lines
interval_bars: Any = figures.interval_bars
interval_rows: Any = figures.interval_rows
bubble_rows: Any = figures.bubble_rows

LINE: dict[str, Any] = {"title": "Hazard", "caption": "It peaks.", "x_title": "items", "y_title": "probability"}
ROW: dict[str, Any] = {"title": "Share", "caption": "It differs.", "x_title": "share of items"}


def curves() -> xr.DataArray:
    coords = {"series": ["short", "<b>"], "x": [0, 1, 2]}
    return xr.DataArray([[0.1, 0.5, 0.9], [0.2, np.nan, 0.4]], dims=("series", "x"), coords=coords)


def rows() -> xr.DataArray:
    return xr.DataArray([0.9, np.nan, 0.2], dims="category", coords={"category": ["Rivers", "Books", "<i>"]})


def test_lines_have_error_bars_beside_each_other():
    values = curves()
    figure = interval_lines(values, low=values - 0.1, high=values + 0.2, **LINE)
    short, other = figure.data
    assert (short.name, other.name) == ("short", "&lt;b&gt;")
    np.testing.assert_allclose(short.y, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(short.error_y.array, 0.2)
    np.testing.assert_allclose(short.error_y.arrayminus, 0.1)
    np.testing.assert_allclose(other.y, [0.2, 0.4])
    np.testing.assert_allclose(np.round(other.x), [0, 2])
    assert short.x[0] < 0 < other.x[0]
    assert short.customdata[1] == "0.500 [0.400, 0.700]"
    assert figure.layout.xaxis.title.text == "items"
    assert figure.layout.meta["caption"] == "It peaks."
    assert figure.layout.showlegend is True


def test_steps_stand_in_a_band():
    values = curves()[:1]
    low = values - 0.1
    low[0, 2] = np.nan
    figure = interval_lines(values, low=low, high=values + 0.1, shape="step", **LINE)
    below, above, line = figure.data
    np.testing.assert_allclose(below.y, [0.0, 0.4])
    np.testing.assert_allclose(above.y, [0.2, 0.6])
    assert above.fill == "tonexty"
    assert {trace.line.shape for trace in figure.data} == {"hv"}
    np.testing.assert_array_equal(line.x, [0, 1, 2])
    assert line.customdata[2] == "0.900"
    assert figure.layout.showlegend is False


def test_notes_join_the_hover_text():
    values = curves()[:1]
    note = values.copy(data=np.array([["1 list", "2 lists", "3 < 4"]], dtype=object))
    figure = interval_lines(values, low=values, high=values, note=note, **LINE)
    assert figure.data[0].customdata[2] == "0.900 [0.900, 0.900]<br>3 &lt; 4"


@pytest.mark.parametrize("shape", ["line", "step"])
def test_nothing_and_a_single_point_still_draw(shape: str):
    for values in (curves() * np.nan, curves()[:, :1]):
        assert len(interval_lines(values, low=values, high=values, shape=shape, **LINE).data) == 2


def test_bars_stand_at_their_label():
    values = curves().assign_coords(x=["1", "2", "3+"])
    figure = interval_bars(values, low=values - 0.1, high=values + 0.1, **LINE)
    assert figure.layout.xaxis.ticktext == ("1", "2", "3+")
    np.testing.assert_array_equal(figure.data[1].x, [0, 2])
    np.testing.assert_allclose(figure.data[1].y, [0.2, 0.4])
    np.testing.assert_allclose(figure.data[0].error_y.array, 0.1)


def test_rows_run_downwards_with_the_mean_dotted():
    figure = interval_rows(rows(), low=rows() - 0.1, high=rows() + 0.05, mean=0.5, **ROW)
    points = figure.data[0]
    np.testing.assert_allclose(points.x, [0.9, np.nan, 0.2])
    np.testing.assert_allclose(points.error_x.arrayminus, [0.1, np.nan, 0.1])
    assert figure.layout.yaxis.ticktext == ("Rivers", "Books", "&lt;i&gt;")
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert points.customdata[0] == "Rivers: 0.900 [0.800, 0.950]"
    assert figure.layout.shapes[0].x0 == 0.5
    assert figure.layout.annotations[0].text == "all 0.500"


def bubbles() -> xr.DataArray:
    coords = {"category": ["short", "long"], "series": ["ended", "cut off"], "x": [0, 1, 2]}
    return xr.DataArray(
        [[[0, 4, 1], [0, 0, 0]], [[0, 0, 0], [0, 1, 16]]], dims=("category", "series", "x"), coords=coords
    )


def test_bubbles_have_the_area_of_their_count():
    median = xr.DataArray([1.0, np.inf], dims="category")
    low, high = xr.DataArray([1.0, np.nan], dims="category"), xr.DataArray([np.inf, np.nan], dims="category")
    figure = bubble_rows(bubbles(), unit="lists", median=median, low=low, high=high, **ROW)
    ended, cut, medians = figure.data
    np.testing.assert_array_equal(ended.x, [1, 2])
    np.testing.assert_array_equal(ended.y, [0, 0])
    np.testing.assert_array_equal(cut.y, [1, 1])
    assert (cut.marker.size[1] / ended.marker.size[0]) ** 2 == pytest.approx(16 / 4)
    assert cut.marker.symbol == "circle-open"
    assert ended.customdata[1] == "short<br>1 list at 2"
    np.testing.assert_array_equal(medians.x, [1])
    np.testing.assert_array_equal(medians.error_x.array, [1])
    assert figure.layout.xaxis.range[0] < 0


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match=r"values must have the dimensions \(series, x\); received \(category\)"):
        interval_lines(rows(), low=rows(), high=rows(), **LINE)
    with pytest.raises(InputError, match=r"must have the shape of values, \(2, 3\); received \(1, 3\) and \(2, 3\)"):
        interval_bars(curves(), low=curves()[:1], high=curves(), **LINE)
    with pytest.raises(InputError, match=r"must have the shape of values, \(3,\); received \(2,\), \(3,\)"):
        interval_rows(rows(), low=rows()[:2], high=rows(), **ROW)
    with pytest.raises(InputError, match=r"counts must have the dimensions \(category, series, x\)"):
        bubble_rows(rows(), unit="lists", median=rows(), low=rows(), high=rows(), **ROW)


FLAT: dict[str, Any] = {**LINE, "y_title": "logits"}


def flattened() -> xr.DataArray:
    """Two places far beyond the others."""
    coords = {"series": ["clean", "corrupt"], "x": ["embedding", "MLP 0", "MLP 1", "bias"]}
    return xr.DataArray([[-88.25, 1.0, -2.0, 30.0], [-80.0, 0.5, 3.0, 25.0]], dims=("series", "x"), coords=coords)


def test_bars_that_would_flatten_all_others_are_cut_off_and_told():
    values = flattened()
    figure = interval_bars(values, low=values - 0.5, high=values + 0.5, clip=True, **FLAT)
    low, high = figure.layout.yaxis.range
    assert -4 < low < -2.5
    assert 3.5 < high < 5
    assert figure.layout.meta["caption"].endswith(
        "Cut off, so that the rest can be seen: embedding: -88.250 (clean), -80.000 (corrupt); "
        "bias: 30.000 (clean), 25.000 (corrupt)."
    )
    np.testing.assert_allclose(figure.data[0].y, values[0])
    whole = interval_bars(values, low=values, high=values, **FLAT)
    assert whole.layout.yaxis.range is None
    assert whole.layout.meta["caption"] == FLAT["caption"]


def test_nothing_is_cut_off_where_nothing_flattens():
    values = flattened().isel(x=[1, 2, 3]) / xr.DataArray([1.0, 1.0, 3.0], dims="x")
    for draw in (interval_bars, interval_lines):
        numbered = values.assign_coords(x=[0, 1, 2])
        figure = draw(numbered, low=numbered, high=numbered, clip=True, **FLAT)
        assert figure.layout.yaxis.range is None
        assert figure.layout.meta["caption"] == FLAT["caption"]


def test_a_curve_that_begins_far_off_is_cut_off_at_its_first_place():
    values = flattened().isel(series=[0]).assign_coords(x=[0, 1, 2, 3]) / xr.DataArray([1, 1, 1, 10.0], dims="x")
    figure = interval_lines(values, low=values, high=values, clip=True, **FLAT)
    assert figure.layout.meta["caption"].endswith("Cut off, so that the rest can be seen: 0: -88.250.")
    assert figure.data[0].cliponaxis
