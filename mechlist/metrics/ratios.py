"""Ratios of sums, such as the share of items with a filler, with a bootstrap over whole clusters."""

import numpy as np
from jaxtyping import Float, Num, Shaped

from mechlist import effort
from mechlist.errors import InputError
from mechlist.metrics.resampling import Draws, Interval, draws_of, sums


def ratio_interval(
    numerator: Num[np.ndarray, "unit *cell"],
    denominator: Num[np.ndarray, "other *others"],
    clusters: Shaped[np.ndarray, " label"],
    *,
    level: float | int = 0.95,
    resamples: int = 2000,
    generator: np.random.Generator,
) -> Interval:
    """BCa bootstrap of sum(numerator) / sum(denominator) over whole clusters, for each cell by itself (`resampling`).

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
        drawn = ratio_draws(above, below, clusters, resamples=draws, generator=generator)
        low, high = drawn.interval(level, clusters_of(below, clusters) > 1)
    return Interval(low.reshape(numerator.shape[1:]), high.reshape(numerator.shape[1:]))


def ratio_draws(
    numerator: Num[np.ndarray, "unit cell"],
    denominator: Num[np.ndarray, "unit cell"],
    clusters: Shaped[np.ndarray, " label"],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> Draws:
    """sum(numerator) / sum(denominator) of units in clusters drawn with replacement; NaN where a draw has none.

    Raises:
        InputError: labels that are not one a unit, or no resample.
    """
    if clusters.shape != numerator.shape[:1]:
        raise InputError(
            f"clusters must label each of the {len(numerator)} units, not have the shape {clusters.shape}."
        )
    above, below = _sums(numerator, clusters), _sums(denominator, clusters)
    with effort.draws(resamples) as draws:
        drawn = draws_of(
            lambda counts: _ratio(counts @ above, counts @ below), len(above), resamples=draws, generator=generator
        )
    return drawn._replace(again=effort.as_many(drawn.again, resamples))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def _sums(values: Num[np.ndarray, "unit cell"], clusters: Shaped[np.ndarray, " label"]) -> np.ndarray:
    return sums(values, np.unique(clusters, return_inverse=True)[1])


def clusters_of(values: Num[np.ndarray, "unit cell"], clusters: Shaped[np.ndarray, " label"]) -> np.ndarray:
    """How many clusters contribute to each cell."""
    return np.count_nonzero(_sums(values, clusters), axis=0)


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
