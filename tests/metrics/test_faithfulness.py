"""Faithfulness and the areas under its curve."""

import numpy as np
import pytest

from mechlist.errors import InputError
from mechlist.metrics.faithfulness import (
    MIB_SHARES,
    faithfulness,
    faithfulness_interval,
    model_distance,
    performance_ratio,
)

WHOLE, EMPTY = np.array([3.0, 5.0]), np.array([-1.0, 1.0])


def test_the_model_is_perfectly_faithful_and_nothing_scores_zero():
    found = faithfulness(np.stack([WHOLE, EMPTY, (WHOLE + EMPTY) / 2, 2 * WHOLE - EMPTY], axis=1), WHOLE, EMPTY)
    np.testing.assert_allclose(found, [1, 0, 0.5, 2])


def test_means_come_before_the_ratio():
    # Prompt by prompt the shares are 1/4 and 1: their mean is .625; of the means it is 5/8 too only by equal gaps.
    whole, empty = np.array([4.0, 1.0]), np.zeros(2)
    assert faithfulness(np.array([[1.0], [1.0]]), whole, empty)[0] == pytest.approx(2 / 5)


def test_nothing_to_explain_is_nan():
    assert np.isnan(faithfulness(WHOLE[:, None], WHOLE, WHOLE)).all()


def test_intervals_cover_and_need_two_clusters():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        gap = rng.normal(4, 1, size=40)
        circuit = 0.7 * gap + rng.normal(0, 1, size=40)
        low, high = faithfulness_interval(circuit[:, None], gap, np.zeros(40), generator=rng, resamples=400)
        covered += bool(low[0] <= 0.7 <= high[0])
    assert covered >= 130
    low, high = faithfulness_interval(
        WHOLE[:, None], WHOLE, EMPTY, clusters=np.array(["a", "a"]), generator=np.random.default_rng(0)
    )
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_areas_of_known_curves():
    perfect, nothing = np.ones(len(MIB_SHARES)), np.zeros(len(MIB_SHARES))
    assert performance_ratio(perfect) == pytest.approx(0.999)
    assert model_distance(perfect) == 0
    assert performance_ratio(nothing) == 0
    assert model_distance(nothing) == pytest.approx(0.999)
    # Overshooting counts for the ratio, and against the distance.
    assert performance_ratio(2 * perfect) == pytest.approx(1.998)
    assert model_distance(2 * perfect) == pytest.approx(0.999)
    assert performance_ratio(np.array([0.0, 1.0]), (0.0, 0.5)) == 0.25


def test_areas_worked_out_by_hand():
    values = np.array([0, 0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.1, 1, 1])
    ratio = 0.003 * 0.05 + 0.005 * 0.15 + 0.01 * 0.3 + 0.03 * 0.5 + 0.05 * 0.7 + 0.1 * 0.95 + 0.3 * 1.05 + 0.5 * 1
    assert performance_ratio(values) == pytest.approx(ratio)
    distance = 0.001 + 0.003 * 0.95 + 0.005 * 0.85 + 0.01 * 0.7 + 0.03 * 0.5 + 0.05 * 0.3 + 0.1 * 0.15 + 0.3 * 0.05
    assert model_distance(values) == pytest.approx(distance)


def test_areas_that_mibs_own_code_gave():
    """EAP-IG of GPT-2 small on IOI, edges by the size of their score: its `area_under` and `area_from_1`."""
    values = np.array(
        [
            *(0.019733655092845453, 0.0887017567842513, 0.30987243945853277, 0.6089829995759188, 0.9111720307934588),
            *(0.8767607049910842, 0.9323771262762143, 0.9045808511402504, 1.013144402912753, 1.0),
        ]
    )
    assert performance_ratio(values) == pytest.approx(0.9653902172751483, abs=1e-12)
    assert model_distance(values) == pytest.approx(0.04412530505505405, abs=1e-12)


def test_a_curve_needs_a_value_a_share():
    with pytest.raises(InputError, match="not 2 for 10"):
        performance_ratio(np.ones(2))
