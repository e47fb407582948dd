"""What the last position attends to: what a model reads, which need not be what it uses."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.metrics.attention import attention_rollout, value_weighted_attention
from mechlist.models.factored import layer_weights
from mechlist.runner import Runner


class Attention(NamedTuple):
    """Attention from a prompt's last position, three ways; and the pattern of one layer."""

    mean: Float[Tensor, " position"]
    """Attention of the layer averaged over its heads."""
    rollout: Float[Tensor, " position"]
    """Attention rollout over all layers."""
    value_weighted: Float[Tensor, " position"]
    """Attention x length of what the value adds to the stream, averaged over the layer's heads."""
    pattern: Float[Tensor, "head query key"]
    """Of the layer."""


def last_attention(runner: Runner, tokens: Sequence[int], layer: int) -> Attention:
    """Attention of one prompt's last position.

    Args:
        runner: with the model.
        tokens: the prompt.
        layer: whose attention is averaged and weighted; negative ones count from the last.
    """
    layer = layer % runner.shape.n_layers
    patterns = [f"blocks.{number}.attn.hook_pattern" for number in range(runner.shape.n_layers)]
    value = f"blocks.{layer}.attn.hook_v"
    kept = runner.capture([list(tokens)], *patterns, value)
    pattern = torch.stack([kept[name][0].float() for name in patterns])
    weights = layer_weights(runner.model, layer)
    weighted = value_weighted_attention(pattern[layer, :, -1], kept[value][0].float(), weights.W_O.cpu())
    return Attention(
        pattern[layer, :, -1].mean(dim=0).double(),
        attention_rollout(pattern)[-1],
        weighted.mean(dim=0),
        pattern[layer],
    )
