"""Lists by condition: their adjective, and the temperature that they were drawn at."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mechlist.datasets.lists.prompts import in_order


class Condition(NamedTuple):
    """The lists of one adjective at one temperature."""

    adjective: str
    temperature: float
    """NaN where it is not known."""
    rows: Int[np.ndarray, " row"]


def conditions(adjective: Sequence[str], temperature: Float[np.ndarray, " list"]) -> list[Condition]:
    """Each adjective (short, long, others, none) with each of its temperatures, ascending; NaN is one, and the last."""
    words = np.array(adjective)
    # An unknown temperature equals itself here, and sorts behind all others.
    shown = np.where(np.isnan(temperature), math.inf, temperature)
    found = []
    for name in in_order(adjective):
        for value in np.unique(shown[words == name]):
            rows = np.flatnonzero((words == name) & (shown == value))
            found.append(Condition(name, float(value) if math.isfinite(value) else math.nan, rows))
    return found


def membership(groups: Sequence[Int[np.ndarray, " _"]], lists: int) -> Bool[np.ndarray, "list group"]:
    """Whether each list is in each group, given by the numbers of its lists."""
    found = np.zeros((lists, len(groups)), dtype=bool)
    for column, rows in enumerate(groups):
        found[rows, column] = True
    return found
