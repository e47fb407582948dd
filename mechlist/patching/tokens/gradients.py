"""Attribution of a prediction to the embeddings of a prompt's tokens, to first order and along a path."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.language_model import LanguageModel
from mechlist.patching.gradients.gradient import differentiable, require_gradients
from mechlist.patching.tokens.inputs import INPUT, input_of
from mechlist.runner import Runner
from mechlist.types import format_bytes

ROUND = 16
"""Gradients that are taken together."""


class PathAttribution(NamedTuple):
    """Integrated gradients, and how far they are from adding up."""

    score: Float[Tensor, " position"]
    """Nats that each token's embedding adds."""
    gap: float
    """Their sum minus what the whole path changes: 0 for enough steps."""


def gradient_times_input(runner: Runner, tokens: Sequence[int], answer: int) -> Float[Tensor, " position"]:
    """Gradient of log p(answer) with respect to each token's embedding, times the embedding; nats."""
    there = input_of(runner, tokens)
    found = _gradients(runner, tokens, answer, there[None])
    return (found["gradient"][0].double() * there.double()).sum(dim=-1)


def integrated_gradients(
    runner: Runner,
    tokens: Sequence[int],
    answer: int,
    *,
    baseline: Float[Tensor, "position d_model"],
    steps: int,
) -> PathAttribution:
    """Gradients of log p(answer) averaged on the way from `baseline` to the embeddings, times the whole way; nats.

    The way is straight (Sundararajan et al. 2017). A prediction may change within a small part of it, so steps are
    placed where they are needed: each part of the way has its gradient at its middle, and the parts whose gradient
    tells the change between their ends worst are halved, until `steps` gradients are taken.

    A baseline of zero is a bad one where norms make layers blind to the size of what they read: much of the change then
    happens next to it. The mean embedding is not.
    """
    if steps < 2:
        raise InputError(f"steps must be at least 2, not {steps}.")
    there, start = input_of(runner, tokens).float(), baseline.float()

    def look(shares: Sequence[float]) -> dict[str, Tensor]:
        at = torch.tensor(list(shares))[:, None, None]
        return _gradients(runner, tokens, answer, start + at * (there - start))

    before, after = look([0.0, 1.0])["log_prob"].tolist()
    way = (there - start).double()
    parts, taken = [_Part(0.0, 1.0, before, after)], 0
    while taken < steps:
        known = [part for part in parts if part.score is not None]
        new = [part for part in parts if part.score is None]
        if not new:
            worst = sorted(known, key=lambda part: part.error, reverse=True)[: max(1, min(ROUND, steps - taken) // 2)]
            parts = [part for part in parts if part not in worst] + [half for part in worst for half in part.halves()]
            continue
        found = look([part.middle for part in new])
        for part, gradient, log_prob in zip(new, found["gradient"], found["log_prob"].tolist(), strict=True):
            part.score, part.log_prob = (gradient.double() * way).sum(dim=-1) * part.width, log_prob
        taken += len(new)
    score = torch.stack([part.score for part in parts if part.score is not None]).sum(dim=0)
    return PathAttribution(score, float(score.sum()) - (after - before))


@dataclass(eq=False)
class _Part:
    """A part of the way, and what was found at its middle."""

    first: float
    last: float
    before: float
    after: float
    score: Tensor | None = None
    log_prob: float = 0.0

    @property
    def middle(self) -> float:
        return (self.first + self.last) / 2

    @property
    def width(self) -> float:
        return self.last - self.first

    @property
    def error(self) -> float:
        """How far the gradient misses the change between the ends."""
        return 0.0 if self.score is None else abs(float(self.score.sum()) - (self.after - self.before))

    def halves(self) -> "list[_Part]":
        return [
            _Part(self.first, self.middle, self.before, self.log_prob),
            _Part(self.middle, self.last, self.log_prob, self.after),
        ]


def _gradients(
    runner: Runner, tokens: Sequence[int], answer: int, inputs: Float[Tensor, "step position d_model"]
) -> dict[str, Tensor]:
    """`gradient` of log p(answer) with respect to each row of `inputs`, and `log_prob` itself."""
    require_gradients(runner.language_model)
    if runner.interventions:
        raise InputError("Gradients of embeddings do not take interventions: leave their context first.")
    work = _Work(runner.language_model, [torch.tensor(list(tokens))] * len(inputs), answer, inputs)
    shape, length = runner.shape, len(tokens)
    # Every layer's activations are kept for the way back, and logits stand beside their softmax and both gradients.
    each = 2 * shape.n_layers * runner.forward_bytes(length) + 16 * shape.d_vocab
    if each > runner.memory:
        raise InputError(
            f"memory is too small: the gradient of a prompt of {length} tokens needs about {format_bytes(each)}, the "
            f"bound is {format_bytes(runner.memory)}."
        )
    size = max(1, min(runner.memory // each, 512 // length))
    plan = [list(range(i, min(i + size, len(inputs)))) for i in range(0, len(inputs), size)]
    asked = f"gradients of embeddings {answer} {plan} {inputs.double().sum().item()!r}"
    return runner.execute(work, plan, asked, "Gradients of embeddings")


@dataclass(frozen=True)
class _Work:
    """One gradient for each row of inputs, which stand in the place of the prompt's embeddings."""

    model: LanguageModel
    prompts: Sequence[Tensor]
    answer: int
    inputs: Tensor

    @torch.inference_mode(mode=False)
    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """See Work."""
        device = self.model.device
        leaf = self.inputs[members].to(device).clone().requires_grad_()

        def put(activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
            return leaf.to(activation)

        with differentiable(self.model.module):
            tokens = torch.stack([self.prompts[i] for i in members]).to(device)
            final = self.model.residual(tokens, [(INPUT, put)])[:, -1]
            log_prob = self.model.unembed(final).float().log_softmax(dim=1)[:, self.answer]
            (gradient,) = torch.autograd.grad(log_prob.sum(), leaf)
        return {"gradient": gradient.detach(), "log_prob": log_prob.detach().double()}
