"""Which role matters in which layer, with intervals over topics."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from mechlist.errors import InputError
from mechlist.metrics.ratios import ratio_draws
from mechlist.metrics.resampling import Interval

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
    drawn = ratio_draws(filled, counts, clusters, resamples=RESAMPLES, generator=generator)
    largest = drawn.map(lambda rows: _largest(rows.reshape(len(rows), *effects.shape[1:])))
    layers = largest.map(lambda rows: np.stack([_leaves(rows), _arrives(rows, own)], axis=1))
    known = drawn.clusters > 1
    ends = layers.steps_interval(level) if known else Interval(layers.whole, layers.whole)
    return Handover(
        largest=largest.whole,
        leaves=int(layers.whole[0]),
        leaves_low=int(ends.low[0]),
        leaves_high=int(ends.high[0]),
        arrives=int(layers.whole[1]),
        arrives_low=int(ends.low[1]),
        arrives_high=int(ends.high[1]),
        known=known,
    )


def _largest(means: Float[np.ndarray, "draw layer role"]) -> Int[np.ndarray, "draw layer"]:
    return np.nan_to_num(np.abs(means), nan=-1.0).argmax(axis=2)


def _leaves(largest: Int[np.ndarray, "draw layer"]) -> Int[np.ndarray, " draw"]:
    other = largest != largest[:, :1]
    return np.where(other.any(axis=1), other.argmax(axis=1), largest.shape[1])


def _arrives(largest: Int[np.ndarray, "draw layer"], own: int) -> Int[np.ndarray, " draw"]:
    other = largest[:, ::-1] != own
    return largest.shape[1] - np.where(other.any(axis=1), other.argmax(axis=1), largest.shape[1])
