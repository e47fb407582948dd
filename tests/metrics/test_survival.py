"""Kaplan-Meier by hand and against statsmodels; intervals against a naive loop."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from statsmodels.duration.survfunc import SurvfuncRight

from mechlist.errors import InputError
from mechlist.metrics import resampling
from mechlist.metrics.ratios import ratio_draws, ratio_interval
from mechlist.metrics.shares import share_interval
from mechlist.metrics.survival import survival_curve, survival_intervals
from tests.metrics.bca import bca_ends, left_out, widened_ends


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def lifetimes(units: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = rng(seed)
    ends, cut = generator.poisson(5, units), generator.poisson(6, units)
    return np.minimum(ends, cut), ends <= cut


def test_a_curve_by_hand():
    # At risk 5, 4, 4, 3, 1; two are cut off, at 1 and at 3.
    curve = survival_curve(np.array([1, 2, 3, 3, 4, -1]), np.array([False, True, True, False, True, False]), 7)
    np.testing.assert_array_equal(curve.at_risk, [5, 5, 4, 3, 1, 0, 0])
    np.testing.assert_array_equal(curve.events, [0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(curve.survival, [1, 1, 3 / 4, 1 / 2, 0, 0, 0], atol=1e-15)
    np.testing.assert_allclose(curve.hazard, [0, 0, 1 / 4, 1 / 3, 1, np.nan, np.nan])
    assert curve.median == 3


def test_nothing_is_known_beyond_the_last_unit_that_was_cut_off():
    curve = survival_curve(np.array([1, 2]), np.array([True, False]), 5)
    np.testing.assert_allclose(curve.survival, [1, 0.5, 0.5, np.nan, np.nan])
    assert curve.median == 1
    ends = survival_intervals(np.array([1, 2]), np.array([True, False]), np.arange(2), 5, generator=rng())
    assert np.isnan(ends.survival.low[3:]).all()
    assert np.isfinite(ends.survival.low[:3]).all()
    assert np.isinf(ends.median.high)


def test_without_an_event_all_survive_and_there_is_no_median():
    curve = survival_curve(np.array([0, 2, -1]), np.zeros(3, dtype=bool), 4)
    np.testing.assert_allclose(curve.survival, [1, 1, 1, np.nan])
    assert np.isinf(curve.median)


def test_no_unit_tells_nothing():
    for time in (np.zeros(0, dtype=int), np.array([-1, -1])):
        event = np.zeros(len(time), dtype=bool)
        assert np.isnan(survival_curve(time, event, 3).survival).all()
        ends = survival_intervals(time, event, np.arange(len(time)), 3, generator=rng())
        assert np.isnan([*ends.survival, *ends.hazard]).all()
        assert np.isnan(ends.median).all()


def drawn(labels: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Units of each resample, cluster by cluster."""
    clusters = np.unique(labels)
    for counts in rng(seed).multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), size=resamples):
        members = [np.flatnonzero(labels == c) for c, n in zip(clusters, counts, strict=True) for _ in range(n)]
        yield np.concatenate(members)


def naive(time: np.ndarray, event: np.ndarray, labels: np.ndarray, n_times: int, resamples: int, seed: int):
    """Curves, hazards and medians of the same resamples, each through statsmodels."""
    found = [naive_curves(time[units], event[units], n_times) for units in drawn(labels, resamples, seed)]
    curves, hazards = (np.array([one[i] for one in found]) for i in range(2))
    medians = [next((k for k in range(n_times) if curve[k] <= 0.5 + 1e-9), np.inf) for curve in curves]
    return curves, hazards, np.array(medians)


def naive_curves(t: np.ndarray, e: np.ndarray, n_times: int) -> tuple[list[float], list[float]]:
    """Survival and hazard of units, through statsmodels."""
    estimate: Any = SurvfuncRight(t, e.astype(int))
    steps: dict[int, float] = dict(zip(estimate.surv_times, estimate.surv_prob, strict=True))
    curve = [next((steps[j] for j in range(k, -1, -1) if j in steps), 1.0) for k in range(n_times)]
    hazard = [np.mean(e[t >= k] & (t[t >= k] == k)) if (t >= k).any() else np.nan for k in range(n_times)]
    return curve, [float(one) for one in hazard]


def test_curve_and_intervals_are_those_of_statsmodels():
    time, event = lifetimes(40)
    labels, n_times = np.repeat(list("abcdefgh"), 5), int(time.max()) + 1
    curve = survival_curve(time, event, n_times)
    estimate = SurvfuncRight(time, event.astype(int))
    np.testing.assert_allclose(curve.survival[estimate.surv_times], estimate.surv_prob, atol=1e-12)
    np.testing.assert_array_equal(curve.at_risk[estimate.surv_times], estimate.n_risk)
    np.testing.assert_allclose(curve.survival, np.cumprod(1 - curve.hazard), atol=1e-12)
    got = survival_intervals(time, event, labels, n_times, level=0.9, resamples=200, generator=rng(7))
    curves, hazards, medians = naive(time, event, labels, n_times, 200, 7)
    without = [naive_curves(time[labels != label], event[labels != label], n_times) for label in np.unique(labels)]
    for found, drawn_again, whole, place in (
        (got.survival, curves, curve.survival, 0),
        (got.hazard, hazards, curve.hazard, 1),
    ):
        for k in range(n_times):
            units = len(np.unique(labels[time >= k]))
            if place == 1 and units < 2:
                expected = [np.nan, np.nan]
            elif whole[k] in (0, 1):
                behind = 8 if place == 0 and whole[k] == 0 else units
                expected = list(share_interval(int(whole[k]) * behind, behind, level=0.9))
            else:
                left = np.array([one[place][k] for one in without])
                expected = bca_ends(drawn_again[:, k], whole[k], left, 0.9, 8)
            np.testing.assert_allclose([found.low[k], found.high[k]], expected, atol=1e-12, err_msg=f"{place} {k}")
    ends = np.quantile(medians, widened_ends(0.9, 8), method="inverted_cdf")
    assert tuple(float(end) for end in got.median) == tuple(ends)


def test_censoring_is_no_ending():
    """Half of the lists are cut off at random; the curve is still that of the process, and the plain mean is not."""
    generator = rng(3)
    ends, cut = generator.geometric(0.2, 20_000) - 1, generator.geometric(0.2, 20_000) - 1
    time, event = np.minimum(ends, cut), ends <= cut
    curve = survival_curve(time, event, 40)
    np.testing.assert_allclose(curve.survival[:10], 0.8 ** np.arange(1, 11), atol=0.02)
    np.testing.assert_allclose(curve.hazard[:8], 0.2, atol=0.02)
    assert time.mean() < 0.7 * ends.mean()


def test_ratios_are_those_of_a_naive_loop():
    generator = rng(2)
    below = generator.integers(0, 5, (9, 2, 3))
    above = generator.integers(0, below + 1)
    labels = np.array(list("aabbbcdda"))
    low, high = ratio_interval(above, below, labels, level=0.8, resamples=300, generator=rng(4))
    ratios: list[np.ndarray] = []
    for units in drawn(labels, 300, seed=4):
        total = below[units].sum(axis=0)
        ratios.append(np.where(total > 0, above[units].sum(axis=0) / np.maximum(total, 1), np.nan))
    with np.errstate(invalid="ignore"):
        without = left_out(labels, lambda units: above[units].sum(axis=0) / below[units].sum(axis=0))
    whole = above.sum(axis=0) / below.sum(axis=0)
    for cell in np.ndindex(whole.shape):
        here = (slice(None), *cell)
        expected = bca_ends(np.array(ratios)[here], whole[cell], without[here], 0.8, 4)
        np.testing.assert_allclose([low[cell], high[cell]], expected, atol=1e-12)
    assert (low < high).any()


def test_a_cell_of_one_cluster_has_no_interval():
    above, below = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0]]), np.array([[2, 0, 1], [2, 0, 1], [2, 0, 0]])
    low, high = ratio_interval(above, below, np.array(["a", "b", "b"]), generator=rng())
    np.testing.assert_array_equal(np.isfinite(low), [True, False, True])
    assert low[2] == high[2] == 1
    assert np.isnan(ratio_interval(above, below, np.zeros(3), generator=rng())).all()


def test_how_the_work_is_divided_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    values = rng(1).random((6, 4))
    whole = ratio_draws(values, values + 1, np.arange(6), resamples=50, generator=rng(2))
    monkeypatch.setattr(resampling, "BLOCK_BYTES", 16 * 6 * 7)
    parts = ratio_draws(values, values + 1, np.arange(6), resamples=50, generator=rng(2))
    for part, of in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part, of, rtol=1e-14)


def test_clustered_intervals_cover_the_ratio_about_as_often_as_they_say():
    """Topics have shares of their own: 20 topics of 5 lists of 10 items, true mean share .3."""
    covered = []
    for seed in range(300):
        generator = rng(seed)
        share = np.repeat(generator.beta(3, 7, 20), 5)
        above = generator.binomial(10, share)[:, None]
        low, high = ratio_interval(
            above, np.full_like(above, 10), np.repeat(np.arange(20), 5), resamples=300, generator=generator
        )
        covered.append(low[0] <= 0.3 <= high[0])
    assert 0.88 < np.mean(covered) < 0.98


def test_bad_arguments():
    time, event = np.array([1, 2]), np.array([True, False])
    with pytest.raises(InputError, match=re.escape("time and event must have one shape; received (2,) and (1,)")):
        survival_curve(time, event[:1], 4)
    with pytest.raises(InputError, match=r"time must be from 0 to 1, or -1 .* received 1 to 2"):
        survival_curve(time, event, 2)
    with pytest.raises(InputError, match="or -1 for a unit that tells nothing"):
        survival_curve(np.array([-1]), np.array([True]), 2)
    with pytest.raises(InputError, match="level must be between 0 and 1, not 1"):
        survival_intervals(time, event, np.arange(2), 4, level=1, generator=rng())
    with pytest.raises(InputError, match="clusters must label each of the 2 units"):
        survival_intervals(time, event, np.arange(3), 4, generator=rng())
    with pytest.raises(InputError, match="numerator and denominator must have one shape"):
        ratio_interval(np.ones((2, 1)), np.ones((2, 2)), np.arange(2), generator=rng())
    with pytest.raises(InputError, match="resamples must be at least 1, not 0"):
        ratio_interval(np.ones((2, 1)), np.ones((2, 1)), np.arange(2), resamples=0, generator=rng())
