from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.figures.notes import NOT_FEW, counted, ends, items_from_last
from mechlist.metrics.by_topic import FEWEST


def test_ends_are_renamed_with_their_values():
    results = xr.Dataset({"y_low": ("item", [1.0]), "y_high": ("item", [2.0])})
    found = ends(results, "y", item="x")
    assert (found["low"].dims, found["high"].dims) == (("x",), ("x",))
    assert (float(found["low"][0]), float(found["high"][0])) == (1, 2)


def test_counts_are_said_with_their_unit():
    found = counted(xr.DataArray([[1, 2]], dims=("series", "x")), "lists")
    assert found.dims == ("series", "x")
    assert found.values.tolist() == [["1 list", "2 lists"]]


def test_the_caption_says_how_few_are_few():
    assert f"fewer than {FEWEST} lists" in NOT_FEW


def test_items_from_the_last_are_named():
    figure: Any = items_from_last(go.Figure(go.Scatter(x=[0, 1, 2], y=[1, 2, 3])), 3)
    assert figure.layout.xaxis.autorange == "reversed"
    assert list(figure.layout.xaxis.ticktext) == ["last", "last - 1", "last - 2"]
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
    many: Any = items_from_last(go.Figure(go.Scatter(x=np.arange(40), y=np.arange(40))), 40)
    assert list(many.layout.xaxis.ticktext) == ["last", *(f"last - {back}" for back in range(5, 40, 5))]
