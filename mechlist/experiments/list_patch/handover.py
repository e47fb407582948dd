"""Which role matters in which layer, with intervals over topics."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from mechlist.errors import InputError
from mechlist.metrics.ratios import resampled_ratios

RESAMPLES = 2000


@dataclass(frozen=True)
class Handover:
    """Where along the layers the role with the largest effect changes."""

    largest: Int[np.ndarray, " layer"]
    """Number of the role with the largest mean effect in each layer."""
    leaves: int
    """The first layer in which it is not that of the first layer any more; the number of layers if there is none."""
    leaves_low: int
    leaves_high: int
    arrives: int
    """The first layer from which on it is the role asked about, to the last; the number of layers if there is none."""
    arrives_low: int
    arrives_high: int
    known: bool
    """Whether there are two clusters at least, so that the intervals mean something."""


def handover(
    effects: Float[np.ndarray, "list layer role"],
    own: int,
    clusters: Shaped[np.ndarray, " list"],
    *,
    level: float = 0.95,
    generator: np.random.Generator,
) -> Handover:
    """The roles with the largest mean effect, and the layers at which they change.

    A role counts with the size of its effect's mean over the lists that have it. Intervals are of whole layers:
    percentiles of the layer over resamples of whole clusters, each of them a layer that some resample gave.

    Raises:
        InputError: a layer in which no list has a value.
    """
    there = np.isfinite(effects)
    if not there.any(axis=(0, 2)).all():
        raise InputError("effects must hold a value of some role in every layer.")
    flat = (len(effects), effects.shape[1] * effects.shape[2])
    filled, counts = np.where(there, effects, 0.0).reshape(flat), there.reshape(flat).astype(float)
    drawn = resampled_ratios(filled, counts, clusters, resamples=RESAMPLES, generator=generator)
    with np.errstate(invalid="ignore"):
        mean = filled.sum(axis=0) / counts.sum(axis=0)
    largest = _largest(mean.reshape(1, *effects.shape[1:]))
    of_draws = _largest(drawn.reshape(len(drawn), *effects.shape[1:]))
    ends = [(1 - level) / 2, (1 + level) / 2]
    layers = (_leaves(of_draws), _arrives(of_draws, own))
    left, came = (np.quantile(of_draw, ends, method="inverted_cdf") for of_draw in layers)
    return Handover(
        largest=largest[0],
        leaves=int(_leaves(largest)[0]),
        leaves_low=int(left[0]),
        leaves_high=int(left[1]),
        arrives=int(_arrives(largest, own)[0]),
        arrives_low=int(came[0]),
        arrives_high=int(came[1]),
        known=len(np.unique(clusters)) > 1,
    )


def _largest(means: Float[np.ndarray, "draw layer role"]) -> Int[np.ndarray, "draw layer"]:
    return np.nan_to_num(np.abs(means), nan=-1.0).argmax(axis=2)


def _leaves(largest: Int[np.ndarray, "draw layer"]) -> Int[np.ndarray, " draw"]:
    other = largest != largest[:, :1]
    return np.where(other.any(axis=1), other.argmax(axis=1), largest.shape[1])


def _arrives(largest: Int[np.ndarray, "draw layer"], own: int) -> Int[np.ndarray, " draw"]:
    other = largest[:, ::-1] != own
    return largest.shape[1] - np.where(other.any(axis=1), other.argmax(axis=1), largest.shape[1])
