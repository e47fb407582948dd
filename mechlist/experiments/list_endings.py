"""From what a model predicts along lists to the probability of an ending after each item."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.process import PROCESSES


class Endings(NamedTuple):
    """Probability that a list ends after item 1, 2, ..., given that it got to the stage; NaN where it is not seen.

    The two stages share out every position at which an end gives a list of so many items, so the hazard of item k is
    1 - (1 - inside)(1 - at_break).
    """

    inside: Float[np.ndarray, "list item"]
    """Without a line break: after a token of the item or its filler."""
    at_break: Float[np.ndarray, "list item"]
    """At the line break, or behind it before the next item has begun."""

    def of(self, rows: Int[np.ndarray, " row"]) -> "Endings":
        """Those of some of the lists."""
        return Endings(self.inside[rows], self.at_break[rows])

    def padded(self, items: int) -> "Endings":
        """With NaN up to so many items."""
        more = ((0, 0), (0, items - self.inside.shape[1]))
        return Endings(*(np.pad(stage, more, constant_values=np.nan) for stage in self))


def endings(end: Float[np.ndarray, "list position"], lists: ListSet) -> Endings:
    """From the probability of the end after every position to that after every item.

    Of a line that was cut off it is not known what would have come next, and it tells nothing.
    """
    inside, at_break = np.full((2, len(lists), lists.width), np.nan)
    for row, (one, stop) in enumerate(zip(lists.parsed, lists.stops.tolist(), strict=True)):
        next_item = [*(item.content.start for item in one.items[1:]), stop]
        for index, item in enumerate(one.items[: one.n_whole_items]):
            behind = next_item[index]
            close = behind if item.line_break is None else item.line_break
            inside[row, index] = _any(end[row, item.content.start : close])
            if item.line_break is not None:
                at_break[row, index] = _any(end[row, close:behind])
    return Endings(inside, at_break)


def true_endings(lists: ListSet, capacities: Mapping[str, int]) -> Endings:
    """The same by the process that wrote the training lists of `list-tiny`, once an item's filler is seen.

    A list that has as many items as its topic ends surely. NaN for topics and adjectives that are not the process's.

    Args:
        lists: with their prompts.
        capacities: number of items by topic.
    """
    inside, at_break = np.full((2, len(lists), lists.width), np.nan)
    for row, (one, prompt) in enumerate(zip(lists.parsed, lists.prompts, strict=True)):
        process, capacity = PROCESSES.get(prompt.adjective), capacities.get(prompt.topic)
        if process is None or capacity is None:
            continue
        hazards = {filler: process.hazard_given(capacity, filler=filler) for filler in (False, True)}
        for index, item in enumerate(one.items):
            if item.line_break is not None:
                inside[row, index] = 0.0
                at_break[row, index] = hazards[item.filler is not None][index] if index < capacity else 1.0
    return Endings(inside, at_break)


def _any(chances: Float[np.ndarray, " position"]) -> float:
    return float(1 - np.prod(1 - chances))
