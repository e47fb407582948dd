"""How sure a mean is, and how large a score must be: a bootstrap over clusters, and the maximum over a null's heads."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from mechlist import effort
from mechlist.errors import InputError
from mechlist.metrics import resampling
from mechlist.metrics.resampling import Draws, Interval, check_level, draws_of, sums


class Threshold(NamedTuple):
    """A score that the null's largest rarely reaches, and how rarely."""

    value: float
    level: float
    """Probability that the largest score of a fresh draw from the null stays at or below `value`."""


def bootstrap_interval(
    values: Float[np.ndarray, "unit *cell"],
    *,
    level: float | int = 0.95,
    resamples: int = 2000,
    generator: np.random.Generator,
    clusters: Shaped[np.ndarray, " label"] | None = None,
) -> Interval:
    """BCa bootstrap of the mean over the first axis, for each cell by itself, widened for few units (`resampling`).

    Units are resampled with replacement, or whole clusters of units that carry the same label in `clusters`; the mean
    is then over the units of the drawn clusters. All cells share each resample. Of normal values .95 covers about .95
    from 10 units on, .93 at 6 and .86 at 4; of lognormal ones .90 at 23 units and .82 at 6.

    From one unit or one cluster there is no interval, and both ends are NaN; likewise in a cell with a value that is
    not finite. Memory beyond the values is bounded, and the result does not depend on how the work is divided.

    Raises:
        InputError: no unit, a level outside 0 to 1, no resample, or labels that are not one a unit.
    """
    _check(values, level, resamples, clusters)
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    member = np.arange(len(flat)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    low = np.full(flat.shape[1], np.nan)
    high = low.copy()
    usable = np.flatnonzero(np.isfinite(flat).all(axis=0))
    seed = int(generator.integers(2**63))
    width = max(1, resampling.BLOCK_BYTES // (8 * max(resamples, len(flat))))
    with effort.draws(resamples) as draws:
        for start in range(0, len(usable) if member.max() > 0 else 0, width):
            cells = usable[start : start + width]
            # Every block draws the same resamples again: cheaper than to keep them, and all cells must share them.
            means = _means(flat[:, cells].astype(np.float64), member, draws, np.random.default_rng(seed))
            low[cells], high[cells] = means.interval(level)
    return Interval(low.reshape(values.shape[1:]), high.reshape(values.shape[1:]))


def null_threshold(null_scores: Float[np.ndarray, "draw *cell"], level: float | int = 0.95) -> Threshold:
    """The `level` quantile of the largest score over all cells, across draws of a null such as untrained models.

    A score above it anywhere in the grid is a false alarm with a chance of at most 1 - level, however many heads are
    looked at (Westfall & Young 1993). The quantile is the order statistic for which that holds with this many draws:
    number ceil(level * (draws + 1)). With fewer than level / (1 - level) draws (19 at .95) there is none; the largest
    is taken, and the `level` that comes back says what it is worth: draws / (draws + 1).

    Raises:
        InputError: no draw, no cell, a level outside 0 to 1, or NaN among the scores.
    """
    check_level(level)
    if null_scores.size == 0:
        raise InputError(f"null_scores must have a draw and a cell at least, not the shape {null_scores.shape}.")
    largest = np.sort(null_scores.reshape(len(null_scores), -1).max(axis=1))
    if np.isnan(largest).any():
        raise InputError("null_scores must not hold NaN: a maximum over it means nothing.")
    draws = len(largest)
    # .95 * 20 and its like must not be lifted over the whole number by rounding.
    rank = min(draws, math.ceil(level * (draws + 1) - 1e-9))
    return Threshold(float(largest[rank - 1]), rank / (draws + 1))


def _means(
    values: Float[np.ndarray, "unit cell"],
    member: Int[np.ndarray, " unit"],
    resamples: int,
    generator: np.random.Generator,
) -> Draws:
    """Means over the units of clusters; `member` numbers the cluster of each unit."""
    sizes, total = np.bincount(member).astype(np.float64), sums(values, member)
    return draws_of(
        lambda counts: counts @ total / (counts @ sizes)[:, None],
        len(sizes),
        resamples=resamples,
        generator=generator,
    )


def _check(
    values: Float[np.ndarray, "unit *cell"],
    level: float | int,
    resamples: int,
    clusters: Shaped[np.ndarray, "..."] | None,
) -> None:
    check_level(level)
    if len(values) == 0:
        raise InputError("values must hold one unit at least along the first axis, not none.")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, not {resamples}.")
    if clusters is not None and clusters.shape != values.shape[:1]:
        raise InputError(f"clusters must label each of the {len(values)} units, not have the shape {clusters.shape}.")


def rank_correlation(x: Float[np.ndarray, " unit"], y: Float[np.ndarray, " unit"]) -> float:
    """Spearman's; ties share their mean rank. NaN where either side has one value only."""
    from scipy.stats import rankdata  # half a second, which only this needs

    return correlation(rankdata(x), rankdata(y))


def correlation(x: Float[np.ndarray, " unit"], y: Float[np.ndarray, " unit"]) -> float:
    """Pearson's. NaN where either side has one value only."""
    sides = np.stack([x, y]).astype(float)
    return float(np.corrcoef(sides)[0, 1]) if (np.ptp(sides, axis=1) > 0).all() else float("nan")
