"""Gradients of a metric with respect to the final residual stream, and of that with respect to a site."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.measure import COPIES, Logits, Measure
from mechlist.models.language_model import LanguageModel

Rule = Literal["gradient", "relp"]
"""What runs back: gradients, or relevance (RelP; `mechlist.models.layers.relevance`)."""


def require_gradients(model: LanguageModel) -> None:
    """Refuse weights through which no gradient flows.

    Raises:
        InputError: weights that are quantised, or whole numbers.
    """
    quantised = getattr(getattr(model.module, "cfg", None), "load_in_4bit", False)
    if quantised or not model.dtype.is_floating_point:
        kind = "quantised" if quantised else f"of the type {model.dtype}"
        raise InputError(f"The weights are {kind}, and have no gradients: load the model in float32 or bfloat16.")


@contextmanager
def differentiable(module: torch.nn.Module) -> Iterator[None]:
    """Inside, operations are recorded for gradients, but not those of the weights."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def metric_gradient(
    measure: Measure,
    finals: Float[Tensor, "prompt n d_model"],
    base: Float[Tensor, "prompt n d_model"],
    unembed: Callable[[Tensor, Tensor | None], Tensor],
    d_vocab: int,
    most_bytes: int,
) -> Float[Tensor, "prompt n d_model"]:
    """Gradient of each prompt's metric with respect to its final, normalised residual stream.

    Args:
        measure: the metric, made ready for these prompts.
        finals: at the positions that the metric reads.
        base: the same of the run without changes.
        unembed: residual streams and columns to logits after any softcap.
        d_vocab: columns that `unembed` makes of None.
        most_bytes: what a piece of logits may take with its copies; one position at least is done at a time.

    Raises:
        InputError: a metric that has no gradient.
    """
    row, slot = (measure.weight != 0).nonzero().T
    columns = None if measure.columns is None else measure.columns.to(finals.device)
    width = d_vocab if columns is None else len(columns)
    # Twice the copies of a pass without gradients: one for the way back.
    size = max(1, most_bytes // (2 * 4 * COPIES * (1 + measure.needs_base) * width))
    out = torch.zeros_like(finals)
    for r, s in zip(row.split(size), slot.split(size), strict=True):
        at = r.to(finals.device), s.to(finals.device)
        own = finals[at].detach().requires_grad_()
        plain = unembed(base[at].detach(), columns).float() if measure.needs_base else None
        values = measure.of(Logits(unembed(own, columns).float(), r, s, plain))
        if not values.requires_grad:
            raise InputError(
                "The metric has no gradient (it counts, as a rank does), so there is no first-order effect: take one "
                "that changes smoothly with the logits, such as LogitDifference or LogProb."
            )
        (gradient,) = torch.autograd.grad(values, own, measure.weight[r, s].to(values))
        out[at] = gradient
    return out


def site_gradients(
    finals: Float[Tensor, "prompt n d_model"], gradient: Float[Tensor, "prompt n d_model"], kept: list[Tensor]
) -> list[Tensor]:
    """Gradients with respect to activations on the way to `finals`; 0 for those that nothing depends on."""
    if not finals.requires_grad:
        return [torch.zeros_like(activation) for activation in kept]
    return list(torch.autograd.grad(finals, kept, gradient, allow_unused=True, materialize_grads=True))
