"""Summaries against NumPy and SciPy, and what is beyond noise by hand."""

import numpy as np
import pytest
import scipy.stats

from mechlist.errors import InputError
from mechlist.metrics.location import beyond_noise, robust_z, summary


def test_a_summary_is_that_of_scipy():
    values = np.random.default_rng(0).standard_t(4, 500)
    found = summary(values)
    assert found.least == values.min()
    assert found.largest == values.max()
    assert found.mean == pytest.approx(values.mean())
    assert found.median == pytest.approx(np.median(values))
    assert found.sd == pytest.approx(values.std())
    assert found.robust_sd == pytest.approx(1.482602218505602 * scipy.stats.median_abs_deviation(values))
    assert found.kurtosis == pytest.approx(scipy.stats.kurtosis(values))


def test_the_robust_scale_is_that_of_the_normal_values_among_outliers():
    values = np.random.default_rng(0).standard_normal(2000)
    values[:40] = 60
    assert summary(values).sd > 8
    assert summary(values).robust_sd == pytest.approx(1, abs=0.05)


def test_outliers_hide_behind_the_plain_scale():
    values = np.random.default_rng(0).standard_normal(1000)
    values[:3], values[3] = 40.0, 7.0
    plain = beyond_noise(values, scale="plain", correction="bonferroni")
    robust = beyond_noise(values, scale="robust", correction="bonferroni")
    assert np.flatnonzero(plain).tolist() == [0, 1, 2]
    assert np.flatnonzero(robust).tolist() == [0, 1, 2, 3]


def test_bonferroni_is_the_normal_bound():
    """5 % of 4,096 at standard deviation 1.88 is beyond 8.2: z = 4.374."""
    values = np.random.default_rng(0).standard_normal(4096)
    values = (values - values.mean()) / values.std()
    marked = beyond_noise(values, scale="plain", correction="bonferroni")
    assert np.array_equal(marked, np.abs(values) >= scipy.stats.norm.isf(0.025 / 4096))
    assert 1.88 * scipy.stats.norm.isf(0.025 / 4096) == pytest.approx(8.2, abs=0.05)


def test_the_false_discovery_rate_finds_more_than_bonferroni():
    values = np.random.default_rng(0).standard_normal(1000)
    values[:50] += 4
    counts = [
        int(beyond_noise(values, scale="robust", correction=c).sum()) for c in ("bonferroni", "benjamini-hochberg")
    ]
    assert 0 < counts[0] < counts[1] <= 60


def test_equal_values_have_no_scale():
    assert np.isnan(summary(np.ones(4)).kurtosis)
    assert robust_z(np.array([1.0, 1.0, 1.0, 2.0])).tolist() == [0.0, 0.0, 0.0, np.inf]
    assert not beyond_noise(np.ones(4), scale="robust", correction="bonferroni").any()


def test_bad_input():
    with pytest.raises(InputError, match="values must hold one value at least, not none"):
        summary(np.array([]))
    with pytest.raises(InputError, match="values must be finite; 2 of 3 are not"):
        robust_z(np.array([np.nan, 1.0, np.inf]))
    with pytest.raises(InputError, match=r"alpha must be between 0 and 1, not 1\.0"):
        beyond_noise(np.ones(3), scale="plain", correction="bonferroni", alpha=1.0)
