"""Change points on curves whose steps, and all of whose resamples, can be written down."""

import numpy as np
import pytest

from mechlist.errors import InputError
from mechlist.lens.change_points import change_point


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_two_clusters_can_be_counted():
    # Steps 2, 0, 0 and 0, 0, 3. Half of the resamples hold both (largest mean step 1.5 at 2), a quarter each one only.
    values = np.array([[0.0, 2, 2, 2], [5.0, 5, 5, 8]])
    point = change_point(values, np.array(["a", "b"]), generator=_rng(), resamples=4000)
    assert (point.place, point.jump, point.place_low, point.place_high) == (2, 1.5, 0, 2)
    assert point.share == pytest.approx(0.75, abs=0.03)
    assert (point.jump_low, point.jump_high) == (0, 3)


def test_a_step_down_counts_by_its_size():
    values = np.array([[0.0, 1, -4, -3]] * 3)
    point = change_point(values, np.array([1, 2, 3]), generator=_rng())
    assert point == (1, 1, 1, 1.0, -5, -5, -5)


def test_units_that_end_early_make_no_step():
    # The mean curve falls from 5 to 0 where the first list ends; no list does.
    values = np.array([[10.0, 10, np.nan, np.nan], [0.0, 0, 0, 1], [0.0, 0, 0, 1]])
    point = change_point(values, np.array([1, 2, 3]), generator=_rng())
    assert (point.place, point.jump) == (2, 1)


def test_steps_of_few_units_are_not_looked_at():
    values = np.array([[0.0, 1, 100], [0.0, 1, np.nan], [0.0, 1, np.nan]])
    assert change_point(values, np.array([1, 2, 3]), generator=_rng()).place == 0


def test_one_cluster_has_no_interval_and_no_value_no_point():
    point = change_point(np.array([[0.0, 1, 5]] * 2), np.array(["a", "a"]), generator=_rng())
    assert (point.place, point.jump) == (1, 4)
    assert np.isnan([point.place_low, point.share, point.jump_high]).all()
    assert np.isnan(change_point(np.full((2, 3), np.nan), np.array([1, 2]), generator=_rng())).all()


def test_one_place_is_no_curve():
    with pytest.raises(InputError, match="values must have two places at least along x, not 1"):
        change_point(np.zeros((2, 1)), np.array([1, 2]), generator=_rng())
