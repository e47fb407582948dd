"""What to say of a grid of effects: estimates with intervals and tests, an irrelevant change, numerical noise."""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mechlist.errors import InputError
from mechlist.metrics.multiple import MaxT, benjamini_hochberg, max_t
from mechlist.metrics.resampling import Interval
from mechlist.metrics.statistics import Threshold, bootstrap_interval, null_threshold

Correction = Literal["max-t", "benjamini-hochberg"]
"""Of p values over a grid: for the chance of any false alarm, or for their expected share among the discoveries."""
_ROUNDING = 1e-9
"""1 - .9 is a little less than .1: a p value of .1 must reach it."""
_EQUAL = 1e-6
"""Relative to the largest: effects of two units no farther apart are the same effect, computed twice."""


@dataclass(frozen=True)
class EffectTable:
    """One row a cell; see `effect_table`. Effects are in the units of the metric."""

    estimate: Float[np.ndarray, "*cell"]
    """Mean over the units that have the cell; NaN where none has."""
    low: Float[np.ndarray, "*cell"]
    """Lower end of the estimate's interval, of each cell by itself."""
    high: Float[np.ndarray, "*cell"]
    """Upper end of the estimate's interval."""
    n_units: Int[np.ndarray, "*cell"]
    """Units that have the cell."""
    n_clusters: Int[np.ndarray, "*cell"]
    """Clusters that have the cell."""
    t: Float[np.ndarray, "*cell"]
    """t of the cluster sums."""
    p: Float[np.ndarray, "*cell"]
    """Two-sided p value of each cell by itself."""
    p_corrected: Float[np.ndarray, "*cell"]
    """p value corrected for all tested cells, as `correction` says."""
    tested: Bool[np.ndarray, "*cell"]
    """Cells with two clusters at least, in which some unit changed."""
    survives: Bool[np.ndarray, "*cell"]
    """Whether `p_corrected` is at most 1 - `level`."""
    below_noise: Bool[np.ndarray, "*cell"]
    """Whether the estimate is no larger than the numerical noise; False everywhere if the noise is not known."""
    correction: Correction
    """How p values are corrected: whether it is the family-wise error or the false discovery rate that is held."""
    level: float
    """Of the intervals, and of the tests."""
    smallest_p: float
    """The smallest p value that these clusters and resamples can give; NaN without a test."""
    reason: str
    """One sentence on why there is no test, or why none can succeed; empty where neither holds."""


class NullMask(NamedTuple):
    """Cells whose effect is beyond what an irrelevant change does."""

    survives: Bool[np.ndarray, "*cell"]
    threshold: Threshold
    """Its `level` is lower than asked for where the draws are too few."""


class Noise(NamedTuple):
    """Largest absolute difference between two repeats of an effect that should not differ, in units of the metric."""

    per_cell: Float[np.ndarray, "*cell"]
    """Over the units of a cell; NaN where no unit has it."""
    largest: float
    """Over all cells; NaN if there is no value."""


def effect_table(
    effects: Float[np.ndarray, "unit *cell"],
    *,
    clusters: Shaped[np.ndarray, " label"] | None = None,
    level: float | int = 0.95,
    resamples: int = 2000,
    noise: Float[np.ndarray, "*cell"] | float | int | None = None,
    correction: Correction = "max-t",
    generator: np.random.Generator,
) -> EffectTable:
    """Mean effect (patched - base) of each cell, its clustered bootstrap interval, and its test by sign flips.

    `correction` is `max-t`, which holds the chance of any false alarm, or `benjamini-hochberg`, which holds the
    expected share of false alarms among the cells that survive (where cells are independent or depend positively).

    A NaN says that a unit lacks the cell; all of a row is then about the units that have it. Intervals are of each
    cell by itself, and `survives` is about all at once: an interval may leave out zero where its cell does not survive.
    With one unit, or one cluster, interval and test are NaN and `reason` says so; likewise where all units have equal
    effects in every cell, being one unit in effect. `noise` is a level from `numerical_noise`, for all cells or for
    each.

    Raises:
        InputError: no unit, no resample, a level outside 0 to 1, an unknown correction, labels that are not one a unit,
            an infinite effect, or noise of another shape or below zero.
    """
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, not {level}.")
    if correction not in get_args(Correction):
        raise InputError(f"correction must be one of {', '.join(get_args(Correction))}, not {correction!r}.")
    test = max_t(effects, clusters=clusters, resamples=resamples, generator=generator)
    estimate = _mean(effects, test.n_units)
    small = np.zeros(estimate.shape, dtype=bool) if noise is None else below_noise(estimate, noise)
    low, high = _interval(effects, clusters, level, resamples, generator)
    alpha = 1 - level + _ROUNDING
    reason = _reason(test, alpha, "units" if clusters is None else "clusters", resamples)
    if not reason and _all_equal(effects, test, 0.0 if noise is None else noise):
        reason = f"There is no test: the effects of all {len(effects)} units are equal in every cell."
        nothing = np.full(estimate.shape, np.nan)
        low, high = nothing, nothing
        test = replace(test, t=nothing, p=nothing, p_corrected=nothing, tested=np.zeros(estimate.shape, dtype=bool))
    p_corrected = test.p_corrected if correction == "max-t" else _discovery_rate(test)
    return EffectTable(
        estimate=estimate,
        low=low,
        high=high,
        n_units=test.n_units,
        n_clusters=test.n_clusters,
        t=test.t,
        p=test.p,
        p_corrected=p_corrected,
        tested=test.tested,
        survives=np.asarray(p_corrected <= alpha),
        below_noise=small,
        correction=correction,
        level=float(level),
        smallest_p=test.smallest_p,
        reason=reason,
    )


def beyond_null(
    estimate: Float[np.ndarray, "*cell"], null_effects: Float[np.ndarray, "draw *others"], level: float | int = 0.95
) -> NullMask:
    """Which effects are larger in size than the largest anywhere in the grid when an irrelevant token differs.

    A test against zero asks whether patching does anything; this asks whether it does more than any patch would. A
    draw must be to its pairs what `estimate` is to its own (a mean over as many prompts, or both of one pair):
    averages are smaller than their parts. A cell that a draw lacks is NaN in it; one that all draws lack, or that has
    no estimate, does not survive. See `null_threshold` for the threshold and its level.

    Raises:
        InputError: shapes that do not fit, no draw, a draw without any value, or a level outside 0 to 1.
    """
    if null_effects.shape[1:] != estimate.shape:
        raise InputError(
            f"null_effects must have the cells of estimate after its draws, {estimate.shape}, "
            f"not {null_effects.shape[1:]}."
        )
    lacking = np.isnan(null_effects)
    if lacking.all(axis=tuple(range(1, lacking.ndim))).any():
        raise InputError("null_effects must hold a value in every draw; at least one is NaN throughout.")
    # A size of zero never is the largest.
    threshold = null_threshold(np.where(lacking, 0, np.abs(null_effects)), level)
    return NullMask(np.asarray((np.abs(estimate) > threshold.value) & ~lacking.all(axis=0)), threshold)


def numerical_noise(repeats: Float[np.ndarray, "repeat unit *cell"]) -> Noise:
    """How far the same effects differ when computed again, for instance in other batches or another order.

    A bound rather than an average: the noise of a mean over units is no larger than the largest of theirs.

    Raises:
        InputError: fewer than two repeats, an infinite effect, or a NaN that not all repeats have.
    """
    if len(repeats) < 2:
        raise InputError(f"repeats must be at least 2, not {len(repeats)}.")
    missing = np.isnan(repeats)
    if np.isinf(repeats).any() or (missing != missing[0]).any():
        raise InputError("repeats must be finite, or NaN in all repeats alike where a unit lacks the cell.")
    spread = repeats.max(axis=0).astype(np.float64) - repeats.min(axis=0)
    per_cell = np.asarray(np.fmax.reduce(spread, axis=0, initial=np.nan))
    return Noise(per_cell, float(np.fmax.reduce(per_cell, axis=None, initial=np.nan)))


def below_noise(
    estimate: Float[np.ndarray, "*cell"], noise: Float[np.ndarray, "*others"] | float | int
) -> Bool[np.ndarray, "*cell"]:
    """Mean effects no larger in size than the noise of their cell, or of all; False where there is no estimate.

    Raises:
        InputError: noise of another shape, or below zero.
    """
    level = np.asarray(noise, dtype=np.float64)
    if level.shape not in ((), estimate.shape):
        raise InputError(f"noise must be one number or have the shape {estimate.shape}, not {level.shape}.")
    if (level < 0).any():
        raise InputError(f"noise must not be below zero, but {level.min():g} is.")
    return np.asarray(np.abs(estimate) <= level)


def _mean(effects: Float[np.ndarray, "unit *cell"], n_units: Int[np.ndarray, "*cell"]) -> Float[np.ndarray, "*cell"]:
    total = np.nansum(effects, axis=0, dtype=np.float64)
    return np.divide(total, n_units, out=np.full(n_units.shape, np.nan), where=n_units > 0)


def _interval(
    effects: Float[np.ndarray, "unit *cell"],
    clusters: Shaped[np.ndarray, " unit"] | None,
    level: float | int,
    resamples: int,
    generator: np.random.Generator,
) -> Interval:
    """`bootstrap_interval` over the units that have a cell, for all cells at once that the same units have."""
    shape = effects.shape[1:]
    flat = effects.reshape(len(effects), math.prod(shape))
    low, high = np.full((2, flat.shape[1]), np.nan)
    seed = int(generator.integers(2**63))
    packed = np.packbits(~np.isnan(flat), axis=0)
    which = np.unique(packed, axis=1, return_inverse=True)[1]
    for number in range(which.max(initial=-1) + 1):
        cells = np.flatnonzero(which == number)
        units = np.flatnonzero(~np.isnan(flat[:, cells[0]]))
        if len(units):
            low[cells], high[cells] = bootstrap_interval(
                flat[np.ix_(units, cells)],
                level=level,
                resamples=resamples,
                generator=np.random.default_rng(seed),
                clusters=None if clusters is None else clusters[units],
            )
    return Interval(low.reshape(shape), high.reshape(shape))


def _discovery_rate(test: MaxT) -> Float[np.ndarray, "*cell"]:
    """P values adjusted over the tested cells; those that never change keep theirs, which is 1."""
    return np.where(test.tested, benjamini_hochberg(np.where(test.tested, test.p, np.nan)), test.p)


def _all_equal(
    effects: Float[np.ndarray, "unit *cell"], test: MaxT, noise: Float[np.ndarray, "*cell"] | float | int
) -> bool:
    """Whether in every tested cell the effects of all units are the same, but for rounding or the noise."""
    cells = effects[:, test.tested].astype(np.float64)
    largest, smallest = np.fmax.reduce(cells, axis=0), np.fmin.reduce(cells, axis=0)
    level = np.broadcast_to(np.asarray(noise, dtype=np.float64), test.tested.shape)[test.tested]
    rounding = _EQUAL * np.abs([largest, smallest]).max()
    return bool((largest - smallest <= np.fmax(level, rounding)).all())


def _reason(test: MaxT, alpha: float, name: str, resamples: int) -> str:
    if test.reason or test.smallest_p <= alpha:
        return test.reason
    number = f"{test.n_clusters[test.tested].max()} {name}" if test.exhaustive else f"{resamples} resamples"
    return f"No cell can be significant at {alpha:.3g}: {number} give no p value below {test.smallest_p:.3g}."
