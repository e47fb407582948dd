from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist import figures
from mechlist.errors import InputError

# As Any: plotly's layout and traces have no usable types.
head_heatmap: Any = figures.head_heatmap
heads_panel: Any = figures.heads_panel

WORDS: dict[str, Any] = {"title": "Induction score", "caption": "Dark cells.", "unit": "attention weight"}


def scores(layers: int, heads: int) -> xr.DataArray:
    return xr.DataArray(np.arange(layers * heads).reshape(layers, heads) / 1000, dims=("layer", "head"))


@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (12, 12), (48, 25)])
def test_cells_hold_the_values_with_layer_zero_on_top(shape):
    array = scores(*shape)
    figure = head_heatmap(array, **WORDS)
    np.testing.assert_array_equal(figure.data[0].z, array.values)
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.yaxis.scaleanchor == "x"
    assert figure.layout.meta["caption"] == "Dark cells."
    assert figure.layout.coloraxis.colorbar.title.text == "attention weight"


def test_the_order_of_dimensions_does_not_matter():
    array = scores(3, 5)
    np.testing.assert_array_equal(head_heatmap(array.T, **WORDS).data[0].z, array.values)


def test_hover_names_the_head_by_its_coordinates():
    array = scores(2, 2).assign_coords(layer=[4, 9], head=[0, 11])
    array[0, 1] = 0.912
    array[1, 0] = np.nan
    trace = head_heatmap(array, **WORDS).data[0]
    assert trace.customdata[0][1] == "L4H11: 0.912"
    assert trace.customdata[1][0] == "L9H0: not measured"
    assert trace.hovertemplate == "%{customdata}<extra></extra>"


def test_small_grids_print_their_values_and_large_ones_do_not():
    array = scores(2, 4)
    array[0, 0], array[0, 1] = np.nan, -0.001
    trace = head_heatmap(array, diverging=True, **WORDS).data[0]
    assert list(trace.text[0][:2]) == ["", "0.00"]
    assert trace.text[1][3] == "0.01"
    assert head_heatmap(scores(9, 9), **WORDS).data[0].texttemplate is None


def test_ticks_are_whole_and_thinned():
    axis = head_heatmap(scores(48, 25), **WORDS).layout.yaxis
    assert axis.ticktext[:3] == ("0", "2", "4")


@pytest.mark.parametrize(("values", "bounds"), [([0, 0.2], (0, 1)), ([0, 3], (0, 3)), ([np.nan, np.nan], (0, 1))])
def test_sequential_range(values, bounds):
    axis = head_heatmap(xr.DataArray([values], dims=("layer", "head")), **WORDS).layout.coloraxis
    assert (axis.cmin, axis.cmax) == bounds


@pytest.mark.parametrize(("values", "bounds"), [([-2, 1], (-2, 2)), ([0, 0], (-1, 1)), ([np.nan, 0.5], (-0.5, 0.5))])
def test_diverging_range_is_centred(values, bounds):
    array = xr.DataArray([values], dims=("layer", "head"))
    axis = head_heatmap(array, **WORDS, diverging=True).layout.coloraxis
    assert (axis.cmin, axis.cmax) == bounds


def test_limit_sets_the_far_end():
    axis = head_heatmap(scores(2, 2), **WORDS, diverging=True, limit=0.25).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-0.25, 0.25)


def test_values_below_zero_are_not_hidden():
    with pytest.raises(InputError, match=r"takes values of 0 and above; received -0.5: set diverging=True"):
        head_heatmap(scores(2, 2) - 0.5, **WORDS)


def test_wrong_dimensions_are_named():
    with pytest.raises(InputError, match=r"scores must have the dimensions \(layer, head\); received \(a, b\)"):
        head_heatmap(xr.DataArray([[1.0]], dims=("a", "b")), **WORDS)


def test_a_bad_limit_is_named():
    with pytest.raises(InputError, match=r"limit must be a positive number; received 0"):
        head_heatmap(scores(2, 2), **WORDS, limit=0.0)


def test_panels_share_one_scale_and_keep_their_names():
    arrays = {name: scores(12, 12) * factor for name, factor in zip("abcd", (1, 2, 3, 10), strict=True)}
    figure = heads_panel({**arrays, "<b>": scores(12, 12)}, **WORDS)
    assert [note.text for note in figure.layout.annotations] == ["a", "b", "c", "d", "&lt;b&gt;"]
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert figure.layout.coloraxis.cmax == pytest.approx(1.43)
    np.testing.assert_array_equal(figure.data[3].z, arrays["d"].values)
    assert [figure.layout[f"xaxis{n}"].title.text for n in ("", 2, 3, 4, 5)] == [None, None, "head", "head", "head"]


def test_panels_of_different_models_are_refused():
    with pytest.raises(InputError, match=r"arrays of one shape; received shapes \[\(2, 2\), \(3, 2\)\]"):
        heads_panel({"a": scores(2, 2), "b": scores(3, 2)}, **WORDS)
    with pytest.raises(InputError, match=r"received shapes \[\]"):
        heads_panel({}, **WORDS)
    with pytest.raises(InputError, match=r"received 1 panels, columns=0"):
        heads_panel({"a": scores(2, 2)}, **WORDS, columns=0)


def marks(layers: int, heads: int, cells: list[tuple[int, int]]) -> xr.DataArray:
    marked = np.zeros((layers, heads), dtype=bool)
    for cell in cells:
        marked[cell] = True
    return xr.DataArray(marked, dims=("layer", "head"))


def dots(trace: Any) -> list[tuple[int, int]]:
    return sorted((round(y), round(x)) for x, y in zip(trace.x, trace.y, strict=True))


@pytest.mark.parametrize("shape", [(2, 4), (12, 12), (60, 70)])
def test_dots_are_on_the_marked_heads_and_the_first_layer_stays_on_top(shape: tuple[int, int]):
    cells = [(0, 0), (1, 3), (shape[0] - 1, 2)]
    marked = marks(*shape, cells)
    figure = head_heatmap(scores(*shape), **WORDS, marked=marked.T)
    cloud = figure.data[1]
    assert dots(cloud) == sorted(set(cells))
    assert cloud.marker.color != cloud.marker.line.color, "seen on light and on dark cells"
    assert cloud.hoverinfo == "skip", "the hover box is the cell's"
    assert tuple(figure.layout.xaxis.range) == (-0.5, shape[1] - 0.5)
    assert tuple(figure.layout.yaxis.range) == (shape[0] - 0.5, -0.5)
    for unmarked in (None, marks(*shape, [])):
        bare = head_heatmap(scores(*shape), **WORDS, marked=unmarked)
        assert len(bare.data) == 1
        assert bare.layout.yaxis.autorange == "reversed"


def test_notes_are_in_the_hover_box():
    note = xr.DataArray([["p = 0.01", "<b>"], ["", "below"]], dims=("layer", "head"))
    hover = head_heatmap(scores(2, 2), **WORDS, note=note).data[0].customdata
    assert hover[0][0] == "L0H0: 0.000<br>p = 0.01"
    assert hover[0][1].endswith("<br>&lt;b&gt;")
    assert hover[1][0] == "L1H0: 0.002"


def test_each_panel_has_its_own_dots():
    arrays = {name: scores(3, 4) for name in "abc"}
    figure = heads_panel(arrays, **WORDS, marked={"a": marks(3, 4, [(0, 1)]), "c": marks(3, 4, [(2, 3)])})
    assert [trace.type for trace in figure.data] == ["heatmap", "scatter", "heatmap", "heatmap", "scatter"]
    assert (figure.data[1].xaxis, figure.data[4].xaxis) == (figure.data[0].xaxis, figure.data[3].xaxis)
    assert (dots(figure.data[1]), dots(figure.data[4])) == ([(0, 1)], [(2, 3)])
    with pytest.raises(InputError, match="must be of the panels a, b, c; received 'd'"):
        heads_panel(arrays, **WORDS, marked={"d": marks(3, 4, [])})


def test_marks_of_another_grid_are_refused():
    with pytest.raises(InputError, match=r"marked must have the dimensions of the values, .*received .*'head': 5"):
        head_heatmap(scores(3, 4), **WORDS, marked=marks(3, 5, []))
    with pytest.raises(InputError, match="marked must hold True and False, not values of type float64"):
        head_heatmap(scores(3, 4), **WORDS, marked=scores(3, 4))
    with pytest.raises(InputError, match="note must have the dimensions of the values"):
        head_heatmap(scores(3, 4), **WORDS, note=scores(3, 4).rename(head="position"))


def test_a_map_of_positions_has_the_same_dots():
    draw: Any = figures.position_heatmap
    values = scores(3, 4).rename(head="position")
    marked = marks(3, 4, [(1, 2), (2, 0)]).rename(head="position")
    note = xr.full_like(values, "", dtype=object)
    note[1, 2] = "p = 0.02, survives"
    figure = draw(values, list("abcd"), **WORDS, marked=marked, note=note)
    assert dots(figure.data[1]) == [(1, 2), (2, 0)]
    assert tuple(figure.layout.yaxis.range) == (2.5, -0.5)
    assert figure.data[0].customdata[1][2] == "layer 1, c: 0.006<br>p = 0.02, survives"
    assert figure.data[0].customdata[0][0] == "layer 0, a: 0.000"
    assert len(draw(values, list("abcd"), **WORDS).data) == 1
