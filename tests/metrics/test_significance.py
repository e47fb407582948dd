"""Tests over a grid by hand, against closed testing by loops, and against how often they raise a false alarm."""

import itertools
import re
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from scipy import stats

from mechlist.errors import InputError
from mechlist.metrics import resampling
from mechlist.metrics.multiple import MaxT, benjamini_hochberg, max_t, smallest_p
from mechlist.metrics.significance import Correction, below_noise, beyond_null, effect_table, numerical_noise
from mechlist.metrics.statistics import bootstrap_interval

NAN = np.nan
TOPICS = np.array(list("aabccccdde"))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cluster_sums(effects: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    return np.array([np.nansum(effects[clusters == label], axis=0) for label in np.unique(clusters)])


def t_of(sums: np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(stats.ttest_1samp(sums, 0)[0]))


def z_of(sums: np.ndarray) -> np.ndarray:
    return np.abs(sums.sum(axis=0)) / np.sqrt((sums**2).sum(axis=0))


def closed_testing(sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[list[float], list[float]]:
    """p of each cell alone, and its largest p over all sets of cells it is in, from every pattern of signs."""
    patterns = itertools.product([1, -1], repeat=len(sums))
    flipped = np.array([statistic(np.array(signs)[:, None] * sums) for signs in patterns])
    cells = range(sums.shape[1])
    p = {}
    for size in range(1, len(cells) + 1):
        for family in itertools.combinations(cells, size):
            largest = flipped[:, family].max(axis=1)
            p[family] = float(np.mean(largest >= largest[0] - 1e-9))
    return [p[(cell,)] for cell in cells], [max(p[family] for family in p if cell in family) for cell in cells]


def test_two_cells_by_hand():
    # Sums of the eight flips are 6 0 2 4 and their mirrors, and 1 (three times) 3 and their mirrors. z is 6 / sqrt(14)
    # = 1.60 and 1 / sqrt(3) = .58; the second cell's 3 / sqrt(3) = 1.73 is farther out than the first as seen.
    test = max_t(np.array([[1.0, 1.0], [2.0, 1.0], [3.0, -1.0]]), resamples=8, generator=rng())
    assert test.exhaustive
    np.testing.assert_allclose(test.t, [2 * np.sqrt(3), 0.5])
    assert test.p.tolist() == [0.25, 1.0]
    assert test.p_corrected.tolist() == [0.5, 1.0]
    assert (test.n_units.tolist(), test.n_clusters.tolist(), test.smallest_p) == ([3, 3], [3, 3], 0.25)
    assert test.reason == ""


def test_clusters_by_hand():
    # Cluster sums 3, 1, 5: the flips 9 3 7 1 and mirrors. Units would be 4 of 16 farther out.
    effects, clusters = np.array([1.0, 5.0, 2.0, 1.0]), np.array(list("acab"))
    test = max_t(effects, clusters=clusters, resamples=8, generator=rng())
    assert (float(test.p), int(test.n_units), int(test.n_clusters)) == (0.25, 4, 3)
    assert float(test.t) == pytest.approx(float(t_of(np.array([3.0, 1.0, 5.0]))))
    assert float(max_t(effects, resamples=16, generator=rng()).p) == 2 / 16


@pytest.mark.parametrize("seed", range(5))
def test_step_down_is_closed_testing_with_the_largest_t(seed: int):
    effects = rng(seed).standard_normal((10, 4)) + np.array([0, 0.5, 1, 2])
    test = max_t(effects, clusters=TOPICS, resamples=32, generator=rng())
    p, corrected = closed_testing(cluster_sums(effects, TOPICS), t_of)
    np.testing.assert_allclose(test.p, p)
    np.testing.assert_allclose(test.p_corrected, corrected)
    assert (test.p_corrected >= test.p).all()


@pytest.mark.parametrize("seed", range(5))
def test_step_down_is_closed_testing_where_units_lack_cells_and_values_tie(seed: int):
    effects = rng(seed).integers(-2, 5, (10, 4)) / 10
    effects[:, 3] = effects[:, 0]
    effects[rng(seed).random((10, 4)) < 0.25] = NAN
    test = max_t(effects, clusters=TOPICS, resamples=32, generator=rng())
    p, corrected = closed_testing(cluster_sums(effects, TOPICS), z_of)
    np.testing.assert_allclose(test.p, p)
    np.testing.assert_allclose(test.p_corrected, corrected)
    np.testing.assert_array_equal(test.n_units, (~np.isnan(effects)).sum(axis=0))
    present = [[(~np.isnan(effects[label == TOPICS, c])).any() for label in "abcde"] for c in range(4)]
    np.testing.assert_array_equal(test.n_clusters, np.sum(present, axis=1))


@pytest.mark.parametrize("seed", range(5))
def test_flips_that_tie_but_for_rounding_count_as_ties(seed: int):
    whole = rng(seed).integers(1, 9, (9, 30))
    tenths = max_t(whole / 10, resamples=512, generator=rng())
    signs = np.array(list(itertools.product([1, -1], repeat=9)))
    np.testing.assert_array_equal(tenths.p, np.mean(np.abs(signs @ whole) >= whole.sum(axis=0), axis=0))
    shifted = whole - 4
    tenths = max_t(shifted / 10, resamples=512, generator=rng())
    np.testing.assert_array_equal(tenths.p, np.mean(np.abs(signs @ shifted) >= np.abs(shifted.sum(axis=0)), axis=0))


def test_clusters_that_lack_a_cell_are_no_part_of_its_t_and_none_of_the_flips_if_they_lack_all():
    effects = rng(12).standard_normal((10, 3)) + 0.5
    effects[TOPICS == "c", 0] = effects[TOPICS == "e"] = NAN
    effects[:, 2] = 0
    test = max_t(effects, clusters=TOPICS, resamples=16, generator=rng())
    for cell, labels in ((0, "abd"), (1, "abcd")):
        sums = np.array([np.nansum(effects[label == TOPICS, cell]) for label in labels])
        assert abs(float(test.t[cell])) == pytest.approx(float(t_of(sums)))
    # Four clusters are left, and 16 patterns are all; the third cell, which has all five, is not tested.
    assert test.exhaustive
    assert test.smallest_p == 2 / 16
    table = effect_table(effects, clusters=TOPICS, resamples=16, generator=rng())
    assert table.reason == "No cell can be significant at 0.05: 4 clusters give no p value below 0.125."
    effects[TOPICS == "d", 1] = NAN
    test = max_t(effects, clusters=TOPICS, resamples=15, generator=rng())
    assert test.n_clusters.tolist() == [3, 3, 5]
    assert (test.exhaustive, test.smallest_p) == (False, 1 / 16)


def test_a_cell_by_itself_is_the_sign_test_of_scipy():
    values = rng(3).standard_normal(10) + 0.4
    expected = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=1024)
    assert float(max_t(values, resamples=1024, generator=rng()).p) == pytest.approx(expected.pvalue)


def test_random_flips_come_near_all_flips():
    effects = rng(4).standard_normal((12, 5)) + 0.3
    exact = max_t(effects, resamples=4096, generator=rng())
    random = max_t(effects, resamples=4095, generator=rng())
    assert (exact.exhaustive, random.exhaustive) == (True, False)
    np.testing.assert_allclose(random.p, exact.p, atol=0.03)
    np.testing.assert_allclose(random.p_corrected, exact.p_corrected, atol=0.03)
    assert random.smallest_p == 1 / 4096
    assert np.allclose(random.p * 4096, np.round(random.p * 4096))


def test_cells_that_never_change_are_no_part_of_the_family():
    effects = rng(5).standard_normal((7, 2, 3)) + 0.5
    alone = max_t(effects[:, 0], resamples=128, generator=rng())
    effects[:, 1] = 0
    effects[2, 1, 1] = NAN
    test = max_t(effects, resamples=128, generator=rng())
    assert test.tested.tolist() == [[True] * 3, [False] * 3]
    np.testing.assert_array_equal(test.p_corrected, [alone.p_corrected, np.ones(3)])
    assert test.p[1].tolist() == [1, 1, 1]
    assert np.isnan(test.t[1]).all()


def test_equal_effects_and_effects_that_cancel():
    # .1 + .2 - .3 is not quite zero: neither within a cluster nor over clusters may the rounding look like an effect.
    effects = np.array([[0.1, 0.1, 0.1], [0.1, 0.2, 0.2], [0.1, -0.3, -0.3], [0.1, 0, 0.1], [0.1, 0, 0.2], [0.1, 0, 0]])
    test = max_t(effects, clusters=np.array(list("aaabbb")), resamples=4, generator=rng())
    assert test.t[0] == np.inf
    assert np.isnan(test.t[1])
    assert test.p.tolist() == [0.5, 1, 1]
    assert test.tested.tolist() == [True, True, True]
    across = max_t(effects[:3], resamples=8, generator=rng())
    assert across.t[0] == np.inf
    assert across.p.tolist() == [0.25, 1, 1]
    assert max_t(-effects[:3, 0], resamples=8, generator=rng()).t == -np.inf


def test_what_cannot_be_tested_says_why():
    one = max_t(np.ones((1, 2)), generator=rng())
    assert np.isnan([one.t, one.p, one.p_corrected]).all()
    assert np.isnan(one.smallest_p)
    assert one.reason == "There is no test: one unit says nothing about others."
    same = max_t(np.ones((4, 2)), clusters=np.zeros(4), generator=rng())
    assert np.isnan(same.p_corrected).all()
    assert same.reason == "There is no test: all 4 units are of one cluster."
    still = max_t(np.zeros((4, 2)), generator=rng())
    assert still.p.tolist() == [1, 1]
    assert still.reason == "There is no test: no cell ever changed."
    apart = max_t(np.array([[1.0, NAN], [NAN, 1.0]]), generator=rng())
    assert np.isnan(apart.p).all()
    assert apart.reason == "There is no test: no cell has values in two clusters."
    assert max_t(np.ones((3, 0, 2)), generator=rng()).p.shape == (0, 2)


def test_a_cell_with_one_cluster_is_left_out_alone():
    effects = rng(6).standard_normal((6, 3))
    alone = max_t(effects[:, 1:], resamples=64, generator=rng())
    effects[1:, 0] = NAN
    test = max_t(effects, resamples=64, generator=rng())
    assert np.isnan([test.p[0], test.p_corrected[0], test.t[0]]).all()
    np.testing.assert_array_equal(test.p_corrected[1:], alone.p_corrected)


def test_the_smallest_p_value():
    assert (smallest_p(5), smallest_p(6), smallest_p(20, 99)) == (1 / 16, 1 / 32, 0.01)
    for number in (2, 5, 8):
        test = max_t(np.arange(1.0, number + 1)[:, None] * [1, 2], resamples=256, generator=rng())
        assert test.p_corrected.tolist() == [test.smallest_p] * 2 == [2 / 2**number] * 2


def test_the_order_of_units_and_the_division_of_the_work_change_nothing(monkeypatch: pytest.MonkeyPatch):
    effects = rng(7).standard_normal((30, 4, 5)) + 0.2
    clusters = np.arange(30) % 17
    order = rng(8).permutation(30)
    for resamples in (300, 2**17):
        whole = max_t(effects, clusters=clusters, resamples=resamples, generator=rng())
        shuffled = max_t(effects[order], clusters=clusters[order], resamples=resamples, generator=rng())
        np.testing.assert_array_equal(shuffled.p_corrected, whole.p_corrected)
        with monkeypatch.context() as patch:
            patch.setattr(resampling, "BLOCK_BYTES", 16 * 20 * resamples // 3)
            divided = max_t(effects, clusters=clusters, resamples=resamples, generator=rng())
        np.testing.assert_array_equal(divided.p, whole.p)
        np.testing.assert_array_equal(divided.p_corrected, whole.p_corrected)


SIZES = np.repeat(np.arange(12), [1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12])


def gaussian(generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal((15, 12))


def heavy_tailed(generator: np.random.Generator) -> np.ndarray:
    return generator.standard_t(3, (15, 12))


def correlated(generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal((15, 12)) + 2 * generator.standard_normal((15, 1))


def clustered(generator: np.random.Generator) -> np.ndarray:
    return (generator.standard_t(3, (12, 8)) * generator.gamma(1, size=(12, 1)))[SIZES] + generator.standard_normal(
        (len(SIZES), 8)
    )


def with_gaps(generator: np.random.Generator) -> np.ndarray:
    effects = clustered(generator)
    effects[generator.random(effects.shape) < 0.4] = NAN
    return effects


def alarms(
    draw: Callable[[np.random.Generator], np.ndarray], clusters: np.ndarray | None, first: int = 0, **options: Any
) -> np.ndarray:
    """Whether any cell from number `first` on is rejected at .05, in each of 1,000 simulations."""
    generator = rng(first)
    tests = (max_t(draw(generator), clusters=clusters, generator=generator, **options) for _ in range(1000))
    return np.array([(test.p_corrected[first:] <= 0.05).any() for test in tests])


def holds(rejected: np.ndarray, level: float) -> bool:
    low, high = stats.binom.interval(0.999, len(rejected), level)
    return low <= rejected.sum() <= high


@pytest.mark.parametrize(
    ("draw", "clusters"),
    [(gaussian, None), (heavy_tailed, None), (correlated, None), (clustered, SIZES), (with_gaps, SIZES)],
)
def test_false_alarms_anywhere_in_the_grid_are_as_rare_as_promised(
    draw: Callable[[np.random.Generator], np.ndarray], clusters: np.ndarray | None
):
    assert holds(alarms(draw, clusters, resamples=199), 0.05)


def test_all_flips_of_few_clusters_hold_the_level_that_their_number_allows():
    few = np.repeat(np.arange(8), [1, 1, 2, 2, 3, 4, 5, 9])
    # Of 128 flips up to mirrors, six are at most .05.
    assert holds(alarms(lambda g: g.standard_normal((8, 6))[few], few, resamples=256), 6 / 128)


def test_units_of_a_cluster_taken_for_independent_raise_false_alarms():
    assert alarms(clustered, None, resamples=199).mean() > 0.2


def test_skewed_effects_with_a_mean_of_zero_are_not_the_null_hypothesis():
    for clusters, often in ((20, 0.28), (100, 0.12)):
        assert holds(alarms(lambda g, n=clusters: g.exponential(size=(n, 12)) - 1, None, resamples=199), often)


def test_true_effects_are_found_and_do_not_cost_the_others_their_level():
    def planted(generator: np.random.Generator) -> np.ndarray:
        return gaussian(generator) + np.repeat([3.0, 0.0], [4, 8])

    assert holds(alarms(planted, None, first=4, resamples=199), 0.05)
    found = [max_t(planted(rng(s)), resamples=199, generator=rng(s)).p_corrected[:4] <= 0.05 for s in range(50)]
    assert np.mean(found) > 0.99


def test_benjamini_hochberg_is_the_formula():
    p = rng(9).random((4, 5)) ** 2
    p[1, 2] = p[3, 3] = NAN
    p[0, 0] = p[0, 1]
    finite = p[~np.isnan(p)]
    expected = [min(min(1, q * len(finite) / np.sum(finite <= q)) for q in finite if q >= one) for one in finite]
    adjusted = benjamini_hochberg(p)
    np.testing.assert_allclose(adjusted[~np.isnan(p)], expected)
    np.testing.assert_array_equal(np.isnan(adjusted), np.isnan(p))
    assert np.isnan(benjamini_hochberg(np.array([NAN, NAN]))).all()
    with pytest.raises(InputError, match=re.escape("p must be between 0 and 1, or NaN, not 0.5 to 1.5.")):
        benjamini_hochberg(np.array([0.5, NAN, 1.5]))


def test_beyond_an_irrelevant_change():
    draws = np.array([[0.1, -0.5, NAN], [0.3, 0.2, NAN], [-0.9, NAN, NAN]])
    found = beyond_null(np.array([-0.91, 0.9, 5.0]), draws, 0.75)
    assert found.threshold == (0.9, 0.75)
    assert found.survives.tolist() == [True, False, False]
    assert beyond_null(np.array([NAN, 0.6, 1.0]), draws, 0.5).survives.tolist() == [False, True, False]
    assert beyond_null(np.array([1.0, 1.0, 1.0]), draws).threshold.level == 0.75
    assert bool(beyond_null(np.array(-2.0), np.array([0.5, -1.5])).survives)


def test_bad_nulls():
    with pytest.raises(InputError, match=re.escape("the cells of estimate after its draws, (3,), not (2,)")):
        beyond_null(np.ones(3), np.ones((5, 2)))
    with pytest.raises(InputError, match="at least one is NaN throughout"):
        beyond_null(np.ones(2), np.array([[1.0, 2.0], [NAN, NAN]]))
    with pytest.raises(InputError, match="a draw and a cell at least"):
        beyond_null(np.ones(2), np.ones((0, 2)))
    with pytest.raises(InputError, match="level must be between 0 and 1, not 1"):
        beyond_null(np.ones(2), np.ones((3, 2)), 1)


def test_numerical_noise_is_the_largest_difference_between_repeats():
    first = np.array([[1.0, 2.0, NAN], [3.0, NAN, NAN]])
    shifts = np.array([[[0, 0, 0], [0, 0, 0]], [[0.5, 0, 0], [-0.25, 0, 0]], [[0.25, -0.125, 0], [0.5, 0, 0]]])
    repeats = first + shifts
    noise = numerical_noise(repeats)
    np.testing.assert_array_equal(noise.per_cell, [0.75, 0.125, NAN])
    assert noise.largest == 0.75
    estimate = np.array([-0.75, 0.5, NAN])
    assert below_noise(estimate, noise.per_cell).tolist() == [True, False, False]
    assert below_noise(estimate, noise.largest).tolist() == [True, True, False]
    assert numerical_noise(np.stack([first, first])).largest == 0
    assert np.isnan(numerical_noise(np.full((2, 3, 1), NAN)).largest)


def test_bad_repeats():
    with pytest.raises(InputError, match="repeats must be at least 2, not 1"):
        numerical_noise(np.ones((1, 3, 2)))
    for odd in (NAN, np.inf):
        with pytest.raises(InputError, match="NaN in all repeats alike"):
            numerical_noise(np.array([[[1.0]], [[odd]]]))
    with pytest.raises(InputError, match=re.escape("one number or have the shape (3,), not (2,)")):
        below_noise(np.ones(3), np.ones(2))
    with pytest.raises(InputError, match="must not be below zero, but -1 is"):
        below_noise(np.ones(3), -1)


def test_a_table_puts_it_together():
    effects = rng(10).standard_normal((40, 2, 3)) * 0.5
    effects[:, 0, 1] += 1
    effects[:, 1, 0] = 0
    clusters = np.arange(40) % 13
    effects[clusters < 4, 1, 2] = effects[5, 1, 2] = NAN
    table = effect_table(effects, clusters=clusters, resamples=500, noise=1e-6, generator=rng(1))
    np.testing.assert_allclose(table.estimate, np.nanmean(effects, axis=0))
    assert table.survives.tolist() == [[False, True, False], [False] * 3]
    assert table.below_noise.tolist() == [[False] * 3, [True, False, False]]
    assert table.tested.tolist() == [[True] * 3, [False, True, True]]
    kept = ~np.isnan(effects[:, 1, 2])
    assert (table.n_units[1, 2], table.n_clusters[1, 2]) == (kept.sum(), 9)
    test = max_t(effects, clusters=clusters, resamples=500, generator=rng(1))
    for name in ("t", "p", "p_corrected", "n_units", "smallest_p"):
        np.testing.assert_array_equal(getattr(table, name), getattr(test, name))
    assert (table.level, table.reason) == (0.95, "")


def test_intervals_of_a_table_are_bootstrap_intervals_of_the_units_that_have_the_cell():
    effects, clusters = rng(11).standard_normal((20, 4)), np.arange(20) % 7
    effects[3:9, 2] = NAN
    effects[:, 3] = NAN
    table = effect_table(effects, clusters=clusters, level=0.8, resamples=300, generator=rng(2))
    drawn = rng(2)
    max_t(effects, clusters=clusters, resamples=300, generator=drawn)
    seed = int(drawn.integers(2**63))
    kept = ~np.isnan(effects[:, 2])
    for cells, units in (([0, 1], np.full(20, True)), ([2], kept)):
        values = effects[units][:, cells]
        low, high = bootstrap_interval(values, level=0.8, resamples=300, generator=rng(seed), clusters=clusters[units])
        np.testing.assert_allclose([table.low[cells], table.high[cells]], [low, high])
    assert np.isnan([table.low[3], table.high[3], table.estimate[3], table.p[3]]).all()


def test_a_table_says_why_nothing_can_survive():
    five = effect_table(np.arange(1.0, 6.0)[:, None], generator=rng())
    assert five.reason == "No cell can be significant at 0.05: 5 units give no p value below 0.0625."
    assert not five.survives.any()
    topics = effect_table(np.ones((6, 1)), clusters=np.arange(6) % 3, generator=rng(), level=0.8)
    assert topics.reason == "No cell can be significant at 0.2: 3 clusters give no p value below 0.25."
    few = effect_table(np.arange(1.0, 9.0)[:, None], resamples=9, generator=rng())
    assert few.reason == "No cell can be significant at 0.05: 9 resamples give no p value below 0.1."
    one = effect_table(np.ones((1, 2)), generator=rng())
    assert np.isnan([one.low, one.high, one.p, one.p_corrected]).all()
    assert one.estimate.tolist() == [1, 1]
    assert one.reason == "There is no test: one unit says nothing about others."
    # 1 - .75 is .25 in floating point too, but 1 - .9 falls short of .1.
    reached = effect_table(np.arange(1.0, 9.0)[:, None], resamples=9, level=0.9, generator=rng(3))
    assert reached.reason == ""


def test_single_precision_and_one_cell():
    table = effect_table(np.arange(1, 9, dtype=np.float32), generator=rng(), noise=np.array(0.5))
    assert table.estimate.dtype == np.float64
    assert (float(table.estimate), float(table.p_corrected), bool(table.survives)) == (4.5, 2 / 256, True)


@pytest.mark.parametrize("function", [max_t, effect_table])
def test_bad_effects(function: Callable[..., MaxT]):
    with pytest.raises(InputError, match="effects must hold one unit at least"):
        function(np.ones((0, 2)), generator=rng())
    with pytest.raises(InputError, match="resamples must be at least 1, not 0"):
        function(np.ones((3, 2)), resamples=0, generator=rng())
    with pytest.raises(InputError, match=re.escape("label each of the 3 units, not have the shape (2,)")):
        function(np.ones((3, 2)), clusters=np.zeros(2), generator=rng())
    with pytest.raises(InputError, match="lacks the cell; 2 are infinite"):
        function(np.array([[1.0, np.inf], [-np.inf, NAN]]), generator=rng())


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_its_range(level: int):
    with pytest.raises(InputError, match=re.escape(f"level must be between 0 and 1, not {level}.")):
        effect_table(np.ones((3, 2)), level=level, generator=rng())


def test_numbers_without_a_smallest_p():
    with pytest.raises(InputError, match="must be at least 1, not 0 and 2000"):
        smallest_p(0)


def test_the_correction_that_is_asked_for():
    effects = rng(12).standard_normal((9, 3, 2)) + np.array([[1.5, 1], [0.5, 0.2], [0, 0]])
    effects[:, 2, 1] = 0
    effects[1:, 2, 0] = NAN
    tables = {name: effect_table(effects, correction=name, generator=rng()) for name in get_args(Correction)}
    test = max_t(effects, generator=rng())
    rate = tables["benjamini-hochberg"]
    np.testing.assert_array_equal(tables["max-t"].p_corrected, test.p_corrected)
    np.testing.assert_array_equal(rate.p_corrected[:2], benjamini_hochberg(test.p[:2]))
    assert rate.p_corrected[2, 1] == 1, "a cell that never changed is no part of the family"
    assert np.isnan(rate.p_corrected[2, 0])
    np.testing.assert_array_equal(rate.survives, rate.p_corrected <= 0.05)
    for name, table in tables.items():
        assert table.correction == name
        np.testing.assert_array_equal(table.p, test.p)
    # beartype refuses the word before the function can.
    plain: Any = getattr(effect_table, "__wrapped__", effect_table)
    with pytest.raises(InputError, match="correction must be one of max-t, benjamini-hochberg, not 'bonferroni'"):
        plain(effects, correction="bonferroni", generator=rng())


def test_the_false_discovery_rate_is_held():
    """Of the cells that survive, at most 5 % have no effect, in the mean over experiments."""
    generator, shares = rng(13), []
    for _ in range(300):
        effects = generator.standard_normal((15, 12)) + np.repeat([1.2, 0.0], [4, 8])
        found = effect_table(effects, correction="benjamini-hochberg", resamples=399, generator=generator).survives
        shares.append(found[4:].sum() / max(1, found.sum()))
    assert 0.01 < np.mean(shares) < 0.055


def test_effects_that_are_equal_in_every_cell_are_one_unit():
    one = np.array([[0.3, -0.2, 0.0]])
    words = "There is no test: the effects of all 8 units are equal in every cell."
    for rounding in (0.0, 1e-9):
        table = effect_table(one + rounding * rng(14).standard_normal((8, 3)), generator=rng())
        assert table.reason == words
        assert not (table.survives | table.tested).any()
        assert np.isnan([table.low, table.high, table.p_corrected]).all()
        np.testing.assert_allclose(table.estimate, one[0], atol=1e-8)
    apart = one + 1e-3 * rng(14).standard_normal((8, 3))
    assert effect_table(apart, generator=rng()).reason == ""
    assert effect_table(apart, noise=0.1, generator=rng()).reason == words
