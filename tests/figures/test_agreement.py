"""Points against the diagonal."""

from typing import Any

import pytest

from mechlist.errors import InputError
from mechlist.figures import agreement

WORDS: Any = {"title": "t", "caption": "c", "x_title": "x", "y_title": "y"}


def test_points_stand_where_they_are_and_axes_are_alike():
    figure: Any = agreement([1.0, -2.0], [3.0, 0.5], ["a <b>", "c"], **WORDS)
    line, points = figure.data
    assert list(points.x) == [1.0, -2.0]
    assert list(points.y) == [3.0, 0.5]
    assert list(line.x) == list(line.y)
    assert tuple(figure.layout.xaxis.range) == tuple(figure.layout.yaxis.range)
    low, high = figure.layout.xaxis.range
    assert low < -2
    assert high > 3
    assert points.customdata[0].startswith("a &lt;b&gt;<br>1")


@pytest.mark.parametrize(("x", "names"), [([], []), ([1.0], ["a", "b"])])
def test_points_without_names_are_refused(x: list[float], names: list[str]):
    with pytest.raises(InputError, match="one name for each point"):
        agreement(x, x, names, **WORDS)
