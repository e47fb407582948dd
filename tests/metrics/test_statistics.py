"""Intervals against a naive loop and against how often they hold the truth."""

import re

import numpy as np
import pytest
import torch
from jaxtyping import Float
from scipy.stats import bootstrap

from mechlist.errors import InputError
from mechlist.metrics import resampling
from mechlist.metrics.statistics import bootstrap_interval, null_threshold, rank_correlation
from tests.metrics.bca import bca_ends, left_out, widened_ends


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def naive(
    values: Float[np.ndarray, "unit *cell"], clusters: np.ndarray, level: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same resamples, drawn and averaged one by one; bias, skew and ends of each cell by itself."""
    labels = np.unique(clusters)
    inner = rng(int(rng(seed).integers(2**63)))
    means = []
    for _ in range(resamples):
        counts = inner.multinomial(len(labels), np.full(len(labels), 1 / len(labels)))
        chosen = [values[clusters == label] for label, count in zip(labels, counts, strict=True) for _ in range(count)]
        means.append(np.concatenate(chosen).mean(axis=0))
    without = left_out(clusters, lambda units: values[units].mean(axis=0))
    ends = np.zeros((2, *values.shape[1:]))
    for cell in np.ndindex(values.shape[1:]):
        here = (slice(None), *cell)
        ends[here] = bca_ends(np.array(means)[here], values[here].mean(), without[here], level, len(labels))
    return ends[0], ends[1]


@pytest.mark.parametrize("clusters", [None, np.array(list("abbaccc"))], ids=["units", "clusters"])
def test_intervals_are_those_of_a_naive_loop(clusters: np.ndarray | None):
    values = rng(1).standard_normal((7, 2, 3))
    low, high = bootstrap_interval(values, level=0.9, resamples=200, generator=rng(5), clusters=clusters)
    labels = np.arange(7) if clusters is None else clusters
    expected = naive(values, labels, 0.9, 200, seed=5)
    np.testing.assert_allclose(low, expected[0], rtol=1e-12)
    np.testing.assert_allclose(high, expected[1], rtol=1e-12)
    assert (low < high).all()


def test_intervals_cover_the_mean_about_as_often_as_they_say():
    # A cell is a simulation of its own.
    for level, allowed in ((0.95, (0.92, 0.96)), (0.8, (0.76, 0.82))):
        low, high = bootstrap_interval(rng().standard_normal((40, 2000)), level=level, resamples=500, generator=rng(1))
        assert allowed[0] < np.mean((low <= 0) & (high >= 0)) < allowed[1]


@pytest.mark.parametrize("units", [6, 10, 23])
def test_intervals_over_few_units_cover_about_as_often_as_they_say(units: int):
    """A percentile bootstrap covers .86, .90 and .93 of normal means, and .78 to .92 of shares near 1."""
    normal = rng().standard_normal((units, 2000))
    near_one = rng(1).binomial(10, 0.95, size=(units, 2000)) / 10
    skewed = rng(2).exponential(size=(units, 2000))
    for values, true, least in ((normal, 0.0, 0.915), (near_one, 0.95, 0.93), (skewed, 1.0, 0.85)):
        low, high = bootstrap_interval(values, resamples=1000, generator=rng(3))
        assert least < np.mean((low <= true) & (high >= true)) < 0.98


def test_the_ends_are_those_of_scipy_s_bca_at_the_widened_level():
    values = rng(4).exponential(size=23)
    low, high = widened_ends(0.95, 23)
    expected = bootstrap((values,), np.mean, confidence_level=high - low, n_resamples=40_000, rng=rng(5))
    found = bootstrap_interval(values, resamples=40_000, generator=rng(6))
    np.testing.assert_allclose(found, expected.confidence_interval, atol=0.02)


def test_clusters_that_share_their_noise_need_whole_clusters_drawn():
    shared_noise = np.repeat(rng().standard_normal((30, 2000)), 5, axis=0)
    values = shared_noise + 0.1 * rng(1).standard_normal((150, 2000))
    labels = np.repeat(np.arange(30), 5)
    covered = []
    for clusters in (labels, None):
        low, high = bootstrap_interval(values, resamples=300, generator=rng(2), clusters=clusters)
        covered.append(np.mean((low <= 0) & (high >= 0)))
    assert 0.92 < covered[0] < 0.97
    assert covered[1] < 0.75


def test_clusters_of_one_are_units_and_the_order_of_units_does_not_matter():
    values = rng(1).standard_normal((9, 4))
    each = bootstrap_interval(values, generator=rng(2), clusters=np.arange(9))
    np.testing.assert_allclose(each, bootstrap_interval(values, generator=rng(2)), rtol=1e-12)
    labels, order = np.arange(9) % 4, rng(3).permutation(9)
    straight = bootstrap_interval(values, generator=rng(2), clusters=labels)
    shuffled = bootstrap_interval(values[order], generator=rng(2), clusters=labels[order])
    np.testing.assert_allclose(straight, shuffled, rtol=1e-12)


def test_how_the_work_is_divided_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    values = rng(1).standard_normal((11, 5, 7))
    whole = bootstrap_interval(values, resamples=100, generator=rng(2))
    monkeypatch.setattr(resampling, "BLOCK_BYTES", 2400)
    np.testing.assert_allclose(bootstrap_interval(values, resamples=100, generator=rng(2)), whole, rtol=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_cells_in_threads_have_the_ends_that_each_has_alone(threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resampling, "CELLS", 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    values = np.random.default_rng(5).exponential(size=(9, 17))
    values[:, 4], values[2, 6] = 1.0, np.nan
    low, high = bootstrap_interval(values, resamples=300, generator=np.random.default_rng(1))
    for cell in range(17):
        one = bootstrap_interval(values[:, cell], resamples=300, generator=np.random.default_rng(1))
        np.testing.assert_allclose((low[cell], high[cell]), one, rtol=1e-12)


def test_one_number_a_unit_gives_a_pair_of_numbers():
    low, high = bootstrap_interval(np.array([1.0, 2.0, 4.0], dtype=np.float32), generator=rng())
    assert low.shape == high.shape == ()
    assert 1 <= low < 7 / 3 < high <= 4


def test_a_single_observation_has_no_interval():
    assert np.isnan(bootstrap_interval(np.ones((1, 3)), generator=rng())).all()
    assert np.isnan(bootstrap_interval(np.ones((4, 3)), generator=rng(), clusters=np.zeros(4))).all()


def test_a_value_that_is_not_finite_spoils_its_own_cell_only():
    values = rng().standard_normal((6, 3))
    clean = bootstrap_interval(values[:, 1:2], generator=rng(1))
    values[2, 0], values[3, 2] = np.nan, np.inf
    low, high = bootstrap_interval(values, generator=rng(1))
    assert np.isnan([low[[0, 2]], high[[0, 2]]]).all()
    np.testing.assert_allclose([low[1:2], high[1:2]], clean, rtol=1e-12)


def test_no_cells_no_intervals():
    assert bootstrap_interval(np.ones((4, 0, 2)), generator=rng()).low.shape == (0, 2)


def test_the_threshold_is_an_order_statistic_of_the_largest_scores():
    scores = rng().permutation(np.arange(1.0, 101.0)).reshape(100, 1, 1) * np.array([[1.0, 0.5], [-1.0, 0.0]])
    found = null_threshold(scores, 0.95)
    assert found.value == 96.0
    assert found.level == pytest.approx(96 / 101)
    assert null_threshold(scores[:19], 0.95).value == scores[:19].max()
    assert null_threshold(scores[:19], 0.95).level == pytest.approx(0.95)


def test_too_few_draws_give_the_largest_and_say_what_it_is_worth():
    found = null_threshold(np.array([[0.1, 0.4], [0.3, 0.2], [0.5, 0.0]]), 0.95)
    assert found == (0.5, 0.75)


def test_false_alarms_over_the_whole_grid_are_as_rare_as_promised():
    alarms = []
    for seed in range(2000):
        draws = rng(seed).standard_normal((40, 12))
        alarms.append(draws[-1].max() > null_threshold(draws[:-1], 0.9).value)
    assert 0.08 < np.mean(alarms) < 0.12


@pytest.mark.parametrize("level", [0, 1, 1.5])
def test_a_level_outside_its_range(level: float | int):
    text = f"level must be between 0 and 1, not {level}."
    with pytest.raises(InputError, match=re.escape(text)):
        bootstrap_interval(np.ones((3, 2)), level=level, generator=rng())
    with pytest.raises(InputError, match=re.escape(text)):
        null_threshold(np.ones((3, 2)), level)


def test_bad_arguments():
    with pytest.raises(InputError, match="one unit at least"):
        bootstrap_interval(np.ones((0, 2)), generator=rng())
    with pytest.raises(InputError, match="resamples must be at least 1, not 0"):
        bootstrap_interval(np.ones((3, 2)), resamples=0, generator=rng())
    with pytest.raises(InputError, match=re.escape("label each of the 3 units, not have the shape (2,)")):
        bootstrap_interval(np.ones((3, 2)), generator=rng(), clusters=np.zeros(2))
    with pytest.raises(InputError, match=re.escape("not the shape (0, 2)")):
        null_threshold(np.ones((0, 2)))
    with pytest.raises(InputError, match="must not hold NaN"):
        null_threshold(np.array([[0.1, np.nan], [0.2, 0.3]]))


def test_rank_correlation_is_spearmans_and_nan_without_ranks():
    x, y = np.array([1.0, 2.0, 2.0, 9.0]), np.array([-3.0, 0.0, 4.0, 5.0])
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    assert rank_correlation(x, y) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert rank_correlation(x, -(y**3)) == pytest.approx(-4.5 / np.sqrt(4.5 * 5))
    assert np.isnan(rank_correlation(x, np.ones(4)))
