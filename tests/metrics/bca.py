"""Ends of intervals by the textbook, one cell at a time: what the fast ones are compared with."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t


def deviations(level: float, clusters: int) -> float:
    """Standard deviations to either side, for so few clusters."""
    return float(np.sqrt(clusters / (clusters - 1)) * student_t.ppf((1 + level) / 2, clusters - 1))


def widened_ends(level: float, clusters: int) -> list[float]:
    """Shares of draws below the ends where there is neither bias nor skew."""
    return [float(norm.cdf(-deviations(level, clusters))), float(norm.cdf(deviations(level, clusters)))]


def bca_ends(drawn: np.ndarray, whole: float, left_out: np.ndarray, level: float, clusters: int) -> list[float]:
    """BCa interval (Efron 1987) of one number from its draws and from its values without each cluster."""
    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    if np.ptp(drawn) < 1e-12:
        return [whole, whole]
    same = np.abs(drawn - whole) < 1e-12
    share = ((drawn < whole) & ~same).mean() + same.mean() / 2
    bias = norm.ppf(np.clip(share, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    away = left_out.mean() - left_out
    skew = (away**3).sum() / 6 / (away**2).sum() ** 1.5 if np.ptp(left_out) > 0 else 0.0
    ends = []
    for side in (-deviations(level, clusters), deviations(level, clusters)):
        scale = 1 - skew * (bias + side)
        at = bias + (bias + side) / scale if scale > 0 else np.sign(bias + side) * np.inf
        ends.append(float(np.quantile(drawn, norm.cdf(at))))
    return ends


def left_out(labels: np.ndarray | Sequence[str], of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A statistic of the units without those of each cluster."""
    labels = np.asarray(labels)
    return np.array([of(np.flatnonzero(labels != label)) for label in np.unique(labels)])
