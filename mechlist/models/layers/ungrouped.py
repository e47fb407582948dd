"""A model's layers with keys and values of their own for every head, though it shares them among some."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.models.layers.layers import Layers, Touch


class Ungrouped(Layers):
    """The same layers, in which every head has the keys and values that it reads, as if they were its own.

    What is computed is the same; but what a head's keys or values read can now be changed, and gradients are had, for
    that head alone.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self.n_layers, self.n_heads, self.n_key_value_heads = layers.n_layers, layers.n_heads, layers.n_heads
        self.d_model, self.d_head = layers.d_model, layers.d_head
        self.attn_only, self.parallel = layers.attn_only, layers.parallel
        self.final_norm = layers.final_norm
        self._sharing = layers.n_heads // layers.n_key_value_heads
        """Heads that share keys and values; they follow one another."""

    def embed(self, tokens: Int[Tensor, "row token"], first: int = 0) -> Float[Tensor, "row token d_model"]:
        """See Layers."""
        return self._layers.embed(tokens, first)

    def normed(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return self._layers.normed(layer, residual)

    def queries(self, layer: int, normed: Float[Tensor, "token d_model"]) -> Float[Tensor, "token head d_head"]:
        """See Layers."""
        return self._layers.queries(layer, normed)

    def keys_values(
        self, layer: int, normed: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token head d_head"], Float[Tensor, "token head d_head"]]:
        """See Layers."""
        k, v = self._layers.keys_values(layer, normed)
        return k.repeat_interleave(self._sharing, dim=1), v.repeat_interleave(self._sharing, dim=1)

    def place(
        self, layer: int, x: Float[Tensor, "row token any_head d_head"], positions: Int[Tensor, " token"], kind: str
    ) -> Float[Tensor, "row token any_head d_head"]:
        """See Layers."""
        if kind == "q":
            return self._layers.place(layer, x, positions, kind)
        # A norm may want as many heads as there are keys.
        shared = x.unflatten(2, (-1, self._sharing)).unbind(3)
        return torch.stack([self._layers.place(layer, one, positions, kind) for one in shared], dim=3).flatten(2, 3)

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "row query head d_head"],
        k: Float[Tensor, "row key head d_head"],
        v: Float[Tensor, "row key head d_head"],
        positions: Int[Tensor, " query"],
        touch: Touch,
    ) -> Float[Tensor, "row query head d_head"]:
        """See Layers."""
        return self._layers.attend(layer, q, k, v, positions, touch)

    def attention_output(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return self._layers.attention_output(layer, z)

    def mlp(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return self._layers.mlp(layer, residual)

    def final(self, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return self._layers.final(residual)

    def project_each(
        self, layer: int, kind: str, residual: Float[Tensor, "token any_head d_model"]
    ) -> Float[Tensor, "token any_head d_head"]:
        """See Layers."""
        if kind == "q":
            return self._layers.project_each(layer, kind, residual)
        shared = residual.unflatten(1, (-1, self._sharing)).unbind(2)
        return torch.stack([self._layers.project_each(layer, kind, one) for one in shared], dim=2).flatten(1, 2)

    def head_outputs(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token head d_model"]:
        """See Layers."""
        return self._layers.head_outputs(layer, z)

    def output_bias(self, layer: int) -> Float[Tensor, " d_model"]:
        """See Layers."""
        return self._layers.output_bias(layer)

    def relevance(self) -> "Ungrouped":
        """See Layers."""
        return Ungrouped(self._layers.relevance())
