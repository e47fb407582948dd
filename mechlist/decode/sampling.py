"""How the next token is chosen: greedy, or drawn at a temperature from the top k and the nucleus."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError

BLOCK_BYTES = 2**28
"""Of what is made of the logits while they are sorted, a block of rows at a time."""
FIRST = (64, 1024)
"""Tokens that are put in order before all are: as good as always the one that is drawn is among them."""
SORTED_COPIES = 12
"""Logits in order, their tokens, and probabilities in float64 with their sums, in copies of float32 logits."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Rules of one generation, applied in this order: temperature, top k, nucleus (Holtzman et al. 2020), min-p."""

    greedy: bool = False
    """Take the most probable token; nothing else then matters."""
    temperature: float | int = 1.0
    """Logits are divided by it."""
    top_k: int | None = None
    """Only the k most probable tokens."""
    top_p: float | int = 1.0
    """Only the smallest set of most probable tokens that has at least this probability."""
    min_p: float | int = field(default=0.0, repr=False)
    """Only tokens with at least this share of the most probable token's probability (Nguyen et al. 2024)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            allowed = "above 0" if math.isfinite(self.temperature) else "above 0 and finite"
            raise InputError(f"temperature must be {allowed}, not {self.temperature}; use greedy for the limit 0.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, not {self.top_p}.")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k must be at least 1, not {self.top_k}.")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p must be from 0 to 1, not {self.min_p}.")

    @property
    def name(self) -> str:
        """What random numbers and journals know the rules by; without min-p, the same as before there was any."""
        # The same rules have one name, whether a number was written as 1 or as 1.0.
        plain = replace(self, temperature=float(self.temperature), top_p=float(self.top_p))
        return f"{plain} min_p={float(self.min_p)}" if self.min_p else str(plain)

    def probabilities(self, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
        """What a token is drawn from; sums to 1 in float64."""
        if self.greedy:
            return torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).double()
        ordered, tokens = self._ordered(logits)
        return torch.zeros_like(ordered).scatter(1, tokens, ordered)

    def probability_of(
        self, logits: Float[Tensor, "row vocab"], tokens: Int[Tensor, " token"]
    ) -> Float[Tensor, " row"]:
        """Probability that one of `tokens` is drawn: what `probabilities` says of them, but most rows are not sorted.

        Only where one of them may be in the nucleus does the order of the others matter.
        """
        if self.greedy:
            return torch.isin(logits.argmax(dim=1), tokens.to(logits.device)).double()
        scaled = (logits.double() / self.temperature).softmax(dim=1)
        if self._takes_all:
            return scaled[:, tokens.to(scaled.device)].sum(dim=1)
        best = scaled[:, tokens.to(scaled.device)].amax(dim=1, keepdim=True)
        before = torch.where(scaled > best, scaled, 0.0).sum(dim=1)
        # A little more than the nucleus: rounding differs from that of the sum in order.
        possible = (before < self.top_p + 1e-9).nonzero()[:, 0]
        found, tokens = scaled.new_zeros(len(scaled)), tokens.to(scaled.device)
        for rows in possible.split(self._rows(logits)):
            found[rows] = self._share_of(logits[rows], tokens, self._sizes(logits))
        return found

    def _share_of(
        self, logits: Float[Tensor, "row vocab"], tokens: Int[Tensor, " token"], sizes: Sequence[int]
    ) -> Float[Tensor, " row"]:
        """As `probability_of`: from the first tokens where these are all that are allowed."""
        if not sizes:
            return self.probabilities(logits)[:, tokens].sum(dim=1)
        first = self._first(logits, sizes[0])
        found = torch.where(torch.isin(first.tokens, tokens), first.probabilities, 0.0).sum(dim=1) / first.mass
        unsure = found.isnan().nonzero()[:, 0]
        if len(unsure):
            found[unsure] = self._share_of(logits[unsure], tokens, sizes[1:])
        return found

    def choose(self, logits: Float[Tensor, "row vocab"], uniform: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
        """One token a row, by inversion: the token at which the sum of the ordered probabilities passes `uniform`.

        One number a row decides, whatever else is in the batch. Of equally probable tokens the lowest id comes first.

        Args:
            logits: raw, after any softcap.
            uniform: in [0, 1), float64.
        """
        if self.greedy:
            return logits.argmax(dim=1)
        rows, sizes = self._rows(logits), self._sizes(logits)
        parts = zip(logits.split(rows), uniform.to(logits.device).split(rows), strict=True)
        return torch.cat([self._drawn(*part, sizes) for part in parts])

    @property
    def _takes_all(self) -> bool:
        """Whether every token may be drawn."""
        return self.top_k is None and self.top_p == 1 and self.min_p == 0

    def _sizes(self, logits: Float[Tensor, "row vocab"]) -> list[int]:
        """Of `FIRST`, without those that take hardly less than to sort all, or that are too few for `top_k`."""
        return [size for size in FIRST if logits.shape[1] > 4 * size and (self.top_k or 0) <= size]

    @staticmethod
    def _rows(logits: Float[Tensor, "row vocab"]) -> int:
        """That are worked on at a time."""
        return max(1, BLOCK_BYTES // (4 * SORTED_COPIES * logits.shape[1]))

    def _drawn(
        self, logits: Float[Tensor, "row vocab"], uniform: Float[Tensor, " row"], sizes: Sequence[int]
    ) -> Int[Tensor, " row"]:
        """As `choose`: from the first tokens where these decide, which is much quicker than to sort all."""
        if not sizes:
            return self._drawn_of_all(logits, uniform)
        first = self._first(logits, sizes[0])
        passed = (first.probabilities > 0) & (first.probabilities.cumsum(dim=1) > (uniform * first.mass)[:, None])
        chosen = first.tokens.gather(1, passed.int().argmax(dim=1, keepdim=True))[:, 0]
        unsure = (~passed.any(dim=1)).nonzero()[:, 0]
        if len(unsure):
            chosen[unsure] = self._drawn(logits[unsure], uniform[unsure], sizes[1:])
        return chosen

    def _drawn_of_all(self, logits: Float[Tensor, "row vocab"], uniform: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
        ordered, tokens = self._ordered(logits)
        passed = ordered.cumsum(dim=1) > uniform[:, None]
        # Rounding can leave the whole sum just below a number that is almost 1: then the last token allowed.
        place = torch.where(passed.any(dim=1), passed.int().argmax(dim=1), (ordered > 0).sum(dim=1) - 1)
        return tokens.gather(1, place[:, None])[:, 0]

    def _first(self, logits: Float[Tensor, "row vocab"], size: int) -> "_First":
        """So many tokens in order, at least `top_k`."""
        values, tokens = logits.topk(size, dim=1)
        # Of equal values the lowest id first, which `topk` does not promise.
        tokens, place = tokens.sort(dim=1)
        values, order = values.gather(1, place).sort(dim=1, descending=True, stable=True)
        tokens = tokens.gather(1, order)
        scaled = values.double() / self.temperature
        allowed = torch.ones_like(scaled, dtype=torch.bool)
        if self.top_k is None:
            total = (logits.double() / self.temperature).logsumexp(dim=1, keepdim=True)
        else:
            allowed[:, self.top_k :] = False
            total = scaled[:, : self.top_k].logsumexp(dim=1, keepdim=True)
        every = (scaled - total).exp()
        allowed &= self._kept(every)
        # Tokens as probable as the last one may be missing.
        certain = values > values[:, -1:]
        ordered = torch.where(allowed & certain, every, 0.0)
        if self._takes_all:
            return _First(ordered, tokens, torch.ones_like(ordered[:, 0]))
        complete = ~(allowed & ~certain & (every > 0)).any(dim=1)
        return _First(ordered, tokens, torch.where(complete, ordered.sum(dim=1), torch.nan))

    def _ordered(
        self, logits: Float[Tensor, "row vocab"]
    ) -> tuple[Float[Tensor, "row vocab"], Int[Tensor, "row vocab"]]:
        """Probabilities in falling order, 0 where a token is not allowed, and their tokens."""
        raw, tokens = logits.sort(dim=1, descending=True, stable=True)
        scaled = raw.double() / self.temperature
        if self.top_k is not None:
            scaled[:, self.top_k :] = -torch.inf
        ordered = scaled.softmax(dim=1)
        ordered = torch.where(self._kept(ordered), ordered, 0.0)
        return ordered / ordered.sum(dim=1, keepdim=True), tokens

    def _kept(self, ordered: Float[Tensor, "row token"]) -> Bool[Tensor, "row token"]:
        """Which tokens are in the nucleus and beyond min-p, of probabilities in falling order."""
        before = ordered.cumsum(dim=1) - ordered
        return (before < self.top_p) & (ordered >= self.min_p * ordered[:, :1])


class _First(NamedTuple):
    """The most probable tokens, in falling order."""

    probabilities: Float[Tensor, "row first"]
    """Before all that are allowed are made to sum to 1; 0 where a token is not, or where its place is not certain."""
    tokens: Int[Tensor, "row first"]
    mass: Float[Tensor, " row"]
    """Sum over all tokens that are allowed; NaN where some of them are not among the first."""
