"""How the next token is chosen: greedy, or drawn at a temperature from the top k and the nucleus."""

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError


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
        best = scaled[:, tokens.to(scaled.device)].amax(dim=1, keepdim=True)
        before = torch.where(scaled > best, scaled, 0.0).sum(dim=1)
        # A little more than the nucleus: rounding differs from that of the sum in order.
        possible = (before < self.top_p + 1e-9).nonzero()[:, 0]
        found = scaled.new_zeros(len(scaled))
        if len(possible):
            drawn = self.probabilities(logits[possible])
            found[possible] = drawn[:, tokens.to(drawn.device)].sum(dim=1)
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
        ordered, tokens = self._ordered(logits)
        passed = ordered.cumsum(dim=1) > uniform.to(ordered.device)[:, None]
        # Rounding can leave the whole sum just below a number that is almost 1: then the last token allowed.
        place = torch.where(passed.any(dim=1), passed.int().argmax(dim=1), (ordered > 0).sum(dim=1) - 1)
        return tokens.gather(1, place[:, None])[:, 0]

    def _ordered(
        self, logits: Float[Tensor, "row vocab"]
    ) -> tuple[Float[Tensor, "row vocab"], Int[Tensor, "row vocab"]]:
        """Probabilities in falling order, 0 where a token is not allowed, and their tokens."""
        raw, tokens = logits.sort(dim=1, descending=True, stable=True)
        scaled = raw.double() / self.temperature
        if self.top_k is not None:
            scaled[:, self.top_k :] = -torch.inf
        ordered = scaled.softmax(dim=1)
        before = ordered.cumsum(dim=1) - ordered
        ordered = torch.where((before < self.top_p) & (ordered >= self.min_p * ordered[:, :1]), ordered, 0.0)
        return ordered / ordered.sum(dim=1, keepdim=True), tokens
