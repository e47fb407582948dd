"""Ratios of sums, such as the share of items with a filler: percentile bootstrap over whole clusters."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Num, Shaped

from mechlist import effort
from mechlist.errors import InputError
from mechlist.metrics import statistics
from mechlist.metrics.statistics import Interval


def ratio_interval(
    numerator: Num[np.ndarray, "unit *cell"],
    denominator: Num[np.ndarray, "other *others"],
    clusters: Shaped[np.ndarray, " label"],
    *,
    level: float | int = 0.95,
    resamples: int = 2000,
    generator: np.random.Generator,
) -> Interval:
    """Percentile bootstrap of sum(numerator) / sum(denominator) over whole clusters, for each cell by itself.

    A cell that fewer than two clusters contribute to has no interval, and both ends are NaN; resamples that leave a
    cell empty do not count for it. Where every cluster agrees (no item, or each) the interval is a point, which says
    that nothing varied and not that nothing could.

    Raises:
        InputError: shapes that differ, or labels that are not one a unit.
    """
    if numerator.shape != denominator.shape:
        raise InputError(
            f"numerator and denominator must have one shape; received {numerator.shape} and {denominator.shape}."
        )
    flat = (len(numerator), int(np.prod(numerator.shape[1:])))
    above, below = numerator.reshape(flat), denominator.reshape(flat)
    with effort.draws(resamples) as draws:
        drawn = resampled_ratios(above, below, clusters, resamples=draws, generator=generator)
        low, high = quantiles(drawn, clusters_of(below, clusters) > 1, level)
    return Interval(low.reshape(numerator.shape[1:]), high.reshape(numerator.shape[1:]))


def resampled_ratios(
    numerator: Num[np.ndarray, "unit cell"],
    denominator: Num[np.ndarray, "unit cell"],
    clusters: Shaped[np.ndarray, " label"],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "resample cell"]:
    """sum(numerator) / sum(denominator) of units in clusters drawn with replacement; NaN where a resample has none.

    Raises:
        InputError: labels that are not one a unit, or no resample.
    """
    if clusters.shape != numerator.shape[:1]:
        raise InputError(
            f"clusters must label each of the {len(numerator)} units, not have the shape {clusters.shape}."
        )
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, not {resamples}.")
    above, below = _sums(numerator, clusters), _sums(denominator, clusters)
    with effort.draws(resamples) as draws:
        drawn = [_ratio(counts @ above, counts @ below) for counts in _counts(len(above), draws, generator)]
    return effort.as_many(np.concatenate(drawn or [np.full((1, numerator.shape[1]), np.nan)]), resamples)


def quantiles(drawn: Float[np.ndarray, "resample cell"], known: np.ndarray, level: float | int) -> Interval:
    """Interval of each cell that is `known`, over the resamples that tell about it; NaN elsewhere."""
    outer = np.full((2, drawn.shape[1]), np.nan)
    told = known & np.isfinite(drawn).any(axis=0)
    if told.any():
        outer[:, told] = np.nanquantile(drawn[:, told], ends(level), axis=0)
    return Interval(outer[0], outer[1])


def ends(level: float | int) -> list[float]:
    """Quantiles at the ends of an interval."""
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, not {level}.")
    return [(1 - level) / 2, (1 + level) / 2]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def _sums(values: Num[np.ndarray, "unit cell"], clusters: Shaped[np.ndarray, " label"]) -> np.ndarray:
    labels, member = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(labels), values.shape[1]))
    np.add.at(sums, member, values)
    return sums


def clusters_of(values: Num[np.ndarray, "unit cell"], clusters: Shaped[np.ndarray, " label"]) -> np.ndarray:
    """How many clusters contribute to each cell."""
    return np.count_nonzero(_sums(values, clusters), axis=0)


def _counts(
    clusters: int, resamples: int, generator: np.random.Generator
) -> Iterator[Float[np.ndarray, "row cluster"]]:
    """How often each cluster is drawn, a bounded number of resamples at a time."""
    rows = max(1, statistics.BLOCK_BYTES // (16 * max(clusters, 1)))
    for start in range(0, resamples if clusters else 0, rows):
        size = min(rows, resamples - start)
        yield generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=size).astype(np.float64)


def recoverable(
    base: Float[np.ndarray, " prompt"], source: Float[np.ndarray, " prompt"]
) -> Float[np.ndarray, " prompt"]:
    """Source - base, of which effects are shares; NaN where the two hardly differ, and a share would be noise.

    That is where the difference is less than a thousandth of the largest one, or what rounding in float32 makes of
    numbers of that size.
    """
    gap = np.asarray(source, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    size = np.abs(gap)
    rounding = 100 * np.finfo(np.float32).eps * np.maximum(np.abs(base), np.abs(source))
    least = np.maximum(rounding, 1e-3 * np.nanmax(size, initial=0.0))
    return np.where((size > least) & (size > 0), gap, np.nan)
