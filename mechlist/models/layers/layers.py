"""A model one layer at a time, on tokens that are packed into one axis.

Everything but attention treats each token by itself, so tokens of many rows, at any positions, go through one matrix
product. There is one implementation for HookedTransformer and one for TransformerBridge; each is compared with the
model's own forward pass, at every site, before anything is computed with it (`mechlist.models.comparison`).
"""

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.models.layers.norms import Norm

PIECE = 1024
"""Tokens that go through an MLP at a time: what is made on the way stays in the processor's cache."""

Touch = Callable[[str, Tensor], Tensor]
"""Called with a site's name and its activation, packed tokens first; returns what goes on."""


class Layers(ABC):
    """The layers of a model, one by one."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    attn_only: bool
    """Whether there are no MLPs."""
    parallel: bool
    """Whether MLPs read what attention reads, and not what attention has added to."""
    final_norm: Norm | None
    """The last norm written out; None where there is none, or where it is neither a LayerNorm nor an RMSNorm."""

    @abstractmethod
    def embed(self, tokens: Int[Tensor, "row token"], first: int = 0) -> Float[Tensor, "row token d_model"]:
        """The residual stream before the first layer, of tokens at positions from `first` on."""

    @abstractmethod
    def normed(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What attention reads."""

    @abstractmethod
    def queries(self, layer: int, normed: Float[Tensor, "token d_model"]) -> Float[Tensor, "token head d_head"]:
        """Queries of normed tokens, as hook_q sees them."""

    @abstractmethod
    def keys_values(
        self, layer: int, normed: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token kv_head d_head"], Float[Tensor, "token kv_head d_head"]]:
        """Keys and values of normed tokens, as hook_k and hook_v see them; as many as there are key/value heads."""

    @abstractmethod
    def place(
        self, layer: int, x: Float[Tensor, "row token any_head d_head"], positions: Int[Tensor, " token"], kind: str
    ) -> Float[Tensor, "row token any_head d_head"]:
        """Queries (kind `q`) or keys (`k`) as the scores take them: normed, clipped and rotated, if the model does."""

    @abstractmethod
    def attend(
        self,
        layer: int,
        q: Float[Tensor, "row query head d_head"],
        k: Float[Tensor, "row key kv_head d_head"],
        v: Float[Tensor, "row key kv_head d_head"],
        positions: Int[Tensor, " query"],
        touch: Touch,
    ) -> Float[Tensor, "row query head d_head"]:
        """Z of queries at `positions` over keys at 0, 1, 2, ...; `touch` sees attn_scores and pattern by row."""

    @abstractmethod
    def attention_output(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token d_model"]:
        """What attention adds to the residual stream."""

    @abstractmethod
    def mlp(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What the MLP adds to the residual stream that it reads."""

    @abstractmethod
    def final(self, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """The residual stream after the last norm, as the unembedding reads it."""

    @abstractmethod
    def project_each(
        self, layer: int, kind: str, residual: Float[Tensor, "token any_head d_model"]
    ) -> Float[Tensor, "token any_head d_head"]:
        """Queries (kind `q`), keys (`k`) or values (`v`) where each head reads a residual stream of its own."""

    @abstractmethod
    def head_outputs(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token head d_model"]:
        """What each head adds to the residual stream; together they are attn_out.

        A norm after attention divides by the size of the whole, which is each head's share of it, too. The bias of the
        output is shared equally.
        """

    @abstractmethod
    def output_bias(self, layer: int) -> Float[Tensor, " d_model"]:
        """What attention adds whatever its heads do; 0 where a norm of the sum of both comes after it."""

    @abstractmethod
    def relevance(self) -> "Layers":
        """The same layers, through which relevance runs back in the place of gradients: see `relevance.py`.

        Raises:
            InputError: norms or MLPs for which there is no rule, or not of a kind that is known here.
        """

    @typing.final
    def project(
        self, layer: int, residual: Float[Tensor, "token d_model"]
    ) -> tuple[
        Float[Tensor, "token head d_head"], Float[Tensor, "token kv_head d_head"], Float[Tensor, "token kv_head d_head"]
    ]:
        """Queries, keys and values, as hook_q, hook_k and hook_v see them."""
        normed = self.normed(layer, residual)
        return self.queries(layer, normed), *self.keys_values(layer, normed)

    @typing.final
    def finish(
        self, layer: int, residual: Float[Tensor, "token d_model"], z: Float[Tensor, "token head d_head"], touch: Touch
    ) -> Float[Tensor, "token d_model"]:
        """From z to the residual stream after the layer.

        `touch` sees attn_out, resid_mid, mlp_in, mlp_out and resid_post.
        """
        attn_out = touch("attn_out", self.attention_output(layer, z))
        if self.attn_only:
            return touch("resid_post", residual + attn_out)
        if self.parallel:
            mlp_out = touch("mlp_out", self.mlp(layer, touch("mlp_in", residual)))
            return touch("resid_post", residual + attn_out + mlp_out)
        mid = touch("resid_mid", residual + attn_out)
        return touch("resid_post", mid + touch("mlp_out", self.mlp(layer, touch("mlp_in", mid))))

    @typing.final
    def run(
        self, embedded: Float[Tensor, "row position d_model"], touch: Touch
    ) -> Float[Tensor, "row position d_model"]:
        """The residual stream after the last layer of whole rows.

        `touch` sees, layer by layer, resid_pre, q, k, v, and z of packed tokens, attn_scores and pattern by row, and
        all of `finish`.
        """
        length = embedded.shape[1]
        positions = torch.arange(length, device=embedded.device)
        x = embedded.flatten(0, 1)
        for layer in range(self.n_layers):
            x = touch("resid_pre", x)
            q, k, v = (touch(name, t) for name, t in zip("qkv", self.project(layer, x), strict=True))
            q, k, v = (t.view(-1, length, *t.shape[1:]) for t in (q, k, v))
            q, k = self.place(layer, q, positions, "q"), self.place(layer, k, positions, "k")
            z = self.attend(layer, q, k, v, positions, touch)
            x = self.finish(layer, x, touch("z", z.reshape(-1, *z.shape[2:])), touch)
        return x.view(embedded.shape)


def scores_of(
    q: Float[Tensor, "row query head d_head"], k: Float[Tensor, "row key kv_head d_head"], divisor: float
) -> Float[Tensor, "row head query key"]:
    """Products of queries and keys; heads share the keys of their group."""
    rows, n_queries, heads, d_head = q.shape
    n_keys, groups = k.shape[1], k.shape[2]
    grouped = q.transpose(1, 2).reshape(rows, groups, heads // groups * n_queries, d_head)
    return (grouped @ k.permute(0, 2, 3, 1) / divisor).view(rows, heads, n_queries, n_keys)


def mixed(
    pattern: Float[Tensor, "row head query key"], v: Float[Tensor, "row key kv_head d_head"]
) -> Float[Tensor, "row query head d_head"]:
    """Z: values weighed by the pattern."""
    rows, heads, n_queries, n_keys = pattern.shape
    groups = v.shape[2]
    z = pattern.reshape(rows, groups, heads // groups * n_queries, n_keys) @ v.transpose(1, 2)
    return z.view(rows, heads, n_queries, v.shape[-1]).transpose(1, 2)


def unseen(positions: Int[Tensor, " query"], n_keys: int, window: int | None) -> Bool[Tensor, "query key"]:
    """True where a query may not look: after itself, and before the window of local attention."""
    keys = torch.arange(n_keys, device=positions.device)
    seen = keys[None] <= positions[:, None]
    if window is not None:
        seen &= keys[None] > positions[:, None] - window
    return ~seen


def in_pieces(
    function: Callable[[Float[Tensor, "token d_model"]], Float[Tensor, "token d_model"]],
    x: Float[Tensor, "token d_model"],
) -> Float[Tensor, "token d_model"]:
    """A function of each token, on a CPU a few at a time."""
    pieces = x.split(PIECE if x.device.type == "cpu" else len(x) or 1)
    outs = [function(piece) for piece in pieces]
    return outs[0] if len(outs) == 1 else torch.cat(outs)
