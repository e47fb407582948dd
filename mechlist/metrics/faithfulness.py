"""How much of what a model does a circuit does by itself (Mueller et al. 2025, MIB, arXiv 2504.13151)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from mechlist.errors import InputError
from mechlist.metrics.ratios import ratio_interval
from mechlist.metrics.resampling import Interval

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of a model's edges at which MIB measures a method's circuits."""


def faithfulness(
    circuit: Float[np.ndarray, "prompt *circuits"],
    whole: Float[np.ndarray, " prompt"],
    empty: Float[np.ndarray, " prompt"],
) -> Float[np.ndarray, "*circuits"]:
    """(m(circuit) - m(empty)) / (m(whole) - m(empty)), each m a mean over the prompts: 1 is the model, 0 no circuit.

    NaN where the whole model and the empty circuit measure the same, so that there is nothing to explain.

    Args:
        circuit: metric with everything outside each circuit patched.
        whole: of the model itself.
        empty: with everything patched.
    """
    gap = (whole - empty).mean()
    change = circuit.mean(axis=0) - empty.mean()
    return np.asarray(change / gap if gap != 0 else np.full_like(change, np.nan))


def faithfulness_interval(
    circuit: Float[np.ndarray, "prompt *circuits"],
    whole: Float[np.ndarray, " prompt"],
    empty: Float[np.ndarray, " prompt"],
    *,
    clusters: Shaped[np.ndarray, " label"] | None = None,
    level: float | int = 0.95,
    resamples: int = 2000,
    generator: np.random.Generator,
) -> Interval:
    """BCa bootstrap of `faithfulness` over clusters of prompts (or prompts); NaN with fewer than two."""
    per = circuit.reshape(len(circuit), -1) - empty[:, None]
    gaps = np.broadcast_to((whole - empty)[:, None], per.shape)
    labels = np.arange(len(circuit)) if clusters is None else clusters
    low, high = ratio_interval(per, gaps, labels, level=level, resamples=resamples, generator=generator)
    return Interval(low.reshape(circuit.shape[1:]), high.reshape(circuit.shape[1:]))


def performance_ratio(values: Float[np.ndarray, " size"], shares: Sequence[float] = MIB_SHARES) -> float:
    """CPR: area under the curve of faithfulness over the share of edges, by the trapezoidal rule; more is better.

    The curve begins at the smallest share, as in MIB, so that a circuit as good as the model gives .999. Its code takes
    circuits of the edges with the largest signed scores here, and of those with the largest sizes for `model_distance`.

    Raises:
        InputError: as many values as shares are needed, and two at least.
    """
    return _area(values, shares)


def model_distance(values: Float[np.ndarray, " size"], shares: Sequence[float] = MIB_SHARES) -> float:
    """CMD: area between the curve of faithfulness and 1, |1 - f|; 0 is best. As `performance_ratio`."""
    return _area(np.abs(1 - values), shares)


def _area(values: Float[np.ndarray, " size"], shares: Sequence[float]) -> float:
    if len(values) != len(shares) or len(shares) < 2:
        raise InputError(
            f"There must be one value for each of two shares or more, not {len(values)} for {len(shares)}."
        )
    return float(np.trapezoid(values, shares))
