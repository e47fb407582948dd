import numpy as np
import pytest

from mechlist.errors import InputError
from mechlist.metrics.diversity import distinct, mean_distance, spread, token_distances


def test_distances_are_of_token_frequencies():
    found = token_distances([(1, 2), (2, 1), (1, 1, 2, 2), (1, 3), (4,), (), ()])
    assert found[0].tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1, 1])
    assert found[5].tolist() == pytest.approx([1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(found, found.T)


def test_a_choice_explains_what_is_between_its_groups():
    distances = token_distances([(1,), (1,), (2,), (2,)])
    group, weight, share = np.array([0, 0, 1, 1]), np.ones(4), np.array([0.75, 0.25])
    found = spread(distances, group, weight, share, sampled=False)
    assert found == pytest.approx((2 * 0.75 * 0.25, 2 * 0.75 * 0.25))
    mixed = spread(distances, np.array([0, 1, 0, 1]), weight, np.array([0.5, 0.5]), sampled=False)
    assert mixed == pytest.approx((0.5, 0.0))
    assert mixed.share == 0.0


def test_weights_are_within_groups():
    distances = token_distances([(1,), (2,), (1,)])
    found = spread(distances, np.array([0, 0, 1]), np.array([3.0, 1.0, 5.0]), np.array([0.5, 0.5]), sampled=False)
    # Group 0 is <1> with 3/4: two draws of it differ with 2 * 3/4 * 1/4; across groups with 1/4.
    assert found.total == pytest.approx(0.25 * 0.375 + 0.5 * 0.25)
    assert found.between == pytest.approx(found.total - 0.5 * 0.375)


def test_draws_are_not_compared_with_themselves():
    generator = np.random.default_rng(0)
    texts = generator.integers(5, size=(160, 3)).tolist()
    group, weight, share = np.repeat(np.arange(20), 8), np.ones(160), np.full(20, 1 / 20)
    found = spread(token_distances(texts), group, weight, share, sampled=True)
    biased = spread(token_distances(texts), group, weight, share, sampled=False)
    # Groups of eight random texts: nothing to explain, which counting texts against themselves hides.
    assert abs(found.share) < 0.05 < 0.08 < biased.share
    with pytest.raises(InputError, match="Each of the 2 groups must hold 2 texts at least"):
        spread(token_distances([(1,), (2,), (3,)]), np.array([0, 0, 1]), np.ones(3), np.full(2, 0.5), sampled=True)


def test_distinct_counts_different_n_grams():
    assert distinct([(1, 2, 1, 2)], 1) == 0.5
    assert distinct([(1, 2, 1, 2)], 2) == pytest.approx(2 / 3)
    assert distinct([(1, 2), (1, 2)], 2) == 0.5
    assert np.isnan(distinct([(1,)], 2))


def test_mean_distance_is_of_pairs():
    assert mean_distance([(1,), (1,), (2,)]) == pytest.approx(2 / 3)
    assert np.isnan(mean_distance([(1,)]))
    with pytest.raises(InputError, match="texts must hold one text at least"):
        token_distances([])
