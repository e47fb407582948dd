"""Where values lie and how far out some of them are, by the mean and by the median."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mechlist.errors import InputError
from mechlist.metrics.multiple import benjamini_hochberg

Scale = Literal["plain", "robust"]
Correction = Literal["bonferroni", "benjamini-hochberg"]

MAD_TO_SD = 1.482602218505602
"""Standard deviations of a normal distribution to its median absolute deviation."""


class Summary(NamedTuple):
    """Of many values."""

    least: float
    mean: float
    median: float
    largest: float
    sd: float
    """With the values as the whole population."""
    robust_sd: float
    """By the median absolute deviation, which outliers among the values do not inflate."""
    kurtosis: float
    """In excess of the normal distribution's; NaN where all values are equal."""


def summary(values: Float[np.ndarray, " value"]) -> Summary:
    """Range, location, spread and kurtosis.

    Raises:
        InputError: no value, or one that is not finite.
    """
    _check(values)
    x = values.astype(np.float64)
    centred, middle = x - x.mean(), float(np.median(x))
    spread = float(np.mean(centred**2))
    same = spread <= 1e-24 * float(np.mean(x**2))
    kurtosis = np.nan if same else float(np.mean(centred**4)) / spread**2 - 3
    return Summary(
        least=float(x.min()),
        mean=float(x.mean()),
        median=middle,
        largest=float(x.max()),
        sd=spread**0.5,
        robust_sd=MAD_TO_SD * float(np.median(np.abs(x - middle))),
        kurtosis=kurtosis,
    )


def robust_z(values: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
    """Distance of each value from the median, in standard deviations by the median absolute deviation.

    Where more than half of the values are equal there is no such deviation: 0 for these and infinite for all others.

    Raises:
        InputError: no value, or one that is not finite.
    """
    found = summary(values)
    return _in_units(values - found.median, found.robust_sd)


def beyond_noise(
    values: Float[np.ndarray, " value"], *, scale: Scale, correction: Correction, alpha: float | int = 0.05
) -> Bool[np.ndarray, " value"]:
    """Values too far from the centre for a normal distribution with the values' own centre and spread.

    Bonferroni holds the chance of any false alarm to `alpha`; Benjamini and Hochberg's the share of false alarms.
    With the plain scale, outliers hide behind the spread that they make themselves: see the robust one beside it.

    Args:
        values: such as the components of a hidden state.
        scale: plain takes mean and standard deviation, robust median and median absolute deviation.
        correction: for looking at all values.
        alpha: the rate that is held; two-sided.

    Raises:
        InputError: no value, one that is not finite, or an alpha outside 0 to 1.
    """
    from scipy.stats import norm  # half a second, which only this needs

    if not 0 < alpha < 1:
        raise InputError(f"alpha must be between 0 and 1, not {alpha}.")
    found = summary(values)
    centre, spread = (found.mean, found.sd) if scale == "plain" else (found.median, found.robust_sd)
    p = 2 * norm.sf(np.abs(_in_units(values.astype(np.float64) - centre, spread)))
    corrected = np.minimum(p * len(p), 1.0) if correction == "bonferroni" else benjamini_hochberg(p)
    return corrected <= alpha


def _in_units(centred: Float[np.ndarray, " value"], spread: float) -> Float[np.ndarray, " value"]:
    if spread > 0:
        return centred / spread
    return np.where(centred == 0, 0.0, np.copysign(np.inf, centred))


def _check(values: Float[np.ndarray, " value"]) -> None:
    if values.size == 0:
        raise InputError("values must hold one value at least, not none.")
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise InputError(f"values must be finite; {wrong} of {values.size} are not.")
