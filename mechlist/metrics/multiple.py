"""Many cells tested at once: sign flips of whole clusters that hold the family-wise error, and the discovery rate."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mechlist import effort
from mechlist.errors import InputError
from mechlist.metrics import resampling

_ROUNDING = 1e-9
"""In standard deviations under the flips: flips that tie but for the order of summing must count as ties."""
_ZERO = 1e-12
"""Relative: a sum or a spread this small is zero but for rounding."""


@dataclass(frozen=True)
class MaxT:
    """A grid of cells tested at once; see `max_t`."""

    t: Float[np.ndarray, "*cell"]
    """t of the cluster sums. Infinite where all are equal, NaN where all are zero or the cell is not tested."""
    p: Float[np.ndarray, "*cell"]
    """Two-sided, of each cell by itself; 1 where nothing ever changed, NaN with fewer than two clusters."""
    p_corrected: Float[np.ndarray, "*cell"]
    """Corrected for all tested cells: where it is at most a, the chance of a false alarm anywhere is at most a."""
    tested: Bool[np.ndarray, "*cell"]
    """The family: cells with two clusters at least, in which some unit changed."""
    n_units: Int[np.ndarray, "*cell"]
    """Units that have the cell."""
    n_clusters: Int[np.ndarray, "*cell"]
    """Clusters that have the cell."""
    exhaustive: bool
    """Whether every pattern of signs was looked at, so that p values do not depend on chance."""
    smallest_p: float
    """The smallest p value that these clusters and resamples can give; NaN without a test."""
    reason: str
    """One sentence on why no cell was tested; empty where one was."""


def max_t(
    effects: Float[np.ndarray, "unit *cell"],
    *,
    clusters: Shaped[np.ndarray, " label"] | None = None,
    resamples: int = 2000,
    generator: np.random.Generator,
) -> MaxT:
    """Step-down max-T test of every cell by sign flips of whole clusters (Westfall & Young 1993, algorithm 4.1).

    Null hypothesis of a set of cells: the effects of a cluster, taken together, are as likely with all signs turned.
    Clusters are independent; units in one may depend on each other in any way, and so may cells. Under it every
    pattern of one sign a cluster is as likely as the one seen, whatever the sizes of the clusters, and the family-wise
    error is held exactly, strongly (whichever cells are null). A null that says only "the mean is zero" needs
    symmetric effects or very many clusters: of 12 cells with exponential effects less their mean, one or more is
    rejected at .05 in 28 of 100 experiments with 20 clusters, and in 12 with 100. Skewed effects that survive need
    another look, such as `significance.beyond_null`.

    The statistic is built on sums over clusters, since the mean over units is their sum but for a constant: a large
    cluster weighs as much as in the mean. Flips are compared by z = sum / sqrt(sum of squares), which they leave with
    variance 1 in every cell. Between cells with n clusters the t of the cluster sums orders them alike, being
    z * sqrt((n - 1) / (n - z**2)); z stays finite, and cells with few clusters do not drown the others.

    A NaN says that a unit lacks the cell, which is tested on the units that have it. Cells that never change have
    p = 1 and are not in the family. If 2**clusters <= resamples all patterns are looked at, and p is the share of
    those as far out as the one seen, itself included; else p = (1 + count) / (1 + resamples) over random patterns,
    which is exact as well (Phipson & Smyth 2010). A p value below `smallest_p` cannot occur.

    Raises:
        InputError: no unit, no resample, labels that are not one a unit, or an infinite effect.
    """
    _check(effects, clusters, resamples)
    shape = effects.shape[1:]
    flat = effects.reshape(len(effects), math.prod(shape)).astype(np.float64)
    member = np.arange(len(flat)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sums, changed, units = _by_cluster(flat, member)
    n_clusters = np.count_nonzero(units, axis=0)
    known = n_clusters > 1
    tested = known & changed
    t = np.full(len(tested), np.nan)
    p = np.where(known, 1.0, np.nan)
    corrected = p.copy()
    used = sums[:, tested][units[:, tested].any(axis=1)]
    exhaustive = 2 ** len(used) <= resamples
    if tested.any():
        t[tested] = _t(sums[:, tested], units[:, tested] > 0)
        p[tested], corrected[tested] = _p_values(used, resamples, exhaustive, generator)
    # Random signs over more clusters than any one cell has may by chance give less than 2 / 2**clusters.
    most = int(n_clusters.max(initial=1, where=tested)) if exhaustive else len(used)
    smallest = smallest_p(most, resamples) if tested.any() else math.nan
    return MaxT(
        t=t.reshape(shape),
        p=p.reshape(shape),
        p_corrected=corrected.reshape(shape),
        tested=tested.reshape(shape),
        n_units=units.sum(axis=0).reshape(shape),
        n_clusters=n_clusters.reshape(shape),
        exhaustive=exhaustive,
        smallest_p=smallest,
        reason=_reason(int(member.max()) + 1, len(flat), known, tested),
    )


def smallest_p(n_clusters: int, resamples: int = 2000) -> float:
    """The smallest two-sided p value of sign flips: 2 / 2**clusters, or 1 / (1 + resamples) where these are fewer.

    Five clusters give 1/16, and can therefore never reach .05; six can.

    Raises:
        InputError: no cluster, or no resample.
    """
    if n_clusters < 1 or resamples < 1:
        raise InputError(f"n_clusters and resamples must be at least 1, not {n_clusters} and {resamples}.")
    return 2 / 2**n_clusters if 2**n_clusters <= resamples else 1 / (1 + resamples)


def benjamini_hochberg(p: Float[np.ndarray, "*cell"]) -> Float[np.ndarray, "*cell"]:
    """P values adjusted for the false discovery rate over all finite ones (Benjamini & Hochberg 1995); NaN stays NaN.

    Cells known beforehand to have no effect only cost power: leave them out with `np.where(test.tested, test.p, nan)`.

    Raises:
        InputError: a p value outside 0 to 1.
    """
    from scipy.stats import false_discovery_control

    finite = ~np.isnan(p)
    if not ((p[finite] >= 0) & (p[finite] <= 1)).all():
        raise InputError(f"p must be between 0 and 1, or NaN, not {p[finite].min():g} to {p[finite].max():g}.")
    adjusted = np.full(p.shape, np.nan)
    if finite.any():
        adjusted[finite] = false_discovery_control(p[finite])
    return adjusted


def _by_cluster(
    values: Float[np.ndarray, "unit cell"], member: Int[np.ndarray, " unit"]
) -> tuple[Float[np.ndarray, "cluster cell"], Bool[np.ndarray, " cell"], Int[np.ndarray, "cluster cell"]]:
    """Sums over the units of each cluster, whether a cell is other than zero anywhere, and units that have the cell."""
    order = np.argsort(member, kind="stable")
    starts = np.flatnonzero(np.diff(member[order], prepend=-1))
    has = ~np.isnan(values)
    filled = np.where(has, values, 0)[order]
    sums = np.add.reduceat(filled, starts, axis=0)
    sums[np.abs(sums) <= _ZERO * np.add.reduceat(np.abs(filled), starts, axis=0)] = 0
    return sums, np.any(filled != 0, axis=0), np.add.reduceat(has[order], starts, axis=0, dtype=np.int64)


def _t(sums: Float[np.ndarray, "cluster cell"], has: Bool[np.ndarray, "cluster cell"]) -> Float[np.ndarray, " cell"]:
    number = np.count_nonzero(has, axis=0)
    mean = sums.sum(axis=0) / number
    spread = np.sqrt((np.where(has, sums - mean, 0) ** 2).sum(axis=0) / (number - 1))
    spread[spread <= _ZERO * np.abs(mean)] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(number) * mean / spread


def _p_values(
    sums: Float[np.ndarray, "cluster cell"], resamples: int, exhaustive: bool, generator: np.random.Generator
) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
    """P values of each cell by itself, and step-down over all: a cell stands against those no farther out than it."""
    length = np.sqrt((sums**2).sum(axis=0))
    scores = np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)
    order = np.argsort(np.abs(scores.sum(axis=0)))
    scores = scores[:, order]
    bar = np.abs(scores.sum(axis=0)) - _ROUNDING
    single, stepped = np.zeros(len(bar), dtype=int), np.zeros(len(bar), dtype=int)
    rows = max(1, resampling.BLOCK_BYTES // (16 * max(scores.shape)))
    with effort.draws(2 ** (len(sums) - 1) if exhaustive else resamples) as draws:
        patterns = (
            _all_signs(len(sums), draws, rows) if exhaustive else _random_signs(len(sums), draws, rows, generator)
        )
        for signs in patterns:
            flipped = np.abs(signs @ scores)
            single += np.count_nonzero(flipped >= bar, axis=0)
            stepped += np.count_nonzero(np.maximum.accumulate(flipped, axis=1) >= bar, axis=0)
    # A cell nearer to zero is never more significant than one farther out.
    counts = np.stack([single, np.maximum.accumulate(stepped[::-1])[::-1]])
    p = counts / draws if exhaustive else (1 + counts) / (1 + draws)
    single_p, stepped_p = p[:, np.argsort(order)]
    return single_p, stepped_p


def _all_signs(clusters: int, total: int, rows: int) -> Iterator[Float[np.ndarray, "row cluster"]]:
    """The 2**(clusters - 1) patterns whose last sign is plus: those with minus mirror them, and are as far out."""
    for start in range(0, total, rows):
        number = np.arange(start, min(start + rows, total))[:, None]
        yield 1.0 - 2 * (number >> np.arange(clusters) & 1)


def _random_signs(
    clusters: int, resamples: int, rows: int, generator: np.random.Generator
) -> Iterator[Float[np.ndarray, "row cluster"]]:
    for start in range(0, resamples, rows):
        yield np.where(generator.random((min(rows, resamples - start), clusters)) < 0.5, 1.0, -1.0)


def _reason(clusters: int, units: int, known: Bool[np.ndarray, " cell"], tested: Bool[np.ndarray, " cell"]) -> str:
    if tested.any():
        return ""
    if units == 1:
        return "There is no test: one unit says nothing about others."
    if clusters == 1:
        return f"There is no test: all {units} units are of one cluster."
    return "There is no test: " + ("no cell ever changed." if known.any() else "no cell has values in two clusters.")


def _check(
    effects: Float[np.ndarray, "unit *cell"], clusters: Shaped[np.ndarray, " label"] | None, resamples: int
) -> None:
    if len(effects) == 0:
        raise InputError("effects must hold one unit at least along the first axis, not none.")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, not {resamples}.")
    if clusters is not None and clusters.shape != effects.shape[:1]:
        raise InputError(f"clusters must label each of the {len(effects)} units, not have the shape {clusters.shape}.")
    if np.isinf(effects).any():
        infinite = np.count_nonzero(np.isinf(effects))
        raise InputError(f"effects must be finite, or NaN where a unit lacks the cell; {infinite} are infinite.")
