"""The layers of a HookedTransformer.

What TransformerLens computes in several passes over memory is done in one here (norms, GELU); results equal its own up
to float rounding.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, rms_norm
from transformer_lens import HookedTransformer
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.layer_norm_pre import LayerNormPre
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.rms_norm_pre import RMSNormPre
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from mechlist.errors import InputError
from mechlist.models.layers import relevance
from mechlist.models.layers.layers import Layers, Touch, in_pieces, mixed, scores_of, unseen
from mechlist.models.layers.norms import Norm

NORMS = (LayerNorm, LayerNormPre, RMSNorm, RMSNormPre)


def unsupported(module: HookedTransformer) -> str | None:
    """Why the layers of a HookedTransformer cannot be run one by one here; None where they can."""
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


class HookedLayers(Layers):
    """The layers of a HookedTransformer for which `unsupported` is None."""

    def __init__(self, module: HookedTransformer, *, relevant: bool = False) -> None:
        """Layers of `module`; relevance runs back through them if they are `relevant`, and else gradients."""
        self._module, self._relevant = module, relevant
        cfg = self._cfg = module.cfg
        self.n_layers, self.n_heads = int(cfg.n_layers), int(cfg.n_heads)
        self.n_key_value_heads = int(cfg.n_key_value_heads or cfg.n_heads)
        self.d_model, self.d_head = int(cfg.d_model), int(cfg.d_head)
        self.attn_only, self.parallel = bool(cfg.attn_only), bool(cfg.parallel_attn_mlp)
        self.final_norm = None if cfg.normalization_type is None else _written_out(module.ln_final)

    def embed(self, tokens: Int[Tensor, "row token"], first: int = 0) -> Float[Tensor, "row token d_model"]:
        """See Layers."""
        self._reach(first + tokens.shape[1])
        embedded = self._module.embed(tokens)
        if self._cfg.positional_embedding_type != "standard":
            return embedded
        return embedded + self._module.pos_embed(tokens, first)

    def _reach(self, length: int) -> None:
        """TransformerLens keeps a table of rotations for the first positions, and makes it longer when it is needed."""
        if self._cfg.positional_embedding_type != "rotary":
            return
        for block in self._module.blocks:
            attention: Any = block.attn
            if length > len(attention.rotary_cos):
                attention._extend_rotary_embeddings(min(max(length, 2 * len(attention.rotary_cos)), self._cfg.n_ctx))

    def normed(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return self._norm(self._module.blocks[layer].ln1, residual)

    def queries(self, layer: int, normed: Float[Tensor, "token d_model"]) -> Float[Tensor, "token head d_head"]:
        """See Layers."""
        attention = self._module.blocks[layer].attn
        return _linear(normed, attention.W_Q, attention.b_Q)

    def keys_values(
        self, layer: int, normed: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token kv_head d_head"], Float[Tensor, "token kv_head d_head"]]:
        """See Layers."""
        attention = self._module.blocks[layer].attn
        # Where key/value heads are shared, W_K repeats them and _W_K holds those there are.
        grouped = isinstance(attention, GroupedQueryAttention)
        names = ("_W_K", "_b_K", "_W_V", "_b_V") if grouped else ("W_K", "b_K", "W_V", "b_V")
        w_k, b_k, w_v, b_v = (getattr(attention, name) for name in names)
        return _linear(normed, w_k, b_k), _linear(normed, w_v, b_v)

    def place(
        self, layer: int, x: Float[Tensor, "row token any_head d_head"], positions: Int[Tensor, " token"], kind: str
    ) -> Float[Tensor, "row token any_head d_head"]:
        """See Layers."""
        attention: Any = self._module.blocks[layer].attn
        if self._cfg.use_qk_norm:
            norm = attention.q_norm if kind == "q" else attention.k_norm
            x = self._norm(norm, x.reshape(-1, x.shape[-1])).reshape(x.shape)
        if self._cfg.positional_embedding_type != "rotary":
            return x
        cos, sin = (table[positions][None, :, None] for table in (attention.rotary_cos, attention.rotary_sin))
        turned, rest = x[..., : self._cfg.rotary_dim], x[..., self._cfg.rotary_dim :]
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
        """See Layers."""
        attention = self._module.blocks[layer].attn
        scores = scores_of(q, k, attention.attn_scale)
        cap = self._cfg.attn_scores_soft_cap
        if cap is not None and cap > 0:
            scores = cap * torch.tanh(scores / cap)
        window = int(self._cfg.window_size or 0) if attention.attn_type == "local" else None
        scores = touch("attn_scores", scores.masked_fill(unseen(positions, k.shape[1], window), -torch.inf))
        return mixed(touch("pattern", scores.softmax(-1)).to(v.dtype), v)

    def attention_output(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        block = self._module.blocks[layer]
        out = torch.addmm(block.attn.b_O, z.flatten(1), block.attn.W_O.flatten(0, 1))
        return self._norm(block.ln1_post, out) if self._cfg.use_normalization_before_and_after else out

    def project_each(
        self, layer: int, kind: str, residual: Float[Tensor, "token any_head d_model"]
    ) -> Float[Tensor, "token any_head d_head"]:
        """See Layers."""
        attention = self._module.blocks[layer].attn
        name = kind.upper()
        grouped = kind != "q" and isinstance(attention, GroupedQueryAttention)
        weight, bias = (getattr(attention, f"{'_' if grouped else ''}{part}_{name}") for part in "Wb")
        normed = self._norm(self._module.blocks[layer].ln1, residual.flatten(0, 1)).view(residual.shape)
        return torch.einsum("thm,hmd->thd", normed, weight) + bias

    def head_outputs(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token head d_model"]:
        """See Layers."""
        block = self._module.blocks[layer]
        parts = torch.einsum("thd,hdm->thm", z, block.attn.W_O) + block.attn.b_O / self.n_heads
        after = self._cfg.use_normalization_before_and_after
        return _written_out(block.ln1_post).parts(parts) if after else parts

    def output_bias(self, layer: int) -> Float[Tensor, " d_model"]:
        """See Layers."""
        bias = self._module.blocks[layer].attn.b_O
        return torch.zeros_like(bias) if self._cfg.use_normalization_before_and_after else bias

    def mlp(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        block = self._module.blocks[layer]
        out = in_pieces(lambda piece: self._mlp(block.mlp, self._norm(block.ln2, piece)), residual)
        return self._norm(block.ln2_post, out) if self._cfg.use_normalization_before_and_after else out

    def final(self, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return residual if self._cfg.normalization_type is None else self._norm(self._module.ln_final, residual)

    def relevance(self) -> "HookedLayers":
        """See Layers."""
        for block in [] if self.attn_only else self._module.blocks:
            if not _is_plain(block.mlp):
                known = type(block.mlp) in (MLP, GatedMLP)
                what = f"in {self._cfg.act_fn} the activation is normed" if known else _kind(block.mlp)
                raise InputError(relevance.no_rule(what))
        return HookedLayers(self._module, relevant=True)

    def _norm(self, module: Any, x: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        out = _norm(module, x)
        constant = self._relevant and type(module) in NORMS
        return relevance.normed(_written_out(module), out, x) if constant else out

    def _mlp(self, module: Any, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        return _parts(module).relevance(x) if self._relevant else _mlp(module, x)


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
    if kind not in NORMS:
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


def _written_out(module: Any) -> Norm:
    centred = isinstance(module, LayerNorm | LayerNormPre)
    gain = module.w if isinstance(module, LayerNorm | RMSNorm) else None
    return Norm(centred, module.eps, gain, module.b if isinstance(module, LayerNorm) else None)


def _mlp(module: Any, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    if not _is_plain(module):
        return module(x[None])[0]
    if type(module) is MLP:
        return torch.addmm(module.b_out, _activate(module, torch.addmm(module.b_in, x, module.W_in)), module.W_out)
    inner = _activate(module, x @ module.W_gate).mul_(x @ module.W_in).add_(module.b_in)
    return torch.addmm(module.b_out, inner, module.W_out)


def _kind(mlp: Any) -> str:
    return f"its MLPs are of the kind {type(mlp).__name__}"


def _is_plain(module: Any) -> bool:
    return type(module) in (MLP, GatedMLP) and not module.cfg.is_layer_norm_activation()


def _parts(module: Any) -> relevance.Parts:
    """A plain MLP written out."""

    def activation(x: Tensor) -> Tensor:
        return _activate(module, x)

    if type(module) is MLP:
        return relevance.Parts(
            lambda x: torch.addmm(module.b_in, x, module.W_in),
            activation,
            lambda inner: torch.addmm(module.b_out, inner, module.W_out),
        )
    return relevance.Parts(
        lambda x: x @ module.W_in,
        activation,
        lambda inner: torch.addmm(module.b_out, inner + module.b_in, module.W_out),
        gate=lambda x: x @ module.W_gate,
    )


def _activate(module: Any, x: Float[Tensor, "token d_mlp"]) -> Float[Tensor, "token d_mlp"]:
    # TransformerLens writes GPT-2's GELU as eight passes; torch has the same formula as one.
    if getattr(module.act_fn, "__name__", "") in ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"):
        return gelu(x, approximate="tanh")
    return module.act_fn(x)
