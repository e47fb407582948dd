"""The process that wrote the training lists, in closed form: as it is, and where its lists are drawn by a rule."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from mechlist.datasets.lists.process import ListProcess, length_of
from mechlist.decode import Sampling
from mechlist.experiments.list_curves import Hazards
from mechlist.metrics.resampling import known


def drawn_hazard(process: ListProcess, capacity: int, rule: Sampling | None) -> Float[np.ndarray, " item"]:
    """Probability that a list ends after item k, whatever it carries, where every token is drawn by a rule.

    The rule changes two choices of an item: whether a filler comes, and behind it whether the list ends. Without a rule
    this is `ListProcess.hazard`.
    """
    filler = _ruled(process.filler(capacity), rule)
    with_filler, without = (_ruled(process.hazard_given(capacity, filler=has), rule) for has in (True, False))
    return filler * with_filler + (1 - filler) * without


def process_hazards(
    process: ListProcess | None,
    capacities: Mapping[str, int],
    topics: Sequence[str],
    *,
    items: int,
    rule: Sampling | None = None,
) -> Hazards:
    """Of endlessly many lists of these topics, each as often as it stands there.

    NaN where a topic or the process is not known. There is no interval, and no lists stand behind it.
    """
    hazard = np.full(items, np.nan)
    if process is not None and all(topic in capacities for topic in topics):
        longest = max(items, *(capacities[topic] for topic in topics))
        ends = np.zeros((len(topics), longest))
        for row, topic in zip(ends, topics, strict=True):
            row[: capacities[topic]] = length_of(drawn_hazard(process, capacities[topic], rule))
        length = ends.mean(axis=0)
        reached = 1 - np.concatenate([[0.0], np.cumsum(length)[:-1]])
        hazard = np.divide(length, reached, out=np.full(longest, np.nan), where=reached > 1e-12)[:items]
    return Hazards(known(hazard), np.zeros(items, dtype=np.int64))


def _ruled(chance: Float[np.ndarray, " item"], rule: Sampling | None) -> Float[np.ndarray, " item"]:
    """The probability of one of two tokens under a rule, from its probability as it is."""
    if rule is None:
        return chance
    both = torch.from_numpy(np.stack([chance, 1 - chance], axis=1)).log()
    return rule.probability_of(both, torch.tensor([0])).double().numpy()
