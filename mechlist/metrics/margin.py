"""Whether an effect matters: its interval against a margin, its rank among controls, and the smallest that was seen."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from mechlist.errors import InputError

Verdict = Literal["matters", "within the margin", "not known"]
SEEN = 2.8
"""Standard errors of the smallest effect that a two-sided test at .05 sees with a probability of .8: 1.96 + 0.84."""


def verdict(low: float | int, high: float | int, margin: float | int) -> Verdict:
    """`matters` where the interval lies beyond the margin on one side, `within the margin` where it lies inside.

    Anything else, and an interval with a NaN end, is `not known`.

    Raises:
        InputError: a margin below 0.
    """
    if margin < 0:
        raise InputError(f"margin must be 0 or more, not {margin}.")
    if low > margin or high < -margin:
        return "matters"
    return "within the margin" if -margin <= low and high <= margin else "not known"


def smallest_seen(error: float | int) -> float:
    """The effect that would be told from zero four times in five, from the standard error of its estimate.

    Raises:
        InputError: a standard error below 0.
    """
    if error < 0:
        raise InputError(f"error must be 0 or more, not {error}.")
    return SEEN * float(error)


def rank_p(value: float | int, controls: Float[np.ndarray, " draw"]) -> float:
    """Share of the controls and the value together that are as far from 0 as the value: at least 1 / (controls + 1)."""
    return (1 + int((np.abs(controls) >= abs(value)).sum())) / (1 + len(controls))
