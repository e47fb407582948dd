"""Whether a quantity changes with a setting such as the temperature, within strata such as topics."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num, Shaped

from mechlist import effort
from mechlist.errors import InputError
from mechlist.metrics import resampling
from mechlist.metrics.ratios import ratio_interval

_ROUNDING = 1e-9
"""Relative: the same permutation summed in another order must count as equally far out."""


class Trend(NamedTuple):
    """A slope within strata, and how surprising it would be if the setting did not matter; NaN where nothing varies."""

    slope: float
    """Change of the outcome for one unit of the setting."""
    low: float
    """Lower end of the slope's interval."""
    high: float
    """Upper end of the slope's interval."""
    z: float
    """The slope in standard deviations of the slopes of permuted settings."""
    p_value: float
    """Two-sided; at least 1 / (permutations + 1)."""
    n_units: int
    """Units in strata that saw two settings at least; the others say nothing about a trend."""
    n_strata: int
    """Strata that saw two settings at least."""


def trend_test(
    setting: Num[np.ndarray, " unit"],
    outcome: Num[np.ndarray, " value"],
    strata: Shaped[np.ndarray, " label"],
    clusters: Shaped[np.ndarray, " cluster_label"],
    *,
    level: float | int = 0.95,
    resamples: int = 2000,
    generator: np.random.Generator,
) -> Trend:
    """Slope of the outcome on the setting within strata, its clustered interval, and a permutation test.

    The slope is that of least squares with a mean of its own for every stratum. Null hypothesis: within a stratum,
    units with different settings are draws from one distribution. Under it the settings may be permuted among the units
    of a stratum, and the share of `resamples` permutations whose slope is as far from zero as the one seen, both
    counted with the one seen, is an exact p value (Phipson & Smyth 2010). It needs no model of a bounded, often
    degenerate outcome and no large number of topics, as the sandwich errors of a logistic fit would, and units that
    all agree do it no harm, where a logistic fit does not exist.

    The interval is a bootstrap over whole clusters, which may hold several strata; it is about the mean
    slope over clusters like these.

    Raises:
        InputError: arrays of different lengths, a value that is not finite, or no resample.
    """
    arrays = (setting, outcome, strata, clusters)
    if len({array.shape for array in arrays}) > 1:
        raise InputError(
            f"setting, outcome, strata and clusters must have one shape; received {setting.shape} to "
            f"{[array.shape for array in arrays[1:]]}."
        )
    if not (np.isfinite(setting).all() and np.isfinite(outcome).all()):
        raise InputError("setting and outcome must be finite; leave out units for which they are not known.")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, not {resamples}.")
    members = _informative(setting, strata)
    if not members:
        return Trend(*[np.nan] * 5, n_units=0, n_strata=0)
    used = np.concatenate(members)
    x = np.concatenate([_centred(setting[m]) for m in members])
    y = np.concatenate([_centred(outcome[m]) for m in members])
    slope = float(x @ y / (x @ x))
    low, high = ratio_interval(x * y, x * x, clusters[used], level=level, resamples=resamples, generator=generator)
    with effort.draws(resamples) as draws:
        permuted = _permuted_slopes(x, y, [len(m) for m in members], draws, generator)
    far = np.count_nonzero(np.abs(permuted) >= abs(slope) * (1 - _ROUNDING))
    spread = float(permuted.std())
    return Trend(
        slope,
        float(low),
        float(high),
        slope / spread if spread > 0 else np.nan,
        (1 + far) / (1 + draws),
        len(used),
        len(members),
    )


def _informative(setting: Num[np.ndarray, " unit"], strata: Shaped[np.ndarray, " unit"]) -> list[np.ndarray]:
    """Units of every stratum in which the setting varies."""
    labels, member = np.unique(strata, return_inverse=True)
    groups = [np.flatnonzero(member == label) for label in range(len(labels))]
    return [group for group in groups if np.ptp(setting[group]) > 0]


def _centred(values: Num[np.ndarray, " unit"]) -> Float[np.ndarray, " unit"]:
    # The mean of equal numbers may miss them by a rounding, which permutations would take for an outcome.
    return values - values.mean() if np.ptp(values) > 0 else np.zeros(len(values))


def _permuted_slopes(
    x: Float[np.ndarray, " unit"],
    y: Float[np.ndarray, " unit"],
    sizes: list[int],
    permutations: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " permutation"]:
    """Slopes after permuting the settings within each stratum; units of a stratum stand together, centred."""
    slopes = np.zeros(permutations)
    start = 0
    for size in sizes:
        rows = max(1, resampling.BLOCK_BYTES // (16 * size))
        for first in range(0, permutations, rows):
            block = slice(first, min(first + rows, permutations))
            settings = np.broadcast_to(x[start : start + size], (len(slopes[block]), size))
            slopes[block] += generator.permuted(settings, axis=1) @ y[start : start + size]
        start += size
    return slopes / (x @ x)
