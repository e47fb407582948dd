"""How much texts differ: shared tokens, distinct n-grams, and the part of the spread that a choice explains."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mechlist.errors import InputError


class Spread(NamedTuple):
    """Mean distance of two continuations, and what of it the choice between groups explains."""

    total: float
    """Of two continuations drawn at random, from 0 (all alike) to 1 (no token shared)."""
    between: float
    """Total minus the mean distance within a group (Rao 1982): 0 where the choice does not matter."""

    @property
    def share(self) -> float:
        """Part of the spread that goes back to the choice; NaN where there is no spread."""
        return self.between / self.total if self.total > 0 else float("nan")


def token_distances(texts: Sequence[Sequence[int]]) -> Float[np.ndarray, "text other"]:
    """Total variation between the token frequencies of texts: half the sum of |f - g|, whatever the order of tokens.

    An empty text is at distance 1 from all others, and at 0 from another empty one.
    """
    if not texts:
        raise InputError("texts must hold one text at least, not none.")
    ids = {token: i for i, token in enumerate(dict.fromkeys(token for text in texts for token in text))}
    counts = np.zeros((len(texts), len(ids) + 1))
    for row, text in zip(counts, texts, strict=True):
        for token, count in Counter(text).items():
            row[ids[token]] = count / len(text)
        row[-1] = 0.0 if text else 1.0
    return np.stack([np.abs(counts - row).sum(axis=1) / 2 for row in counts])


def spread(
    distances: Float[np.ndarray, "text other"],
    group: Int[np.ndarray, " text"],
    weight: Float[np.ndarray, " text"],
    share: Float[np.ndarray, " group"],
    *,
    sampled: bool,
) -> Spread:
    """How far texts of several groups part (Rao's quadratic entropy, split within and between groups).

    Args:
        distances: between texts.
        group: number of each text's group.
        weight: of each text within its group.
        share: probability of each group; together 1.
        sampled: whether the texts are draws: then a text is not compared with itself, and `between`, without bias, may
            fall below 0. Else they are all that there is.

    Raises:
        InputError: a group without text, or of a single one where they are draws.
    """
    members = [group == i for i in range(len(share))]
    fewest = 2 if sampled else 1
    if min(int(m.sum()) for m in members) < fewest:
        raise InputError(f"Each of the {len(share)} groups must hold {fewest} texts at least.")
    weights = np.stack([np.where(m, weight, 0.0) / weight[m].sum() for m in members])
    mean = weights @ distances @ weights.T
    if sampled:
        # The pairs of a text with itself are at distance 0: without them the others count for all.
        np.fill_diagonal(mean, mean.diagonal() / (1 - (weights**2).sum(axis=1)))
    total = float(share @ mean @ share)
    return Spread(total, total - float(share @ mean.diagonal()))


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams as a share of all n-grams of the texts (Li et al. 2016); NaN where there is none."""
    grams = [gram for text in texts for gram in zip(*(text[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def mean_distance(texts: Sequence[Sequence[int]]) -> float:
    """Mean distance of two different texts of the set; NaN for a single text."""
    if len(texts) < 2:
        return float("nan")
    distances = token_distances(texts)
    return float(distances.sum() / (len(texts) * (len(texts) - 1)))
