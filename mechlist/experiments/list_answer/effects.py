"""Effects of a factor after several adjectives as one: what all of them have in common, and how it is said."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from mechlist.metrics.by_topic import ENDS
from mechlist.metrics.margin import verdict
from mechlist.text import between, joined, lists_named, with_interval

Common = Literal["matters", "within the margin", "not settled"]
ADJECTIVE, COUNT, FILLER = "adjective", "count", "filler"
FACTORS = {
    FILLER: "a filler on the last item",
    COUNT: "the number of items",
    ADJECTIVE: "the adjective",
}
"""Factors of list-heads, as sentences name them."""
TERMS = {
    "item": "a line more",
    "filler": "a filler on the last item",
    "earlier_filler": "a filler more on an earlier item",
    "tokens": "a token more in as many lines",
    "repeat": "an item that stood before in place of a new one",
}
"""Terms of list-factors, as sentences name them."""
LABELS = {
    "item": "a line more",
    "filler": "filler on the last",
    "earlier_filler": "filler on another",
    "tokens": "a token more",
    "repeat": "repeated item",
}
"""The same below an axis."""


@dataclass(frozen=True)
class Effect:
    """Logits of A by adjective; adjectives without a value are left out."""

    adjectives: tuple[str, ...]
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    truth: np.ndarray
    """By the known process; NaN where there is none."""

    @classmethod
    def of(cls, results: xr.Dataset, name: str, truth: str) -> "Effect":
        """A variable over `adjective` with its ends, beside that of the process."""
        there = np.isfinite(results[name].values)
        value, low, high = (results[f"{name}{end}"].values[there] for end in ENDS)
        return cls(tuple(results["adjective"].values[there].tolist()), value, low, high, results[truth].values[there])

    @property
    def one_sign(self) -> bool:
        """Whether all adjectives have it in the same direction."""
        return bool((self.value > 0).all() or (self.value < 0).all())

    def verdict(self, margin: float | int) -> Common:
        """What holds after every adjective; `not settled` where they differ or an interval lies on either side."""
        found = {verdict(low, high, margin) for low, high in zip(self.low, self.high, strict=True)}
        if found == {"within the margin"}:
            return "within the margin"
        return "matters" if found == {"matters"} and self.one_sign else "not settled"

    def beyond_truth(self, margin: float | int) -> "Effect":
        """Of the adjectives alone whose interval lies beyond the margin from the process."""
        pairs = zip(self.low - self.truth, self.high - self.truth, strict=True)
        apart = np.array([verdict(low, high, margin) == "matters" for low, high in pairs], dtype=bool)
        names = tuple(np.array(self.adjectives)[apart].tolist())
        return Effect(names, self.value[apart], self.low[apart], self.high[apart], self.truth[apart])

    def text(self) -> str:
        """`+0.55 to +0.72 by adjective [+0.50, +0.75]`, around all intervals; one by one where signs differ."""
        ends = list(zip(self.value.tolist(), self.low.tolist(), self.high.tolist(), strict=True))
        if len(ends) > 1 and self.one_sign:
            return f"{_range(self.value)} by adjective{between(self.low.min(), self.high.max())}"
        told = [with_interval(*end) for end in ends]
        if len(told) == 1:
            return told[0]
        return joined([f"{lists_named(name)} {value}" for name, value in zip(self.adjectives, told, strict=True)])

    def truth_text(self) -> str:
        """What the process has; nothing where it is not known."""
        known = self.truth[np.isfinite(self.truth)]
        return _range(known) if known.size else ""


def _range(values: np.ndarray) -> str:
    low, high = f"{values.min():+.2f}", f"{values.max():+.2f}"
    return low if low == high else f"{low} to {high}"
