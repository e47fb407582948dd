"""Heads that were published for a behaviour of a model, to compare a found circuit with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Published:
    """Heads by what they were found to do."""

    source: str
    heads: Mapping[str, Sequence[str]]

    @property
    def names(self) -> set[str]:
        """All of them, named as nodes are."""
        return {f"a{layer}.h{head}" for of in self.heads.values() for layer, head in (one.split(".") for one in of)}


IOI_GPT2 = Published(
    "Wang et al. 2022",
    {
        "name mover": ("9.9", "10.0", "9.6"),
        "backup name mover": ("10.10", "10.6", "10.2", "10.1", "11.2", "9.7", "9.0", "11.9"),
        "negative name mover": ("10.7", "11.10"),
        "S-inhibition": ("7.3", "7.9", "8.6", "8.10"),
        "induction": ("5.5", "5.8", "5.9", "6.9"),
        "duplicate token": ("0.1", "0.10", "3.0"),
        "previous token": ("2.2", "4.11"),
    },
)
"""Of GPT-2 small on indirect object identification (Wang et al. 2022)."""


def published(model: str, data: str) -> Published | None:
    """What was published for a model and built-in data; None where nothing is known."""
    return IOI_GPT2 if data == "ioi" and model.rsplit("/", 1)[-1] in ("gpt2", "gpt2-small") else None


def roc_area(strength: Mapping[str, float], positive: set[str]) -> float:
    """Chance that a published head is stronger than another head, ties counting half; NaN without one or the other."""
    inside = np.array([value for name, value in strength.items() if name in positive])
    outside = np.array([value for name, value in strength.items() if name not in positive])
    if not len(inside) or not len(outside):
        return float("nan")
    above = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    return float(above)
