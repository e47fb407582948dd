"""How long things last when some are cut off: Kaplan-Meier, with intervals over whole clusters."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

from mechlist import effort
from mechlist.errors import InputError
from mechlist.metrics.ratios import clusters_of, ratio_draws
from mechlist.metrics.resampling import Draws, Interval
from mechlist.metrics.shares import share_interval

_ROUNDING = 1e-9
"""By which a product of probabilities may miss a half."""


class Survival(NamedTuple):
    """A survival curve over times 0, 1, 2, ..., one entry a time."""

    at_risk: Int[np.ndarray, " time"]
    """Units that lasted until this time, and were still seen then."""
    events: Int[np.ndarray, " time"]
    """Units that ended at this time."""
    survival: Float[np.ndarray, " time"]
    """Probability of lasting beyond this time; NaN where no unit was left to tell."""
    hazard: Float[np.ndarray, " time"]
    """Probability of ending at this time for those that lasted until it; NaN where no unit was left to tell."""
    median: float
    """First time that at most half outlast; infinite if none seen does."""


class SurvivalIntervals(NamedTuple):
    """Confidence intervals of a Survival; NaN where the estimate is."""

    survival: Interval
    """NaN at all times where one cluster is all there is."""
    hazard: Interval
    """NaN where fewer than two clusters are at risk."""
    median: Interval


def survival_curve(time: Int[np.ndarray, " unit"], event: Bool[np.ndarray, " event"], n_times: int) -> Survival:
    """Kaplan-Meier estimate of whole-numbered lifetimes (Kaplan & Meier 1958), from statsmodels.

    Args:
        time: when the unit ended, or the last time it is known to have outlasted; a unit of time -1 tells nothing.
        event: True where the unit ended, False where it was cut off (censored).
        n_times: times 0 to n_times - 1 are told about.

    Raises:
        InputError: arrays of different lengths, an event before 0, or a time beyond the last.
    """
    _check(time, event, n_times)
    at_risk = np.array([np.count_nonzero(time >= k) for k in range(n_times)], dtype=np.int64)
    events, survival = np.zeros(n_times, dtype=np.int64), np.ones(n_times)
    seen = time >= 0
    if event.any():
        from statsmodels.duration.survfunc import SurvfuncRight  # takes seconds to import

        estimate = SurvfuncRight(time[seen], event[seen].astype(np.int64))
        events[estimate.surv_times] = estimate.n_events
        # Between events the curve stays where it is.
        last = np.searchsorted(estimate.surv_times, np.arange(n_times), side="right")
        survival = np.concatenate([[1.0], estimate.surv_prob])[last]
    hazard = np.divide(events, at_risk, out=np.full(n_times, np.nan), where=at_risk > 0)
    median = float(_median(survival[None])[0])
    return Survival(at_risk, events, np.where(_untold(events, at_risk), np.nan, survival), hazard, median)


def survival_intervals(
    time: Int[np.ndarray, " unit"],
    event: Bool[np.ndarray, " event"],
    clusters: Shaped[np.ndarray, " label"],
    n_times: int,
    *,
    level: float | int = 0.95,
    resamples: int = 2000,
    generator: np.random.Generator,
) -> SurvivalIntervals:
    """BCa bootstrap of `survival_curve` over whole clusters; all times share each resample.

    A hazard or survival of 0 or 1 has Wilson's interval, with the clusters at risk as the units: no resample holds
    anything else, so that the bootstrap would give a point and know too much. The ends of the median's interval are
    times, and infinite where a resample's curve stays above a half.

    Raises:
        InputError: arrays of different lengths, an event before 0, or a time beyond the last.
    """
    _check(time, event, n_times)
    times = np.arange(n_times)
    events = ((time[:, None] == times) & event[:, None]).astype(np.float64)
    at_risk = (time[:, None] >= times).astype(np.float64)
    with effort.draws(resamples) as draws:
        drawn = ratio_draws(events, at_risk, clusters, resamples=draws, generator=generator)
        # A resample without a unit at risk keeps the curve where it is.
        curves = drawn.map(lambda hazards: np.cumprod(1 - np.nan_to_num(hazards), axis=1))
        units = clusters_of(at_risk, clusters)
        told = ~_untold(events.sum(axis=0), at_risk.sum(axis=0)) & (units[0] > 1)
        median = curves.map(lambda of: _median(of)[:, None]).steps_interval(level)
        if units[0] < 2:
            median = Interval(np.full(1, np.nan), np.full(1, np.nan))
        # That none went on so long is known of all; that none ended, of those that are left.
        behind = np.where(curves.whole == 0, units[0], units)
        survival = _bounded(curves, behind, curves.interval(level, told), level)
        hazard = _bounded(drawn, units, drawn.interval(level, units > 1), level)
    return SurvivalIntervals(survival, hazard, Interval(median.low[0], median.high[0]))


def _bounded(drawn: Draws, units: Int[np.ndarray, " time"], found: Interval, level: float | int) -> Interval:
    """The intervals, but Wilson's of so many units where the share is 0 or 1."""
    low, high = found.low.copy(), found.high.copy()
    for k in np.flatnonzero(np.isfinite(low) & ((drawn.whole == 0) | (drawn.whole == 1))):
        low[k], high[k] = share_interval(int(drawn.whole[k]) * int(units[k]), int(units[k]), level=level)
    return Interval(low, high)


def _untold(events: Num[np.ndarray, " time"], at_risk: Num[np.ndarray, " time"]) -> Bool[np.ndarray, " time"]:
    """Times when no unit is left to tell; where each that came so far has ended, the curve is known to be 0."""
    ended = (at_risk > 0) & (events == at_risk)
    return (at_risk == 0) & ~np.logical_or.accumulate(ended)


def _median(curves: Float[np.ndarray, "curve time"]) -> Float[np.ndarray, " curve"]:
    """First time at which at most half is left, of each curve."""
    half = curves <= 0.5 + _ROUNDING
    return np.where(half.any(axis=1), half.argmax(axis=1), np.inf)


def _check(time: Int[np.ndarray, "..."], event: Bool[np.ndarray, "..."], n_times: int) -> None:
    if time.shape != event.shape:
        raise InputError(f"time and event must have one shape; received {time.shape} and {event.shape}.")
    if time.size and (time.min() < -1 or time.max() >= n_times or (event & (time < 0)).any()):
        raise InputError(
            f"time must be from 0 to {n_times - 1}, or -1 for a unit that tells nothing; received {time.min()} to "
            f"{time.max()}."
        )
