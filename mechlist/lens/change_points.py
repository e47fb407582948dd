"""Where along an axis, such as the layers, a curve makes its largest step, with intervals over clusters."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from mechlist import effort
from mechlist.errors import InputError
from mechlist.metrics.ratios import ratio_draws
from mechlist.metrics.resampling import check_level


class ChangePoint(NamedTuple):
    """The largest step of a mean curve; NaN where there is none, and at the ends of intervals from one cluster."""

    place: float
    """The step goes from here to the next place."""
    place_low: float
    place_high: float
    share: float
    """Of the resamples whose largest step is at the same place."""
    jump: float
    """Size of the step, in the units of the values."""
    jump_low: float
    """Lower end of the interval of the step at `place`."""
    jump_high: float


_NONE = ChangePoint(np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan)


def change_point(
    values: Float[np.ndarray, "unit x"],
    clusters: Shaped[np.ndarray, " label"],
    *,
    level: float | int = 0.95,
    resamples: int = 2000,
    generator: np.random.Generator,
) -> ChangePoint:
    """The largest mean step between neighbours, in size, with bootstrap intervals over clusters (`metrics.resampling`).

    A step is the mean over the units that have both of its ends, so that units which end early (NaN from there on) do
    not look like a step. Steps that fewer than half as many units have as the most frequent one are not looked at: the
    largest of many small samples would be among them.

    Raises:
        InputError: fewer than two places, labels that are not one a unit, no resample, or a level outside 0 to 1.
    """
    if values.shape[1] < 2:
        raise InputError(f"values must have two places at least along x, not {values.shape[1]}.")
    check_level(level)
    steps = np.diff(values.astype(np.float64), axis=1)
    there = np.isfinite(steps)
    held = there.sum(axis=0)
    looked_at = (held > 0) & (2 * held >= held.max())
    if not looked_at.any():
        return _NONE
    above, below = np.where(there, steps, 0.0), there.astype(np.float64)
    mean = np.where(looked_at, above.sum(axis=0) / np.maximum(held, 1), 0.0)
    place = int(np.abs(mean).argmax())
    with effort.draws(resamples) as draws:
        drawn = ratio_draws(above, below, clusters, resamples=draws, generator=generator)
        if len(np.unique(clusters[there.any(axis=1)])) < 2:
            return _NONE._replace(place=float(place), jump=float(mean[place]))
        places = drawn.map(lambda of: _largest(np.where(looked_at, np.abs(of), np.nan)))
        low, high = (float(end[0]) for end in places.steps_interval(level))
        jump_low, jump_high = (float(end[place]) for end in drawn.interval(level))
        told = places.again[np.isfinite(places.again)]
        share = float((told == place).mean())
    return ChangePoint(float(place), low, high, share, float(mean[place]), jump_low, jump_high)


def _largest(sizes: Float[np.ndarray, "row step"]) -> Float[np.ndarray, "row place"]:
    """Place of the largest step of each row; NaN where a row knows none."""
    known = np.isfinite(sizes).any(axis=1)
    places = np.where(np.isfinite(sizes), sizes, -1.0).argmax(axis=1)
    return np.where(known, places, np.nan)[:, None]
