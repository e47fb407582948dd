"""Bootstrap over clusters: draws of a statistic, and intervals of it that hold with few clusters and skewed values.

Every statistic here depends on how often each cluster counts. It is computed with all clusters once (the estimate),
with each left out (the jackknife), and with clusters drawn again with replacement; from these three follow the ends of
the BCa interval (Efron 1987), which mends bias and skew, at levels that are widened for few clusters (Hesterberg 2015,
section 5.3): sqrt(n / (n - 1)) t(n - 1) standard deviations instead of the normal distribution's.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from mechlist.errors import InputError

BLOCK_BYTES = 2**27
"""Of resample weights, and of resampled means, held at a time."""
GROUPS = 128
"""Left out one by one; of more clusters so many groups, from which the skew follows as well."""
CELLS = 100
"""For fewer a thread of their own is no gain."""
_ROUNDING = 1e-12
"""Relative to the values: the same sum in another order may miss it by so much."""


class Interval(NamedTuple):
    """Ends of a confidence interval, in the units of the values."""

    low: Float[np.ndarray, "*cell"]
    high: Float[np.ndarray, "*cell"]


class Draws(NamedTuple):
    """A statistic of every cell with all clusters, without each of them, and with clusters drawn again."""

    whole: Float[np.ndarray, " cell"]
    without: Float[np.ndarray, "group cell"]
    """Of more than `GROUPS` clusters groups are left out."""
    again: Float[np.ndarray, "resample cell"]
    clusters: int
    """0 for what is known, and is the same in every draw."""

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Draws":
        """A statistic that follows from this one; `function` takes rows of cells, and gives as many rows."""
        return Draws(function(self.whole[None])[0], function(self.without), function(self.again), self.clusters)

    def beside(self, other: "Draws") -> "Draws":
        """Its cells, and after them those of another statistic of the same clusters in the same draws."""
        pairs = ((self.whole, other.whole), (self.without, other.without), (self.again, other.again))
        whole, without, again = (np.concatenate(pair, axis=-1) for pair in pairs)
        return Draws(whole, without, again, self.clusters)

    def less(self, other: "Draws") -> "Draws":
        """The difference from a statistic that the same clusters give, in the same draws."""
        if other.clusters == 0:
            return Draws(self.whole - other.whole, self.without - other.whole, self.again - other.whole, self.clusters)
        same = len(self.without) == len(other.without)
        # Without a common jackknife there is no correction of skew.
        without = self.without - other.without if same else np.full_like(self.without, np.nan)
        clusters = min(self.clusters, other.clusters)
        return Draws(self.whole - other.whole, without, self.again - other.again, clusters)

    def interval(self, level: float | int, told: Bool[np.ndarray, " cell"] | None = None) -> Interval:
        """BCa interval of each cell that is `told` about; NaN elsewhere, and everywhere with fewer than two clusters.

        Draws in which a cell is NaN do not count for it. Where all draws agree the interval is a point, which says that
        nothing varied and not that nothing could.

        Raises:
            InputError: a level outside 0 to 1.
        """
        check_level(level)
        low, high = np.full((2, *self.whole.shape), np.nan)
        there = np.isfinite(self.again).any(axis=0) & np.isfinite(self.whole) & (told is None or told)
        if self.clusters > 1 and there.any():
            cells = Draws(self.whole[there], self.without[:, there], self.again[:, there], self.clusters)
            low[there], high[there] = _bca_in_threads(cells, level)
        return Interval(low, high)

    def steps_interval(self, level: float | int) -> Interval:
        """Ends that are values which some draw gave: for places, medians and others that move in steps, cell by cell.

        Percentiles at levels that are widened for few clusters; infinite values count, NaN do not.

        Raises:
            InputError: a level outside 0 to 1.
        """
        check_level(level)
        low, high = np.full((2, *self.whole.shape), np.nan)
        if self.clusters > 1:
            ends = widened(level, self.clusters)
            for cell in np.ndindex(self.whole.shape):
                drawn = self.again[(slice(None), *cell)]
                drawn = drawn[~np.isnan(drawn)]
                if len(drawn):
                    low[cell], high[cell] = np.quantile(drawn, ends, method="inverted_cdf")
        return Interval(low, high)


def known(values: Float[np.ndarray, " cell"]) -> Draws:
    """Numbers that do not depend on any draw, and have no interval."""
    return Draws(values, np.zeros((0, len(values))), values[None], 0)


def draws_of(
    statistic: Callable[[Float[np.ndarray, "row cluster"]], Float[np.ndarray, "row cell"]],
    clusters: int,
    *,
    resamples: int,
    generator: np.random.Generator,
) -> Draws:
    """Draws of a statistic that is given by how often each cluster counts, in blocks of bounded size.

    Raises:
        InputError: no resample.
    """
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, not {resamples}.")
    whole = statistic(np.ones((1, clusters)))
    rows = max(1, BLOCK_BYTES // (16 * max(clusters, 1)))
    groups = np.array_split(np.arange(clusters), min(clusters, GROUPS)) if clusters > 1 else []
    left = np.ones((len(groups), clusters))
    for counts, group in zip(left, groups, strict=True):
        counts[group] = 0
    nothing = np.full((1, whole.shape[1]), np.nan)
    without = statistic(left) if groups else nothing[:0]
    again = [statistic(counts) for counts in _counts(clusters, resamples, rows, generator)]
    return Draws(whole[0], without, np.concatenate(again or [nothing]), clusters)


def _counts(
    clusters: int, resamples: int, rows: int, generator: np.random.Generator
) -> Iterator[Float[np.ndarray, "row cluster"]]:
    """How often each cluster is drawn, a bounded number of resamples at a time."""
    for start in range(0, resamples if clusters else 0, rows):
        size = min(rows, resamples - start)
        yield generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=size).astype(np.float64)


def widened(level: float | int, clusters: int) -> list[float]:
    """Shares of the draws below the ends of an interval over so few clusters, without skew."""
    from scipy.special import ndtr

    deviations = _deviations(level, clusters)
    return [float(ndtr(-deviations)), float(ndtr(deviations))]


def check_level(level: float | int) -> None:
    """Raise InputError for a level that is not between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, not {level}.")


def sums(values: Shaped[np.ndarray, "unit cell"], member: Shaped[np.ndarray, " unit"]) -> np.ndarray:
    """Sums over the units of each cluster; `member` numbers the cluster of each unit."""
    out = np.zeros((int(member.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(out, member, values)
    return out


def _deviations(level: float | int, clusters: int) -> float:
    from scipy.special import stdtrit

    return float(np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, (1 + level) / 2))


def _bca_in_threads(drawn: Draws, level: float | int) -> tuple[np.ndarray, np.ndarray]:
    """As `_bca`, which mostly sorts, and does that for some cells as well as for all."""
    import torch

    size = max(CELLS, -(-len(drawn.whole) // torch.get_num_threads()))
    parts = [slice(start, start + size) for start in range(0, len(drawn.whole), size)]
    if len(parts) == 1:
        return _bca(drawn, level)

    def ends(part: slice) -> tuple[np.ndarray, np.ndarray]:
        return _bca(Draws(drawn.whole[part], drawn.without[:, part], drawn.again[:, part], drawn.clusters), level)

    with ThreadPoolExecutor(len(parts)) as pool:
        low, high = zip(*pool.map(ends, parts), strict=True)
    return np.concatenate(low), np.concatenate(high)


def _bca(drawn: Draws, level: float | int) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
    from scipy.special import ndtr, ndtri

    whole, cell = drawn.whole, np.arange(len(drawn.whole))
    ordered = np.sort(drawn.again, axis=0)  # NaN come last
    told = np.isfinite(drawn.again).sum(axis=0)
    first, last = ordered[0], ordered[told - 1, cell]
    rounding = _ROUNDING * np.maximum(np.abs(first), np.abs(last))
    # What equals the estimate counts half.
    below, upto = (drawn.again < whole - rounding).sum(axis=0), (drawn.again <= whole + rounding).sum(axis=0)
    bias = ndtri(np.clip((below + upto) / 2 / told, 0.5 / told, 1 - 0.5 / told))
    skew, deviations, ends = _skew(drawn.without), _deviations(level, drawn.clusters), []
    for normal in (bias - deviations, bias + deviations):
        scale = 1 - skew * normal
        beyond = np.where(normal > 0, np.inf, -np.inf)
        place = ndtr(np.where(scale > 0, bias + normal / np.where(scale > 0, scale, 1.0), beyond)) * (told - 1)
        under = np.floor(place).astype(np.int64)
        start, following = ordered[under, cell], ordered[np.minimum(under + 1, told - 1), cell]
        ends.append(np.where(last - first <= rounding, whole, start + (place - under) * (following - start)))
    return ends[0], ends[1]


def _skew(without: Float[np.ndarray, "group cell"]) -> Float[np.ndarray, " cell"]:
    """Acceleration of each cell, of the groups without which it is known; 0 where nothing varies."""
    known = np.isfinite(without)
    filled = np.where(known, without, 0.0)
    mean = filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    away = np.where(known, mean - filled, 0.0)
    size = (away**2).sum(axis=0) ** 1.5
    return np.divide((away**3).sum(axis=0), 6 * size, out=np.zeros_like(size), where=size > 1e-300)
