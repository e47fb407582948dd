"""One forward and one backward pass of the model without any SAE: activation x and gradient g at every hook."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.measure import Measure, Metric
from mechlist.models.language_model import Hook, LanguageModel
from mechlist.patching.gradients.gradient import (
    differentiable,
    metric_gradient,
    require_gradients,
    site_gradients,
)
from mechlist.runner import Intervention, Rows, Runner
from mechlist.runner.memory import padded_tokens
from mechlist.sae.sae import flat


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """Prompts, and a number for each that features are to explain."""

    tokens: Int[Tensor, "prompt position"]
    """Padded on the right."""
    lengths: Int[Tensor, " prompt"]
    metric: Metric
    sign: int = 1
    """-1 asks for minus the metric."""

    def select(self, prompts: Sequence[int]) -> "Question":
        """For some of the prompts, in this order; one may stand in it more than once."""
        chosen = list(prompts)
        width = int(self.lengths[chosen].max())
        return Question(
            tokens=self.tokens[chosen, :width],
            lengths=self.lengths[chosen],
            metric=self.metric.select(chosen),
            sign=self.sign,
        )

    def measure(self, runner: Runner) -> Measure:
        """The metric made ready for the prompts."""
        return self.metric.prepare(self.tokens, self.lengths, runner.shape.d_vocab_out)


@dataclass(frozen=True, eq=False)
class Traces:
    """Of some prompts; heads are one behind the other. 0 in padding."""

    x: dict[str, Float[Tensor, "prompt position d_in"]]
    """Activations by hook."""
    g: dict[str, Float[Tensor, "prompt position d_in"]]
    """Gradients of the metric by hook."""
    base: Float[Tensor, " prompt"]
    """The metric itself."""


@torch.inference_mode(mode=False)
def trace(runner: Runner, question: Question, hooks: Sequence[str]) -> Traces:
    """Activations and gradients at the hooks, each hook once; with the runner's interventions in place.

    Raises:
        InputError: weights or a metric without a gradient, a hook that never fires.
    """
    require_gradients(runner.language_model)
    names = list(dict.fromkeys(hooks))
    work = _Work(runner, question, question.measure(runner), names)
    found = runner.execute(work, work.plan(), work.asked(), "Gradients at SAEs' hooks")
    return Traces(
        {name: found[f"x{i}"] for i, name in enumerate(names)},
        {name: found[f"g{i}"] for i, name in enumerate(names)},
        found["base"],
    )


def prompts_at_once(runner: Runner, question: Question, hooks: Sequence[str]) -> int:
    """Prompts whose activations and gradients at all hooks are kept together; 1 at least."""
    width = max(runner.shape.d_model, runner.shape.n_heads * runner.shape.d_head)
    each = 2 * runner.language_model.dtype.itemsize * len(set(hooks)) * question.tokens.shape[1] * width
    return max(1, runner.shares.kept // each)


@dataclass(frozen=True)
class _Work:
    """Blocks of prompts that follow one another, forward and backward."""

    runner: Runner
    question: Question
    measure: Measure
    hooks: list[str]

    @property
    def model(self) -> LanguageModel:
        """See Work."""
        return self.runner.language_model

    @property
    def prompts(self) -> Sequence[Tensor]:
        """See Work."""
        return list(self.question.tokens)

    def plan(self) -> list[list[int]]:
        """The blocks: every layer's activations are kept for the way back."""
        prompts, length = self.question.tokens.shape
        each = 2 * self.runner.shape.n_layers * self.runner.forward_bytes(length)
        size = max(1, self.runner.shares.batch // each)
        if self.model.device.type == "cpu":
            size = min(size, max(1, padded_tokens(self.model.device) // length))
        return [list(range(i, min(i + size, prompts))) for i in range(0, prompts, size)]

    def asked(self) -> str:
        """What results depend on besides the prompts."""
        measure, question = self.measure, self.question
        read = f"{measure.read.tolist()} {measure.columns} {measure.of.__qualname__} {question.sign}"
        return f"SAE traces {self.hooks} {question.lengths.tolist()} {read} {self.plan()}"

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """See Work."""
        block, device = slice(members[0], members[-1] + 1), self.model.device
        rows = Rows(torch.arange(block.start, block.stop), self.question.lengths[block].to(device))
        measure, kept = self.measure.block(block), dict[str, Tensor]()
        placed: list[Hook] = [(i.hook, partial(_intervened, i, rows)) for i in self.runner.interventions]
        own: list[Hook] = [(name, partial(_keep, kept, name)) for name in self.hooks]
        with differentiable(self.model.module):
            normalized = self.model.residual(self.question.tokens[block].to(device), [*placed, *own])
            missing = next((name for name in self.hooks if name not in kept), None)
            if missing is not None:
                raise InputError(f"The hook {missing} exists but never fires with this model and its settings.")
            finals = normalized[torch.arange(len(members), device=device)[:, None], measure.read.to(device)]
            shares, width = self.runner.shares, self.runner.shape.d_vocab_out
            gradient = metric_gradient(
                measure, finals, finals.detach(), self.model.unembed, width, shares.metric_logits
            )
            gradients = site_gradients(finals, gradient, [kept[name] for name in self.hooks])
        every, unembed = torch.arange(len(members)), self.model.unembed
        base = measure(finals.detach(), every, finals.detach(), unembed, width, shares.metric_logits)
        out = {"base": self.question.sign * base}
        real = (torch.arange(normalized.shape[1], device=device) < rows.lengths[:, None])[:, :, None]
        for i, (name, g) in enumerate(zip(self.hooks, gradients, strict=True)):
            out[f"x{i}"] = (flat(kept[name].detach()) * real).cpu()
            out[f"g{i}"] = (self.question.sign * flat(g) * real).cpu()
        return out


def _keep(kept: dict[str, Tensor], name: str, activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001
    """Keep an activation on the way; gradients begin at the first."""
    kept[name] = activation if activation.requires_grad else activation.detach().requires_grad_()
    return kept[name]


def _intervened(intervention: Intervention, rows: Rows, activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001
    return intervention.change(activation, rows)
