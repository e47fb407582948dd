"""Wilson's interval against statsmodels, and how often it holds."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from mechlist.errors import InputError
from mechlist.metrics.shares import share_interval


@pytest.mark.parametrize(("hits", "sample"), [(0, 10), (3, 10), (10, 10), (457, 2000)])
def test_from_an_endless_population_it_is_that_of_statsmodels(hits: int, sample: int):
    assert share_interval(hits, sample) == pytest.approx(proportion_confint(hits, sample, method="wilson"))


def test_a_sample_of_all_leaves_no_doubt_and_of_half_less_than_of_few():
    assert share_interval(30, 100, population=100) == (0.3, 0.3)
    half, few = share_interval(30, 100, population=200), share_interval(30, 100, population=10**6)
    assert half[1] - half[0] == pytest.approx((few[1] - few[0]) * 0.5**0.5, rel=0.02)


def test_it_holds_as_often_as_it_says():
    generator, population = np.random.default_rng(0), np.arange(1000) < 230
    held = 0
    for _ in range(400):
        hits = int(generator.choice(population, 150, replace=False).sum())
        low, high = share_interval(hits, 150, population=1000)
        held += low <= 0.23 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_bad_input():
    with pytest.raises(InputError, match="hits must be from 0 to the units of the sample, not 4 of 3"):
        share_interval(4, 3)
    with pytest.raises(InputError, match="not 1 of 5 of 4"):
        share_interval(1, 5, population=4)
    with pytest.raises(InputError, match="level must be between 0 and 1, not 95"):
        share_interval(1, 5, level=95)
