"""A HookedTransformer one layer at a time, on tokens that are packed into one axis.

Everything but attention treats each token by itself, so tokens of many rows, at any positions, go through one matrix
product. What TransformerLens computes in several passes over memory is done in one here (norms, GELU); results equal
its own up to float rounding, which `mechlist.patching` checks on every call.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, rms_norm
from transformer_lens import HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.layer_norm_pre import LayerNormPre
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.rms_norm_pre import RMSNormPre
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

PIECE = 1024
"""Tokens that go through an MLP at a time: what is made on the way stays in the processor's cache."""

Touch = Callable[[str, Tensor], Tensor]
"""Called with a site's name and its activation, packed tokens first; returns what goes on."""


def unsupported(module: Any) -> str | None:
    """Why the layers of a model cannot be run one by one here; None where they can."""
    if not isinstance(module, HookedTransformer):
        return f"it is a {type(module).__name__}"
    cfg = module.cfg
    reasons = {
        f"its positions are {cfg.positional_embedding_type}": cfg.positional_embedding_type
        not in ("standard", "rotary", "none"),
        "its weights are quantised": getattr(cfg, "load_in_4bit", False),
        "it has attention sinks": getattr(cfg, "use_attention_sinks", False),
        "its rotary base depends on the length": getattr(cfg, "use_dynamic_ntk_rope", False),
        "it scales queries with the length": getattr(cfg, "use_logn_attn", False),
        "it clips queries, keys and values": getattr(cfg, "clip_qkv", None) is not None,
        "its norms come after the layers only": cfg.original_architecture in POST_NORM_ARCHITECTURES,
        "its queries and keys are normed across heads": str(cfg.original_architecture).startswith("Olmo"),
        "it splits the inputs of attention by head": cfg.use_attn_in or cfg.use_split_qkv_input,
        "it ungroups key/value heads": cfg.ungroup_grouped_query_attention,
        "its attention is not causal": cfg.attention_dir != "causal",
        "it runs on several devices": getattr(cfg, "n_devices", 1) > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class Layers:
    """The layers of a HookedTransformer for which `unsupported` is None."""

    def __init__(self, module: HookedTransformer) -> None:
        self._module = module
        self.cfg = module.cfg
        self.n_heads = int(self.cfg.n_heads)
        self.n_key_value_heads = int(self.cfg.n_key_value_heads or self.n_heads)

    def embed(self, tokens: Int[Tensor, "row token"], first: int = 0) -> Float[Tensor, "row token d_model"]:
        """The residual stream before the first layer, of tokens at positions from `first` on."""
        embedded = self._module.embed(tokens)
        if self.cfg.positional_embedding_type != "standard":
            return embedded
        return embedded + self._module.pos_embed(tokens, first)

    def project(
        self, layer: int, residual: Float[Tensor, "token d_model"]
    ) -> tuple[
        Float[Tensor, "token head d_head"], Float[Tensor, "token kv_head d_head"], Float[Tensor, "token kv_head d_head"]
    ]:
        """Queries, keys and values, as hook_q, hook_k and hook_v see them."""
        normed = self.normed(layer, residual)
        return self.queries(layer, normed), *self.keys_values(layer, normed)

    def normed(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What attention reads."""
        return _norm(self._module.blocks[layer].ln1, residual)

    def queries(self, layer: int, normed: Float[Tensor, "token d_model"]) -> Float[Tensor, "token head d_head"]:
        """Queries of normed tokens."""
        attention = self._module.blocks[layer].attn
        return _linear(normed, attention.W_Q, attention.b_Q)

    def keys_values(
        self, layer: int, normed: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token kv_head d_head"], Float[Tensor, "token kv_head d_head"]]:
        """Keys and values of normed tokens; as many heads as there are key/value heads."""
        attention = self._module.blocks[layer].attn
        # Where key/value heads are shared, W_K repeats them and _W_K holds those there are.
        grouped = hasattr(attention, "_W_K")
        names = ("_W_K", "_b_K", "_W_V", "_b_V") if grouped else ("W_K", "b_K", "W_V", "b_V")
        w_k, b_k, w_v, b_v = (getattr(attention, name) for name in names)
        return _linear(normed, w_k, b_k), _linear(normed, w_v, b_v)

    def place(
        self, layer: int, x: Float[Tensor, "row token any_head d_head"], positions: Int[Tensor, " token"], kind: str
    ) -> Float[Tensor, "row token any_head d_head"]:
        """Queries (kind `q`) or keys (`k`) as the scores take them: normed by head and rotated, if the model does."""
        attention = self._module.blocks[layer].attn
        if self.cfg.use_qk_norm:
            norm = attention.q_norm if kind == "q" else attention.k_norm
            x = _norm(norm, x.reshape(-1, x.shape[-1])).reshape(x.shape)
        if self.cfg.positional_embedding_type != "rotary":
            return x
        cos, sin = (table[positions][None, :, None] for table in (attention.rotary_cos, attention.rotary_sin))
        turned, rest = x[..., : self.cfg.rotary_dim], x[..., self.cfg.rotary_dim :]
        turned = turned * cos + attention.rotate_every_two(turned) * sin
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned

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
        attention = self._module.blocks[layer].attn
        rows, n_queries, heads, d_head = q.shape
        n_keys, groups = k.shape[1], k.shape[2]
        grouped = q.transpose(1, 2).reshape(rows, groups, heads // groups * n_queries, d_head)
        scores = (grouped @ k.permute(0, 2, 3, 1) / attention.attn_scale).view(rows, heads, n_queries, n_keys)
        cap = self.cfg.attn_scores_soft_cap
        if cap is not None and cap > 0:
            scores = cap * torch.tanh(scores / cap)
        keys = torch.arange(n_keys, device=q.device)
        seen = keys[None] <= positions[:, None]
        if attention.attn_type == "local":
            seen &= keys[None] > positions[:, None] - int(self.cfg.window_size or 0)
        scores = touch("attn_scores", scores.masked_fill(~seen, -torch.inf))
        pattern = touch("pattern", scores.softmax(-1)).to(v.dtype)
        z = pattern.reshape(rows, groups, heads // groups * n_queries, n_keys) @ v.transpose(1, 2)
        return z.view(rows, heads, n_queries, d_head).transpose(1, 2)

    def finish(
        self, layer: int, residual: Float[Tensor, "token d_model"], z: Float[Tensor, "token head d_head"], touch: Touch
    ) -> Float[Tensor, "token d_model"]:
        """From z to the residual stream after the layer.

        `touch` sees attn_out, resid_mid, mlp_in, mlp_out and resid_post.
        """
        block = self._module.blocks[layer]
        attn_out = torch.addmm(block.attn.b_O, z.flatten(1), block.attn.W_O.flatten(0, 1))
        if self.cfg.use_normalization_before_and_after:
            attn_out = _norm(block.ln1_post, attn_out)
        attn_out = touch("attn_out", attn_out)
        if self.cfg.attn_only:
            return touch("resid_post", residual + attn_out)
        if self.cfg.parallel_attn_mlp:
            mlp_out = touch("mlp_out", self.mlp(layer, touch("mlp_in", residual)))
            return touch("resid_post", residual + attn_out + mlp_out)
        mid = touch("resid_mid", residual + attn_out)
        return touch("resid_post", mid + touch("mlp_out", self.mlp(layer, touch("mlp_in", mid))))

    def project_each(
        self, layer: int, kind: str, residual: Float[Tensor, "token any_head d_model"]
    ) -> Float[Tensor, "token any_head d_head"]:
        """Queries (kind `q`), keys (`k`) or values (`v`) where each head reads a residual stream of its own."""
        attention = self._module.blocks[layer].attn
        name = kind.upper()
        grouped = kind != "q" and hasattr(attention, f"_W_{name}")
        weight, bias = (getattr(attention, f"{'_' if grouped else ''}{part}_{name}") for part in "Wb")
        normed = _norm(self._module.blocks[layer].ln1, residual.flatten(0, 1)).view(residual.shape)
        return torch.einsum("thm,hmd->thd", normed, weight) + bias

    def head_outputs(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token head d_model"]:
        """What each head adds to the residual stream; together they are attn_out.

        A norm after attention divides by the size of the whole, which is each head's share of it, too. The bias of the
        output is shared equally.
        """
        block = self._module.blocks[layer]
        parts = torch.einsum("thd,hdm->thm", z, block.attn.W_O) + block.attn.b_O / self.n_heads
        return _norm_parts(block.ln1_post, parts) if self.cfg.use_normalization_before_and_after else parts

    def mlp(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What the MLP adds to the residual stream that it reads."""
        block = self._module.blocks[layer]
        pieces = residual.split(PIECE if residual.device.type == "cpu" else len(residual) or 1)
        outs = [_mlp(block.mlp, _norm(block.ln2, piece)) for piece in pieces]
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return _norm(block.ln2_post, out) if self.cfg.use_normalization_before_and_after else out

    def final(self, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """The residual stream after the last norm, as the unembedding reads it."""
        return residual if self.cfg.normalization_type is None else _norm(self._module.ln_final, residual)


def _linear(
    x: Float[Tensor, "token d_model"],
    weight: Float[Tensor, "any_head d_model d_head"],
    bias: Float[Tensor, "any_head d_head"],
) -> Float[Tensor, "token any_head d_head"]:
    flat = weight.transpose(0, 1).reshape(weight.shape[1], -1)
    return torch.addmm(bias.flatten(), x, flat).view(len(x), *bias.shape)


def _norm(module: Any, x: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
    """A norm of TransformerLens in one pass; in half precision it works in float32, as theirs does."""
    size = x.shape[-1:]
    kind = type(module)
    if kind not in (LayerNorm, LayerNormPre, RMSNorm, RMSNormPre):
        return module(x[None])[0]
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if kind is LayerNorm and wide is x:
        return layer_norm(x, size, module.w, module.b, module.eps)
    if kind is RMSNorm and wide is x:
        return rms_norm(x, size, module.w, module.eps)
    plain = (
        layer_norm(wide, size, eps=module.eps)
        if kind in (LayerNorm, LayerNormPre)
        else rms_norm(wide, size, eps=module.eps)
    )
    plain = plain.to(x.dtype)
    if kind in (LayerNormPre, RMSNormPre):
        return plain
    return plain * module.w + module.b if kind is LayerNorm else plain * module.w


def _norm_parts(module: Any, parts: Float[Tensor, "token part width"]) -> Float[Tensor, "token part width"]:
    """Shares of the norm of a sum of parts that each of them makes, with the sum's own scale."""
    wide = parts if parts.dtype in (torch.float32, torch.float64) else parts.float()
    centred = isinstance(module, LayerNorm | LayerNormPre)
    if centred:
        wide = wide - wide.mean(-1, keepdim=True)
    scale = (wide.sum(1, keepdim=True).pow(2).mean(-1, keepdim=True) + module.eps).rsqrt()
    plain = (wide * scale).to(parts.dtype)
    if isinstance(module, LayerNorm):
        return plain * module.w + module.b / parts.shape[1]
    return plain * module.w if isinstance(module, RMSNorm) else plain


def _mlp(module: Any, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    plain = type(module) in (MLP, GatedMLP) and not module.cfg.is_layer_norm_activation()
    if not plain:
        return module(x[None])[0]
    if type(module) is MLP:
        return torch.addmm(module.b_out, _activate(module, torch.addmm(module.b_in, x, module.W_in)), module.W_out)
    inner = _activate(module, x @ module.W_gate).mul_(x @ module.W_in).add_(module.b_in)
    return torch.addmm(module.b_out, inner, module.W_out)


def _activate(module: Any, x: Float[Tensor, "token d_mlp"]) -> Float[Tensor, "token d_mlp"]:
    # TransformerLens writes GPT-2's GELU as eight passes; torch has the same formula as one.
    if getattr(module.act_fn, "__name__", "") in ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"):
        return gelu(x, approximate="tanh")
    return module.act_fn(x)
