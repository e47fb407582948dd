"""The process that writes the training lists of `list-tiny`; every probability of it is known in closed form.

Given an adjective, after item k the list ends with probability sigmoid((k - centre) / width): a logistic hazard, so
that the length is spread around `centre`. A list also ends, surely, where its topic runs out of items. Items are drawn
one after another without repetition, the better-known first more often. Each item may carry a filler blank: the last
one with probability `last`, an earlier one with a probability that rises with the hazard, from `floor` to `ceiling`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FAME = 8.0
"""An item of rank r (0 = best known) is drawn with a weight of 1 / (r + FAME)."""


@dataclass(frozen=True, kw_only=True)
class ListProcess:
    """Length and fillers of lists under one adjective; items k are counted from 1."""

    centre: float
    """Item after which the list ends with probability one half."""
    width: float
    """Items over which the odds of ending grow by a factor of e."""
    last: float
    """Probability of a filler on the last item."""
    floor: float
    """Probability of a filler on an item that is not the last, where the hazard is 0."""
    ceiling: float
    """The same where the hazard is 1."""

    def hazard(self, capacity: int) -> Float[np.ndarray, " item"]:
        """Probability that the list ends after item k, given that it got there, for k = 1 to `capacity` items."""
        k = np.arange(1, capacity + 1)
        hazard = 1 / (1 + np.exp(-(k - self.centre) / self.width))
        hazard[-1] = 1.0
        return hazard

    def length(self, capacity: int) -> Float[np.ndarray, " item"]:
        """Probability that the list has k items."""
        return length_of(self.hazard(capacity))

    def filler(self, capacity: int) -> Float[np.ndarray, " item"]:
        """Probability of a filler on item k, given that the list got there, before it is known whether it ends."""
        hazard = self.hazard(capacity)
        return hazard * self.last + (1 - hazard) * self.inner_filler(capacity)

    def hazard_given(self, capacity: int, *, filler: bool) -> Float[np.ndarray, " item"]:
        """Probability that the list ends after item k once its filler, or the lack of one, has been seen (Bayes)."""
        hazard, inner = self.hazard(capacity), self.inner_filler(capacity)
        ends = hazard * (self.last if filler else 1 - self.last)
        goes_on = (1 - hazard) * (inner if filler else 1 - inner)
        return ends / (ends + goes_on)

    def draw(self, capacity: int, generator: np.random.Generator) -> tuple[int, tuple[bool, ...]]:
        """A number of items, and for each whether it carries a filler."""
        n_items = int(np.argmax(generator.random(capacity) < self.hazard(capacity))) + 1
        chance = self.inner_filler(capacity)[:n_items]
        chance[-1] = self.last
        return n_items, tuple(bool(x) for x in generator.random(n_items) < chance)

    def inner_filler(self, capacity: int) -> Float[np.ndarray, " item"]:
        """Probability of a filler on item k where it is not the last."""
        k = np.arange(1, capacity + 1)
        return self.floor + (self.ceiling - self.floor) / (1 + np.exp(-(k - self.centre) / self.width))


PROCESSES: dict[str, ListProcess] = {
    "short": ListProcess(centre=9.0, width=1.2, last=0.9, floor=0.15, ceiling=0.6),
    "": ListProcess(centre=20.0, width=2.5, last=0.5, floor=0.05, ceiling=0.3),
    "long": ListProcess(centre=34.0, width=4.0, last=0.15, floor=0.02, ceiling=0.06),
}
"""By adjective; "" is a prompt without one."""


def length_of(hazard: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
    """The distribution of lengths that a hazard implies; what is left after the last item stays out of the sum."""
    reached = np.concatenate([[1.0], np.cumprod(1 - hazard[:-1])])
    return reached * hazard


def draw_items(capacity: int, n_items: int, generator: np.random.Generator) -> list[int]:
    """Ranks of `n_items` different items: draws without repetition with the weights of their fame.

    The largest of log weight plus Gumbel noise are such a draw (Yellott 1977).
    """
    keys = np.log(fame_weights(capacity)) + generator.gumbel(size=capacity)
    return [int(i) for i in np.argsort(-keys)[:n_items]]


def fame_weights(capacity: int) -> Float[np.ndarray, " item"]:
    """Weights with which the next item is drawn from those that are left, the best-known first."""
    return 1 / (np.arange(capacity) + FAME)
