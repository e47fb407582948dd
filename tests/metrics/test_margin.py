"""Effects against a margin, and the smallest that could have been seen."""

import numpy as np
import pytest

from mechlist.errors import InputError
from mechlist.metrics.margin import rank_p, smallest_seen, verdict


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.3, 0.5, "matters"),
        (-0.5, -0.3, "matters"),
        (0.1, 0.5, "not known"),
        (-0.1, 0.2, "within the margin"),
        (-0.5, 0.5, "not known"),
        (float("nan"), float("nan"), "not known"),
    ],
)
def test_an_effect_matters_where_its_interval_lies_beyond_the_margin(low: float, high: float, said: str):
    assert verdict(low, high, 0.2) == said


def test_the_smallest_effect_is_seen_four_times_in_five():
    generator = np.random.default_rng(0)
    estimates = smallest_seen(0.5) + 0.5 * generator.normal(size=20000)
    assert np.mean(np.abs(estimates) > 1.96 * 0.5) == pytest.approx(0.8, abs=0.01)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="margin must be 0 or more, not -1"):
        verdict(0, 1, -1)
    with pytest.raises(InputError, match="error must be 0 or more, not -1"):
        smallest_seen(-1)


def test_a_rank_among_few_controls_is_never_small():
    assert rank_p(9.0, np.array([0.1, 0.2])) == pytest.approx(1 / 3)
    assert rank_p(0.15, np.array([0.1, -0.2])) == pytest.approx(2 / 3)
