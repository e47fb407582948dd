"""How far the features of topics overlap, and whether by more than chance."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from mechlist.errors import InputError
from mechlist.sae.attributed import AttributedFeatures, Entry

TRADES = 5
"""Of each topic, on average, between two draws of the null."""


def incidence(
    attributed: AttributedFeatures, *, keep_bos: bool = False
) -> tuple[list[tuple[str, int]], Bool[np.ndarray, "topic feature"]]:
    """Features as (hook, feature), and which topic has which: of all its lists, at any position.

    Args:
        attributed: features by topic and list.
        keep_bos: count position 0 too.

    Raises:
        InputError: a topic without any feature.
    """
    sets = {
        topic: {(hook, feature) for one in lists for position, feature, hook in one if position or keep_bos}
        for topic, lists in attributed.topics.items()
    }
    empty = next((topic for topic, own in sets.items() if not own), None)
    if empty is not None:
        raise InputError(f"Topic {empty!r} has no feature{'' if keep_bos else ' but at position 0 (BOS)'}.")
    features = sorted(set().union(*sets.values()))
    return features, np.array([[feature in own for feature in features] for own in sets.values()])


def jaccard(has: Bool[np.ndarray, "topic feature"]) -> Float[np.ndarray, "topic topic"]:
    """Features that two topics share, as a share of those that either has."""
    counts = has.astype(np.float64)
    shared, sizes = counts @ counts.T, counts.sum(axis=1)
    return shared / (sizes[:, None] + sizes[None, :] - shared)


def overlap_p_values(
    has: Bool[np.ndarray, "topic feature"], permutations: int, generator: np.random.Generator
) -> Float[np.ndarray, "topic topic"]:
    """One-sided p values of each pair's Jaccard index: as large where features are dealt out to topics at random.

    Each topic keeps its number of features and each feature its number of topics (two topics trade what only one of
    them has, at random: Strona et al. 2014, "curveball"), so that neither large topics nor features that stand
    everywhere count as overlap. NaN on the diagonal, and everywhere with two topics, which leave nothing to deal out.
    """
    seen, topics = jaccard(has), len(has)
    out = np.full((topics, topics), np.nan)
    if topics < 3:
        return out
    drawn, larger = has.copy(), np.zeros((topics, topics))
    for _ in range(TRADES * TRADES):
        _trade(drawn, generator)
    for _ in range(permutations):
        for _ in range(TRADES):
            _trade(drawn, generator)
        larger += jaccard(drawn) >= seen - 1e-12
    pairs = ~np.eye(topics, dtype=bool)
    out[pairs] = ((1 + larger) / (1 + permutations))[pairs]
    return out


def original_ratio(attributed: AttributedFeatures, *, keep_bos: bool = False) -> Float[np.ndarray, "topic topic"]:
    """The original study's measure: unsymmetric, not bounded by 1, and kept for comparison alone.

    Of topics i and j it adds up, over the pairs of their lists, the mean over hooks of |F1 & F2| / (entries of list 1),
    where F are features and entries (position, feature), and divides by the number of topics in place of the pairs.
    """
    hooks = sorted({entry[2] for lists in attributed.topics.values() for one in lists for entry in one})
    of = {topic: [_by_hook(one, hooks, keep_bos) for one in lists] for topic, lists in attributed.topics.items()}
    return np.array(
        [
            [sum(_ratio(a, b) for a in first for b in second) / len(of) for second in of.values()]
            for first in of.values()
        ]
    )


def clustered(similarity: Float[np.ndarray, "topic topic"]) -> Int[np.ndarray, " topic"]:
    """Order of the topics in which similar ones stand together (average linkage, leaves ordered)."""
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    distance = 1 - (similarity + similarity.T) / 2
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance, checks=False)
    return leaves_list(optimal_leaf_ordering(linkage(condensed, "average"), condensed)).astype(np.int64)


def _trade(has: Bool[np.ndarray, "topic feature"], generator: np.random.Generator) -> None:
    """Topics trade in pairs, each with one other."""
    order = generator.permutation(len(has))
    for first, second in zip(order[::2], order[1::2], strict=False):
        (own,) = np.nonzero(has[first] ^ has[second])
        count = int(has[first, own].sum())
        chosen = generator.permutation(own)
        has[first, own], has[second, own] = False, True
        has[first, chosen[:count]], has[second, chosen[:count]] = True, False


def _by_hook(one: Sequence[Entry], hooks: list[str], keep_bos: bool) -> list[tuple[set[int], int]]:
    """Features and number of entries, hook by hook."""
    kept = [entry for entry in one if entry[0] or keep_bos]
    parts = [[entry for entry in kept if entry[2] == hook] for hook in hooks]
    return [({feature for _, feature, _ in part}, len({(p, f) for p, f, _ in part})) for part in parts]


def _ratio(first: list[tuple[set[int], int]], second: list[tuple[set[int], int]]) -> float:
    ratios = [len(a & b) / n if n else 0.0 for (a, n), (b, _) in zip(first, second, strict=True)]
    return sum(ratios) / len(ratios)
