"""What a run says of the next token as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.measure import Each, Logits, Measure, positions, selected


@dataclass(frozen=True, kw_only=True, eq=False)
class Entropy:
    """Entropy of the next token, in nats."""

    position: Each = -1
    """Of the prediction; negative ones count from the last real token. Several are averaged."""
    unit: str = "nats"

    def prepare(
        self,
        tokens: Int[Tensor, "prompt position"],  # noqa: ARG002 (a Metric's)
        lengths: Int[Tensor, " prompt"],
        d_vocab: int,  # noqa: ARG002
    ) -> Measure:
        """See Metric."""

        def of(logits: Logits) -> Float[Tensor, " token"]:
            log_prob = logits.values.log_softmax(dim=1)
            # An outcome of probability 0 adds nothing, whatever its logarithm.
            return -torch.where(log_prob.isneginf(), 0.0, log_prob.exp() * log_prob).sum(dim=1)

        return Measure(*positions(self.position, lengths), None, of)

    def select(self, prompts: Sequence[int]) -> "Entropy":
        """See Metric."""
        return replace(self, position=selected(self.position, prompts))


@dataclass(frozen=True, kw_only=True, eq=False)
class KLFromBase:
    """KL divergence of the next token, from the run without changes to the changed one: KL(base || patched), nats."""

    position: Each = -1
    """Of the prediction; negative ones count from the last real token. Several are averaged."""
    unit: str = "nats"

    def prepare(
        self,
        tokens: Int[Tensor, "prompt position"],  # noqa: ARG002 (a Metric's)
        lengths: Int[Tensor, " prompt"],
        d_vocab: int,  # noqa: ARG002
    ) -> Measure:
        """See Metric."""

        def of(logits: Logits) -> Float[Tensor, " token"]:
            assert logits.base is not None
            before, after = logits.base.log_softmax(dim=1), logits.values.log_softmax(dim=1)
            gap = torch.where(before.isneginf(), 0.0, before.exp() * (before - after))
            return gap.sum(dim=1)

        return Measure(*positions(self.position, lengths), None, of, needs_base=True)

    def select(self, prompts: Sequence[int]) -> "KLFromBase":
        """See Metric."""
        return replace(self, position=selected(self.position, prompts))


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss:
    """Minus the log-probability of the prompt's own next token, averaged over positions; nats a token.

    The tokens are those of the prompts that are run and changed.
    """

    position: Each | None = None
    """Of the predictions; without, all that have a next token."""
    unit: str = "nats"

    def prepare(
        self,
        tokens: Int[Tensor, "prompt position"],
        lengths: Int[Tensor, " prompt"],
        d_vocab: int,  # noqa: ARG002
    ) -> Measure:
        """See Metric; the last real token has no next one."""
        if (lengths < 2).any():
            raise InputError("The loss takes prompts of 2 tokens at least: there must be a next token.")
        every = [list(range(n - 1)) for n in lengths.tolist()]
        read, weight = positions(every if self.position is None else self.position, lengths)
        last = (read >= lengths[:, None] - 1).nonzero()
        if len(last):
            i, j = last[0].tolist()
            raise InputError(f"position {int(read[i, j])} is the last of prompt {i}: it has no next token.")

        def of(logits: Logits) -> Float[Tensor, " token"]:
            target = tokens[logits.prompt, read[logits.prompt, logits.slot] + 1].to(logits.values.device)
            return -logits.values.log_softmax(dim=1).gather(1, target[:, None])[:, 0]

        return Measure(read, weight, None, of)

    def select(self, prompts: Sequence[int]) -> "Loss":
        """See Metric."""
        return self if self.position is None else replace(self, position=selected(self.position, prompts))
