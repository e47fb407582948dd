"""The trend by hand and against ordinary least squares; false alarms as rare as promised."""

import numpy as np
import pytest
import statsmodels.api as sm

from mechlist.errors import InputError
from mechlist.metrics import resampling
from mechlist.metrics.trend import Trend, trend_test


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def simulated(
    seed: int, slope: float = 0.0, topics: int = 12, lists: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of items with a filler at five temperatures; topics differ widely, and some miss some temperatures."""
    generator = rng(seed)
    temperature = np.tile(np.repeat([0.1, 0.5, 0.7, 0.9, 1.3], lists), topics)
    topic = np.repeat(np.arange(topics), 5 * lists)
    kept = generator.random(len(topic)) < 0.8
    chance = np.clip(generator.beta(1, 2, topics)[topic] + slope * temperature, 0, 1)
    items = generator.integers(3, 12, len(topic))
    return temperature[kept], (generator.binomial(items, chance) / items)[kept], topic[kept]


def run(setting: np.ndarray, outcome: np.ndarray, strata: np.ndarray, resamples: int = 400, seed: int = 0) -> Trend:
    return trend_test(setting, outcome, strata, strata, resamples=resamples, generator=rng(seed))


def test_a_slope_by_hand():
    # Within a: 0, 1 at 0, 1; within b: 5, 5, 8 at 0, 0, 3; c saw one setting only.
    setting, outcome = np.array([0, 1, 0, 0, 3, 7]), np.array([0.0, 1, 5, 5, 8, 9])
    trend = run(setting, outcome, np.array(list("aabbbc")), resamples=4000)
    assert trend.slope == pytest.approx(1.0)
    assert (trend.n_units, trend.n_strata) == (5, 2)
    # All 2 * 3 orders are equally likely, and only the one seen is as steep.
    assert trend.p_value == pytest.approx(1 / 6, abs=0.02)
    assert trend.low == pytest.approx(1.0)
    assert trend.high == pytest.approx(1.0)


def test_the_slope_is_that_of_least_squares_with_a_mean_for_every_stratum():
    setting, outcome, strata = simulated(1, slope=0.2)
    dummies = (strata[:, None] == np.unique(strata)).astype(float)
    fit = sm.OLS(outcome, np.column_stack([setting, dummies])).fit()
    trend = run(setting, outcome, strata)
    assert trend.slope == pytest.approx(fit.params[0], rel=1e-9)
    assert trend.z == pytest.approx(fit.tvalues[0], rel=0.3)
    assert trend.p_value == pytest.approx(1 / 401)
    robust = fit.get_robustcov_results("cluster", groups=strata)
    low, high = robust.conf_int()[0]
    assert trend.low == pytest.approx(low, abs=0.04)
    assert trend.high == pytest.approx(high, abs=0.04)


def test_differences_between_strata_are_no_trend():
    """Warm topics have more fillers, but within a topic the temperature does nothing."""
    strata = np.repeat(np.arange(10), 6)
    setting = strata / 10 + np.tile([0.0, 0.1], 30)
    outcome = strata / 10 + rng().random(60) / 100
    trend = run(setting, outcome, strata)
    assert abs(trend.slope) < 0.1
    assert trend.p_value > 0.01


def test_false_alarms_are_as_rare_as_promised_and_a_trend_is_found():
    false = [run(*simulated(seed), resamples=99, seed=seed).p_value <= 0.05 for seed in range(400)]
    assert 0.025 < np.mean(false) < 0.08
    found = [run(*simulated(seed, slope=0.15), resamples=99, seed=seed).p_value <= 0.05 for seed in range(20)]
    assert np.mean(found) > 0.8


def test_nothing_that_varies_is_no_trend():
    strata = np.repeat([0, 1], 3)
    one_setting = run(np.ones(6), rng().random(6), strata)
    assert np.isnan(one_setting[:5]).all()
    assert one_setting[5:] == (0, 0)
    same = run(np.tile([0.1, 0.5, 0.9], 2), np.full(6, 1 / 3), strata)
    assert (same.slope, same.p_value) == (0, 1)
    assert np.isnan(same.z)
    empty = run(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int))
    assert np.isnan(empty.slope)


def test_one_cluster_has_a_p_value_and_no_interval():
    setting, outcome, strata = simulated(2, slope=0.3, topics=1, lists=6)
    trend = run(setting, outcome, strata)
    assert np.isnan([trend.low, trend.high]).all()
    assert 0 < trend.p_value < 0.2


def test_how_the_work_is_divided_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    whole = run(*simulated(3))
    monkeypatch.setattr(resampling, "BLOCK_BYTES", 16 * 15 * 30)
    np.testing.assert_allclose(run(*simulated(3)), whole, rtol=1e-12)


def test_bad_arguments():
    good = (np.arange(3.0), np.arange(3.0), np.zeros(3), np.zeros(3))
    with pytest.raises(InputError, match=r"must have one shape; received \(3,\) to"):
        trend_test(good[0], good[1][:2], *good[2:], generator=rng())
    with pytest.raises(InputError, match="must be finite; leave out units"):
        trend_test(np.array([0, 1, np.nan]), *good[1:], generator=rng())
    with pytest.raises(InputError, match="resamples must be at least 1, not 0"):
        trend_test(*good, resamples=0, generator=rng())
