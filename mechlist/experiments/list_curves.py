"""From the probability of an ending after each item to hazards and lengths of lists, with intervals over topics."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int, Shaped

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.process import length_of
from mechlist.experiments.list_endings import Endings, endings
from mechlist.experiments.list_predictions import Positions
from mechlist.metrics.by_topic import ENDS, LEVEL
from mechlist.metrics.ratios import ratio_draws
from mechlist.metrics.resampling import Draws, Interval
from mechlist.metrics.survival import survival_curve, survival_intervals
from mechlist.runner import Runner

HALF = 0.5 + 1e-9


class Curve(NamedTuple):
    """Endings after item 1, 2, ...; NaN beyond the last item that a list tells about."""

    hazard: Float[np.ndarray, " item"]
    """Probability that a list ends after the item, if it got there."""
    hazard_ends: Interval
    survival: Float[np.ndarray, " item"]
    """Probability that it goes on beyond the item."""
    survival_ends: Interval
    lists: Int[np.ndarray, " item"]
    """That tell about the item."""
    median: float
    """First item that at most half of the lists go beyond; infinite if none is seen."""
    median_ends: tuple[float, float]
    mean: float
    """Expected number of items, where items beyond the last one that is told about do not count."""
    mean_ends: tuple[float, float]

    @property
    def length(self) -> Float[np.ndarray, " item"]:
        """Probability of so many items."""
        return length_of(self.hazard)


class Hazards(NamedTuple):
    """A hazard, and what it becomes when whole topics are drawn again."""

    drawn: Draws
    """By item; with fewer than two topics there are no intervals."""
    lists: Int[np.ndarray, " item"]

    @property
    def point(self) -> Float[np.ndarray, " item"]:
        """Of all topics as they are."""
        return self.drawn.whole

    @property
    def last(self) -> int:
        """Items that it tells about."""
        return int(np.isfinite(self.point).sum())


def hazards(
    endings: Endings, topics: Shaped[np.ndarray, " label"], *, resamples: int, generator: np.random.Generator
) -> Hazards:
    """Hazard of the lists together: of those that got to a stage, the mean probability of an end there.

    Lists of the model's own, read by the rules that they were drawn with, give an estimate of their hazard without the
    noise of whether each of them did end.
    """
    values = np.concatenate(endings, axis=1)
    told = np.isfinite(values)
    drawn = ratio_draws(np.nan_to_num(values), told.astype(float), topics, resamples=resamples, generator=generator)
    return Hazards(drawn.map(_joined), told[:, : values.shape[1] // 2].sum(axis=0))


def curve(found: Hazards) -> Curve:
    """What a hazard says of the lengths of lists; with fewer than two topics all intervals are NaN."""
    survival = _survival(found.drawn, found.last)
    median, mean = (survival.map(of) for of in (_median, _mean))
    return Curve(
        found.point,
        found.drawn.interval(LEVEL),
        survival.whole,
        survival.interval(LEVEL),
        found.lists,
        float(median.whole[0]),
        _pair(median.steps_interval(LEVEL)),
        float(mean.whole[0]),
        _pair(mean.interval(LEVEL)),
    )


def sampled_curve(
    time: Int[np.ndarray, " list"],
    ended: Bool[np.ndarray, " list"],
    topics: Shaped[np.ndarray, " label"],
    items: int,
    *,
    resamples: int,
    generator: np.random.Generator,
) -> Curve:
    """Of lists as they were written (Kaplan-Meier); lists without an item are left out."""
    kept = ~(ended & (time == 0))
    time, ended, topics = time[kept], ended[kept], topics[kept]
    found = survival_curve(time, ended, items + 1)
    outer = survival_intervals(time, ended, topics, items + 1, resamples=resamples, generator=generator)
    return Curve(
        found.hazard[1:],
        Interval(outer.hazard.low[1:], outer.hazard.high[1:]),
        np.where(found.at_risk[1:] > 0, found.survival[1:], np.nan),
        Interval(outer.survival.low[1:], outer.survival.high[1:]),
        found.at_risk[1:],
        found.median,
        (float(outer.median.low), float(outer.median.high)),
        float(_mean(np.where(found.at_risk[1:] > 0, found.survival[1:], np.nan)[None])[0, 0]),
        (np.nan, np.nan),
    )


def total_variation(one: Float[np.ndarray, " item"], other: Float[np.ndarray, " item"]) -> float:
    """Between the lengths that two hazards imply; all that lies beyond the last item both tell about is one outcome."""
    last = int((np.isfinite(one) & np.isfinite(other)).sum())
    if last == 0:
        return np.nan
    a, b = length_of(one[:last]), length_of(other[:last])
    return float(np.abs(a - b).sum() + abs(a.sum() - b.sum())) / 2


def sampling_noise(
    hazard: Float[np.ndarray, " item"],
    at_risk: Int[np.ndarray, " item"],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> float:
    """Total variation that 95 % of samples stay below which are drawn from the hazard itself, as many as are at risk.

    Endings are drawn independently. Lists spread evenly over unlike topics vary less than that, so a sample beyond it
    is really unlike the hazard.
    """
    last = int(((at_risk > 0) & np.isfinite(hazard)).sum())
    if last == 0:
        return np.nan
    drawn = generator.binomial(at_risk[:last], np.clip(hazard[:last], 0, 1), size=(resamples, last)) / at_risk[:last]
    return float(np.quantile([total_variation(hazard[:last], one) for one in drawn], LEVEL))


def mean_change(one: Hazards, other: Hazards) -> tuple[float, float, float]:
    """Expected number of items by `one` minus that by `other`, with the ends of its interval; as `Curve.mean`.

    Both must have been drawn again with the same random numbers. Each counts up to the last item that it tells about.
    """
    means = [_survival(found.drawn, found.last).map(_mean) for found in (one, other)]
    change = means[0].less(means[1])
    return (float(change.whole[0]), *_pair(change.interval(LEVEL)))


def median_change(one: Hazards, other: Hazards) -> tuple[float, float, float]:
    """Median number of items by `one` minus that by `other`, with the ends of its interval, as `mean_change`.

    NaN where more than half of either go on beyond what is told; resamples of which that holds do not count.
    """
    medians = [_survival(found.drawn, found.point.shape[0]).map(_known_median) for found in (one, other)]
    change = medians[0].less(medians[1])
    if not np.isfinite(change.whole).all():
        return np.nan, np.nan, np.nan
    return (float(change.whole[0]), *_pair(change.steps_interval(LEVEL)))


def curves_by_set(
    runner: Runner, read: Mapping[str, tuple[ListSet, Positions]], resamples: int, purpose: str
) -> xr.Dataset:
    """Hazards of lists under each set of changes, by adjective; the mean number of items against the first set.

    Args:
        runner: for its seed.
        read: by set, the first of them without a change: lists of the same prompts, and the probability of the end
            after each of their positions.
        resamples: of topics; all sets share them.
        purpose: of the random numbers.
    """
    adjectives = next(iter(read.values()))[0].adjectives
    items = max(lists.width for lists, _ in read.values())
    shape = (len(read), len(adjectives))
    curves, change = np.full((*shape, 3, items), np.nan), np.full((*shape, 3), np.nan)
    told, mean = np.zeros((*shape, items)), np.full(shape, np.nan)
    by_set = [(lists, endings(end, lists).padded(items)) for lists, end in read.values()]
    for a, adjective in enumerate(adjectives):
        found = []
        for lists, one in by_set:
            rows = np.flatnonzero(np.array(lists.adjective) == adjective)
            generator = runner.numpy_generator(f"{purpose} {adjective}")
            found.append(hazards(one.of(rows), lists.clusters[rows], resamples=resamples, generator=generator))
        for s, one in enumerate(found):
            made = curve(one)
            curves[s, a], told[s, a], mean[s, a] = (made.hazard, *made.hazard_ends), made.lists, made.mean
            change[s, a] = mean_change(one, found[0])
    dims = ("set", "by_adjective", "item")
    variables: dict[str, Any] = {"changed_lists": (dims, told), "mean_items_read": (dims[:2], mean, {"units": "items"})}
    for i, end in enumerate(ENDS):
        variables[f"changed_hazard{end}"] = (dims, curves[:, :, i])
        variables[f"changed_mean_items{end}"] = (dims[:2], change[..., i], {"units": "items"})
    coords = {"set": list(read), "by_adjective": adjectives, "item": np.arange(1, items + 1)}
    return xr.Dataset(variables, coords=coords)


def _joined(shares: Float[np.ndarray, "row cell"]) -> Float[np.ndarray, "row item"]:
    """One hazard from those of the two stages; a line break that no list got to cannot end one."""
    inside, at_break = np.split(shares, 2, axis=1)
    return 1 - (1 - inside) * (1 - np.nan_to_num(at_break))


def _survival(drawn: Draws, last: int) -> Draws:
    """Probabilities of going on beyond each item up to the last that is told about; draws may know less."""

    def of(hazards: Float[np.ndarray, "row item"]) -> Float[np.ndarray, "row item"]:
        found = np.cumprod(1 - np.nan_to_num(hazards), axis=1)
        found[:, last:] = np.nan
        return found

    return drawn.map(of)


def _pair(found: Interval) -> tuple[float, float]:
    return float(found.low[0]), float(found.high[0])


def _median(survival: Float[np.ndarray, "row item"]) -> Float[np.ndarray, "row one"]:
    half = survival <= HALF
    return np.where(half.any(axis=1), half.argmax(axis=1) + 1.0, np.inf)[:, None]


def _known_median(survival: Float[np.ndarray, "row item"]) -> Float[np.ndarray, "row one"]:
    """NaN where more than half go on beyond what is told."""
    median = _median(survival)
    return np.where(np.isfinite(median), median, np.nan)


def _mean(survival: Float[np.ndarray, "row item"]) -> Float[np.ndarray, "row one"]:
    """1 + the chances of going beyond items 1, 2, ... but for the last told: so many items are expected up to it."""
    return 1 + (np.nansum(survival, axis=1) - np.nan_to_num(_last_of(survival)))[:, None]


def _last_of(survival: Float[np.ndarray, "row item"]) -> Float[np.ndarray, " row"]:
    told = np.isfinite(survival).sum(axis=1)
    return np.where(told > 0, survival[np.arange(len(survival)), np.maximum(told, 1) - 1], 0.0)
