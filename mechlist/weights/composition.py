"""Composition scores of pairs of heads (Elhage et al. 2021): how much of what one writes the other reads.

The score |W_A W_B| / (|W_A| |W_B|) in Frobenius norms, between 0 and 1, with W_A = W_OV of the earlier head and W_B of
the later one: W_QK for Q-, W_QK transposed for K-, W_OV for V-composition (rows in, columns out). It knows nothing of
what the residual stream holds, and unrelated matrices do not score 0: compare with `random_baseline`.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist import effort
from mechlist.errors import InputError
from mechlist.models.factored import LayerWeights, layer_weights

Kind = Literal["Q", "K", "V"]

Scores = Float[Tensor, "layer head layer head"]


class Baseline(NamedTuple):
    """Composition scores of unrelated random matrices: their mean and standard deviation."""

    mean: float
    sd: float


def composition_scores(module: Any, kind: Kind) -> Scores:
    """Scores [earlier layer, its head, later layer, its head], NaN unless the first layer is before the second.

    Exact, and as TransformerLens' `all_composition_scores`, which has 0 for NaN. Works on factors with d_head rows,
    never on d_model x d_model products; keeps one such factor of every head, as large as W_O, in float32 at least.
    A head whose matrix is zero has no score: NaN.

    Raises:
        InputError: another kind, a model with one layer, or one whose attention has no weights per head.
    """
    if kind not in get_args(Kind):
        raise InputError(f"kind must be 'Q', 'K' or 'V', not {kind!r}.")
    layers = int(module.cfg.n_layers)
    if layers < 2:
        raise InputError(
            "This model has one layer, so no composition: heads compose across layers, and that needs two."
        )
    earlier: list[Tensor] = []
    scores: Tensor | None = None
    for later in range(layers):
        weights = _at_least_float32(layer_weights(module, later))
        right = _right(*_read_by(weights, kind))
        if scores is None:
            heads = len(right)
            scores = right.new_full((layers, heads, layers, heads), torch.nan)
        for layer, left in enumerate(earlier):
            scores[layer, :, later] = _scores(left, right)
        earlier.append(_left(weights.W_V, weights.W_O))
    assert scores is not None
    return scores


def random_baseline(d_model: int, d_head: int, *, samples: int, generator: torch.Generator) -> Baseline:
    """Mean and standard deviation of the score of `samples` pairs of random matrices with d_head rows of factors.

    As ARENA 1.2: each factor [d_model, d_head] is kaiming_uniform with a = sqrt(5), that is, uniform within
    1 / sqrt(d_head); the score does not depend on the scale. The mean is about 1 / sqrt(d_model). The global random
    state is neither read nor changed.

    Raises:
        InputError: fewer than two samples, or a size below 1.
    """
    for name, value, least in (("d_model", d_model, 1), ("d_head", d_head, 1), ("samples", samples, 2)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}.")
    drawn = torch.stack([_random_score(d_model, d_head, generator) for _ in effort.steps(samples)])
    return Baseline(drawn.mean().item(), drawn.std().item())


def _random_score(d_model: int, d_head: int, generator: torch.Generator) -> Float[Tensor, ""]:
    shape = (4, d_model, d_head)
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    a, b, c, d = (2 * uniform - 1) / d_head**0.5
    return _scores(_left(a[None], b.mT[None]), _right(c[None], d.mT[None]))[0, 0]


def _read_by(weights: LayerWeights, kind: Kind) -> tuple[Tensor, Tensor]:
    """The two factors of what the later head reads with."""
    if kind == "Q":
        return weights.W_Q, weights.W_K.mT
    if kind == "K":
        return weights.W_K, weights.W_Q.mT
    return weights.W_V, weights.W_O


def _left(
    a: Float[Tensor, "head d_model d_head"], b: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head rank d_model"]:
    """A matrix with few rows whose products have the same norms as those of `a @ b` from the left."""
    return _triangle(a) @ b


def _right(
    a: Float[Tensor, "head d_model d_head"], b: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head d_model rank"]:
    """A matrix with few columns whose products have the same norms as those of `a @ b` from the right."""
    return a @ _triangle(b.mT).mT


def _triangle(factor: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "head rank d_head"]:
    """R of QR, so that R'R is the Gram matrix; forming that would square the rounding errors."""
    # On the CPU, because torch has no QR for MPS.
    return torch.linalg.qr(factor.cpu(), mode="r").R.to(factor.device)


def _scores(
    left: Float[Tensor, "earlier rank d_model"], right: Float[Tensor, "later d_model columns"]
) -> Float[Tensor, "earlier later"]:
    """All pairs of two layers in one product."""
    product = left.flatten(0, 1) @ right.transpose(0, 1).flatten(1, 2)
    blocks = product.unflatten(0, left.shape[:2]).unflatten(2, (right.shape[0], right.shape[2]))
    norms = blocks.square().sum(dim=(1, 3)).sqrt()
    return norms / (left.norm(dim=(1, 2))[:, None] * right.norm(dim=(1, 2)))


def _at_least_float32(weights: LayerWeights) -> LayerWeights:
    dtype = torch.promote_types(weights.W_Q.dtype, torch.float32)
    return LayerWeights(*(w.to(dtype) for w in (weights.W_Q, weights.W_K, weights.W_V, weights.W_O)))
