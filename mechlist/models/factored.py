"""A model's weights per head in one convention, whatever the architecture: rows in, columns out (`x @ W`).

The weights are the model's own, detached: nothing is folded here. Where layer norms are not folded, their gain and
centring are missing from every circuit; `Processing` folds them on conversion. A TransformerBridge has its weights as
Hugging Face stores them: embeddings before any scale that the forward pass applies (Gemma), norms not folded.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix

from mechlist.errors import InputError

__all__ = [
    "FactoredMatrix",
    "HeadWeights",
    "LayerWeights",
    "check_head",
    "embedding",
    "head_weights",
    "layer_weights",
    "unembedding",
]

Module = Any
"""A HookedTransformer or a TransformerBridge."""


@dataclass(frozen=True)
class HeadWeights:
    """One head; under grouped queries W_K and W_V are those that the head shares with its group."""

    W_Q: Float[Tensor, "d_model d_head"]
    W_K: Float[Tensor, "d_model d_head"]
    W_V: Float[Tensor, "d_model d_head"]
    W_O: Float[Tensor, "d_head d_model"]


@dataclass(frozen=True)
class LayerWeights:
    """All heads of one layer; grouped keys and values are repeated, one a head."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]


def layer_weights(module: Module, layer: int) -> LayerWeights:
    """Weights of every head of `layer`.

    Raises:
        InputError: no such layer, or its attention has no such weights per head (compressed, gated, or none at all).
    """
    check_head(module, layer)
    names = ("W_Q", "W_K", "W_V", "W_O")
    found = {name: _per_head(module, layer, name) for name in names}
    return LayerWeights(**found)


def head_weights(module: Module, layer: int, head: int) -> HeadWeights:
    """Weights of one head.

    Raises:
        InputError: no such layer or head, or no such weights per head.
    """
    check_head(module, layer, head)
    every = layer_weights(module, layer)
    return HeadWeights(every.W_Q[head], every.W_K[head], every.W_V[head], every.W_O[head])


def embedding(module: Module) -> Float[Tensor, "vocab d_model"]:
    """W_E: a row for each token, without positions."""
    return module.W_E.detach()


def unembedding(module: Module) -> Float[Tensor, "d_model vocab"]:
    """W_U: a column for each token, without bias or softcap."""
    return module.W_U.detach()


def check_head(module: Module, layer: int, head: int = 0, name: str = "head") -> None:
    """Refuse a layer or a head that the model does not have; `name` says in the message whose they are.

    Raises:
        InputError: which of the two is out of range, what is allowed and what was received.
    """
    for what, value, size in (("layer", layer, int(module.cfg.n_layers)), ("head", head, int(module.cfg.n_heads))):
        if not 0 <= value < size:
            allowed = f"from 0 to {size - 1}" if size > 1 else "0"
            raise InputError(f"{name} L{layer}H{head}: {what} must be {allowed} in this model, not {value}.")


def _per_head(module: Module, layer: int, name: str) -> Tensor:
    cfg = module.cfg
    heads, width, inner = int(cfg.n_heads), int(cfg.d_model), int(cfg.d_head)
    weight = _read(module, layer, name)
    if name in ("W_K", "W_V") and weight.ndim == 3 and 0 < len(weight) < heads and heads % len(weight) == 0:
        # HookedTransformer has repeated them already; a bridge has one a group.
        weight = weight.repeat_interleave(heads // len(weight), dim=0)
    expected = (heads, inner, width) if name == "W_O" else (heads, width, inner)
    if tuple(weight.shape) != expected:
        raise InputError(
            f"{name} of layer {layer} has the shape {tuple(weight.shape)}, not {expected} (one matrix a head): "
            f"this model's attention cannot be read as heads of {inner}."
        )
    return weight


def _read(module: Module, layer: int, name: str) -> Tensor:
    block: Any = module.blocks[layer]
    try:
        return getattr(block.attn, name).detach()
    except (AttributeError, NotImplementedError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"Layer {layer} of this {type(module).__name__} has no {name} for each head ({reason}); "
            "methods on weights need ordinary attention in every layer they ask for."
        ) from error
