"""Heat maps with one row a list."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.figures.row_maps import row_maps

WORDS: dict[str, Any] = {"title": "t", "caption": "c", "unit": "nats", "row_title": "list", "column_title": "item"}


def _values() -> xr.DataArray:
    cells = np.array([[[0.0, 0.5], [1.0, np.nan]], [[2.0, 0.1], [0.2, 0.3]]])
    return xr.DataArray(cells, dims=("name", "row", "column"), coords={"name": ["one", "two"], "column": [-1, 0]})


def test_panels_share_rows_and_scale():
    figure: Any = row_maps(_values(), ["<b>", "x" * 40], **WORDS)
    assert [trace.name for trace in figure.data] == ["one", "two"]
    np.testing.assert_array_equal(figure.data[1].z, [[2.0, 0.1], [0.2, 0.3]])
    assert figure.data[0].customdata[0][1] == "list &lt;b&gt;, item 0: 0.500"
    assert figure.data[0].customdata[1][1].endswith("not measured")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 2)
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;", "x" * 25 + "…"]
    assert figure.layout.yaxis2.showticklabels is False
    assert figure.layout.xaxis.title.text == "item"


def test_a_panel_below_another_has_the_axis_title():
    figure: Any = row_maps(_values(), ["a", "b"], columns=1, **WORDS)
    assert figure.layout.xaxis.title.text is None
    assert figure.layout.xaxis2.title.text == "item"
    assert figure.layout.yaxis2.title.text == "list"


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="labels must be one for each of the 2 rows, not 1"):
        row_maps(_values(), ["a"], **WORDS)
    with pytest.raises(InputError, match="values must have the dimensions"):
        row_maps(_values().isel(name=0), ["a", "b"], **WORDS)
    with pytest.raises(InputError, match="set diverging=True"):
        row_maps(-_values(), ["a", "b"], **WORDS)
