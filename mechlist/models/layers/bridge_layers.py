"""The layers of a TransformerBridge, from the Hugging Face modules that it wraps.

Covered are decoders with ordinary attention: queries, keys and values of every token, each of them a matrix product,
perhaps normed, clipped or rotated; any MLP that treats each token by itself, experts included. TransformerBridge says
which module is which; which of them a layer uses, and in which order, is read off the wrappers and checked against the
bridge's own activations (`mechlist.models.comparison`).
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge import generalized_components as parts
from transformers.pytorch_utils import Conv1D

from mechlist.models.comparison import Captures
from mechlist.models.layers.layers import Layers, Touch, in_pieces, mixed, scores_of, unseen
from mechlist.models.layers.norms import Norm, written_out


class NotOrdinaryError(Exception):
    """A layer is built in a way that is not known here; says how."""


@dataclass(frozen=True)
class _Attention:
    """What one layer's attention is made of."""

    query: "_Matrix"
    key: "_Matrix"
    value: "_Matrix"
    output: "_Matrix"
    d_head: int
    divisor: float
    """Of the scores."""
    cap: float | None
    window: int | None
    clip: float | None
    norms: Mapping[str, nn.Module]
    """By kind, `q` and `k`."""
    norms_whole: bool
    """Whether they norm all heads together."""
    wide: bool
    """Whether the softmax is taken in float32, whatever the type of the scores."""


@dataclass(frozen=True)
class _Matrix:
    """x @ weight.T + bias."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None

    def __call__(self, x: Float[Tensor, "token in"]) -> Float[Tensor, "token out"]:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class _Layer:
    attention: _Attention
    before: nn.Module | None
    """The norm of what attention reads; None where it reads the residual stream itself."""
    after: nn.Module | None
    """The norm of what attention writes."""
    mlp: nn.Module
    mlp_before: nn.Module | None
    mlp_after: nn.Module | None
    scale: float
    """Of what attention and MLP write, where it is added to the residual stream."""


@dataclass(frozen=True)
class Embedding:
    """The residual stream before the first layer."""

    tokens: nn.Module
    scale: float = 1.0
    positions: Float[Tensor, "position d_model"] | None = None

    def __call__(self, tokens: Int[Tensor, "row token"], first: int) -> Float[Tensor, "row token d_model"]:
        """Of tokens at positions from `first` on."""
        x = self.tokens(tokens)
        x = x if self.scale == 1 else x * self.scale
        return x if self.positions is None else x + self.positions[first : first + tokens.shape[1]]


Pairs = Literal["halves", "adjacent", "interleaved"]
"""Which numbers are rotated together: one of each half; neighbours, with tables for halves; or with tables of their
own."""


class Rotation:
    """Cosines and sines by position; made once for each kind of layer, and again where a longer prompt needs them."""

    def __init__(self, module: nn.Module, like: Tensor, kind: str | None, pairs: Pairs) -> None:
        self._module, self._like, self._kind, self._pairs = module, like, kind, pairs
        self._cos, self._sin = self._made(64)

    def _made(self, length: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(length, device=self._like.device)[None]
        kind = () if self._kind is None else (self._kind,)
        with torch.no_grad():
            cos, sin = (table[0] for table in self._module(self._like.new_zeros(1, length, 1), positions, *kind))
        if self._pairs == "adjacent":
            cos, sin = (t[:, : t.shape[1] // 2].repeat_interleave(2, dim=-1) for t in (cos, sin))
        return cos, sin

    def reach(self, length: int) -> None:
        """Be ready for positions before `length`."""
        if length > len(self._cos):
            self._cos, self._sin = self._made(max(length, 2 * len(self._cos)))

    def __call__(
        self, x: Float[Tensor, "row token head d_head"], positions: Int[Tensor, " token"]
    ) -> Float[Tensor, "row token head d_head"]:
        """Rotate; what is wider than the tables stays."""
        cos, sin = (table[positions][None, :, None] for table in (self._cos, self._sin))
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        if self._pairs != "halves":
            other = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
        else:
            half = turned.shape[-1] // 2
            other = torch.cat((-turned[..., half:], turned[..., :half]), dim=-1)
        turned = (turned * cos + other * sin).to(x.dtype)
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


class BridgeLayers(Layers):
    """The layers of a TransformerBridge."""

    def __init__(self, module: TransformerBridge, embedding: Embedding, rotated: Mapping[int, bool]) -> None:
        """Read the layers off the bridge.

        Args:
            module: the bridge.
            embedding: what makes the residual stream before the first layer.
            rotated: whether each layer was given rotations in a pass of the bridge.

        Raises:
            NotOrdinaryError: layers that are not known here.
        """
        hf_model: Any = module.original_model
        cfg: Any = module.cfg
        config: Any = hf_model.config.get_text_config()
        windows = _windows(hf_model, config, int(cfg.n_layers))
        self._layers = [_layer(block, window) for block, window in zip(module.blocks, windows, strict=True)]
        self._embedding, self._final = embedding, module.ln_final.original_component
        self._rotations = _rotations(module, config, rotated)
        first = self._layers[0].attention
        self.n_layers, self.d_model, self.d_head = len(self._layers), int(cfg.d_model), first.d_head
        self.n_heads, self.n_key_value_heads = (len(m.weight) // self.d_head for m in (first.query, first.key))
        self.attn_only, self.parallel = False, isinstance(module.blocks[0], parts.ParallelBlockBridge)
        self._eps = float(getattr(cfg, "eps", 1e-5))
        self.final_norm = written_out(self._final, self.d_model, self._eps)

    def embed(self, tokens: Int[Tensor, "row token"], first: int = 0) -> Float[Tensor, "row token d_model"]:
        """See Layers."""
        for rotation in self._rotations.values():
            rotation.reach(first + tokens.shape[1])
        return self._embedding(tokens, first)

    def normed(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return _normed(self._layers[layer].before, residual)

    def queries(self, layer: int, normed: Float[Tensor, "token d_model"]) -> Float[Tensor, "token head d_head"]:
        """See Layers."""
        return self._layers[layer].attention.query(normed).view(len(normed), -1, self.d_head)

    def keys_values(
        self, layer: int, normed: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token kv_head d_head"], Float[Tensor, "token kv_head d_head"]]:
        """See Layers."""
        attention = self._layers[layer].attention
        k, v = (matrix(normed).view(len(normed), -1, self.d_head) for matrix in (attention.key, attention.value))
        return k, v

    def place(
        self, layer: int, x: Float[Tensor, "row token any_head d_head"], positions: Int[Tensor, " token"], kind: str
    ) -> Float[Tensor, "row token any_head d_head"]:
        """See Layers."""
        attention = self._layers[layer].attention
        norm = attention.norms.get(kind)
        if norm is not None and attention.norms_whole:
            x = norm(x.flatten(2)).view(x.shape)
        if attention.clip is not None:
            x = x.clamp(-attention.clip, attention.clip)
        if norm is not None and not attention.norms_whole:
            # Norms with a weight for each head want the head before the token.
            x = norm(x.transpose(1, 2)).transpose(1, 2)
        rotation = self._rotations.get(layer)
        return x if rotation is None else rotation(x, positions)

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
        attention = self._layers[layer].attention
        scores = scores_of(q, k, attention.divisor)
        if attention.cap is not None:
            scores = attention.cap * torch.tanh(scores / attention.cap)
        hidden = unseen(positions, k.shape[1], attention.window)
        scores = touch("attn_scores", scores.masked_fill(hidden, -torch.inf))
        pattern = touch("pattern", scores.softmax(-1, torch.float32 if attention.wide else None).to(v.dtype))
        # hook_v shows values before they are clipped.
        return mixed(pattern, v if attention.clip is None else v.clamp(-attention.clip, attention.clip))

    def attention_output(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        of = self._layers[layer]
        out = _normed(of.after, of.attention.output(z.flatten(1)))
        return out if of.scale == 1 else out * of.scale

    def mlp(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        of = self._layers[layer]

        def one(piece: Tensor) -> Tensor:
            out = of.mlp(_normed(of.mlp_before, piece)[None])
            return (out[0] if isinstance(out, tuple) else out)[0]

        out = _normed(of.mlp_after, in_pieces(one, residual))
        return out if of.scale == 1 else out * of.scale

    def final(self, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return self._final(residual)

    def project_each(
        self, layer: int, kind: str, residual: Float[Tensor, "token any_head d_model"]
    ) -> Float[Tensor, "token any_head d_head"]:
        """See Layers."""
        attention = self._layers[layer].attention
        matrix = {"q": attention.query, "k": attention.key, "v": attention.value}[kind]
        normed = _normed(self._layers[layer].before, residual.flatten(0, 1)).view(residual.shape)
        out = torch.einsum("thm,hdm->thd", normed, matrix.weight.view(-1, self.d_head, self.d_model))
        return out if matrix.bias is None else out + matrix.bias.view(-1, self.d_head)

    def head_outputs(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token head d_model"]:
        """See Layers."""
        of = self._layers[layer]
        output = of.attention.output
        out = torch.einsum("thd,mhd->thm", z, output.weight.unflatten(1, z.shape[1:]))
        out = out if output.bias is None else out + output.bias / self.n_heads
        if of.after is not None:
            out = self._written_out(of.after).parts(out)
        return out if of.scale == 1 else out * of.scale

    def output_bias(self, layer: int) -> Float[Tensor, " d_model"]:
        """See Layers."""
        of = self._layers[layer]
        bias, weight = of.attention.output.bias, of.attention.output.weight
        return weight.new_zeros(len(weight)) if bias is None or of.after is not None else bias * of.scale

    def _written_out(self, module: nn.Module) -> Norm:
        norm = written_out(module, self.d_model, self._eps)
        if norm is None:
            raise NotOrdinaryError(f"its norm after attention is a {type(module).__name__}")
        return norm


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _layer(block: Any, window: int | None) -> _Layer:
    here = {name: part.original_component for name, part in block.submodules.items() if _is_there(part)}
    if "attn" not in here:
        raise NotOrdinaryError("some of its layers have no attention")
    if "mlp" not in here or block.submodules["mlp"].name is None:
        raise NotOrdinaryError("its MLPs are no modules of their own")
    late = bool(getattr(block, "mlp_reads_resid_directly", False))
    if late:
        # TransformerLens 3 calls norms that come after attention and MLP what others call those before them.
        here = {"ln1_post": here.pop("ln1", None), "ln2_post": here.pop("ln2", None)} | here
    parallel = isinstance(block, parts.ParallelBlockBridge)
    return _Layer(
        attention=_attention(block.attn, window),
        before=here.get("ln1"),
        after=here.get("ln1_post"),
        mlp=here["mlp"],
        mlp_before=here.get("ln2", here.get("ln1") if parallel else None),
        mlp_after=here.get("ln2_post"),
        scale=float(getattr(block, "residual_contribution_scale", 1.0)),
    )


def _is_there(part: Any) -> bool:
    return getattr(part, "original_component", None) is not None


SEPARATE, JOINT, JOINT_ROTARY = (
    parts.PositionEmbeddingsAttentionBridge,
    parts.JointQKVAttentionBridge,
    parts.JointQKVPositionEmbeddingsAttentionBridge,
)
_ALIBI = "its attention favours near tokens by a bias (ALiBi)"
IN_WORDS = {
    "MLAAttention": "its keys and values are compressed (multi-head latent attention)",
    "ALiBiJointQKVAttention": _ALIBI,
    "BloomAttention": _ALIBI,
    "MPTALiBiAttention": _ALIBI,
}
"""What TransformerLens calls attentions that are not known here."""


def _attention(bridge: Any, window: int | None) -> _Attention:
    """One layer's attention.

    Raises:
        NotOrdinaryError: one that does something that is not known here.
    """
    hf: Any = bridge.original_component
    separate = _kind(bridge) == "separate"
    peculiar = {
        "its attention has sinks": getattr(hf, "sinks", None) is not None,
        "its attention is gated": _is_there(bridge.submodules.get("gate"))
        or getattr(bridge.config, "gated_q_proj", False),
        "its keys are multiplied": getattr(hf, "key_multiplier", None) is not None,
        "its queries are scaled by position": (getattr(getattr(hf, "config", None), "rope_parameters", None) or {}).get(
            "llama_4_scaling_beta"
        )
        is not None,
        "it splits the inputs of attention by head": any(
            getattr(bridge.config, flag, False) for flag in ("use_split_qkv_input", "use_attn_in")
        ),
        "something stands between heads and their output": separate
        and type(bridge)._pre_output_projection is not SEPARATE._pre_output_projection,
    }
    for reason, holds in peculiar.items():
        if holds:
            raise NotOrdinaryError(reason)
    query, key, value, output = (_matrix(getattr(bridge, name).original_component) for name in "qkvo")
    d_head = int(hf.head_dim) if separate else int(len(query.weight) // bridge.config.n_heads)
    scaling = float(getattr(hf, "scaling", d_head**-0.5)) if separate else d_head**-0.5
    if not separate and getattr(bridge.config, "scale_attn_by_inverse_layer_idx", False):
        scaling /= float(bridge._layer_idx + 1)
    norms = {kind: bridge.submodules.get(f"{kind}_norm") for kind in "qk"} if separate else {}
    return _Attention(
        query,
        key,
        value,
        output,
        d_head,
        1 / scaling,
        getattr(hf, "attn_logit_softcapping", None) if separate else None,
        window,
        getattr(getattr(hf, "config", None), "clip_qkv", None) if separate else None,
        {kind: norm.original_component for kind, norm in norms.items() if norm is not None and _is_there(norm)},
        separate and bridge._qk_norm_phase == "pre_reshape",
        separate,
    )


def _kind(bridge: Any) -> str:
    """`separate` or `joint`, by how its queries, keys and values are made.

    Raises:
        NotOrdinaryError: an attention that computes in a way of its own.
    """
    own = type(bridge)
    # These leave out rotations in some layers, and nothing else.
    known = own.__name__ in ("_SmolLM3AttentionBridge", "_Exaone4AttentionBridge", "_Cohere2AttentionBridge")
    if isinstance(bridge, SEPARATE) and (known or own.forward is SEPARATE.forward):
        return "separate"
    if isinstance(bridge, JOINT) and own.forward is JOINT.forward:
        computes = own._reconstruct_attention
        if computes is JOINT._reconstruct_attention or computes is JOINT_ROTARY._reconstruct_attention:
            return "joint"
    name = own.__name__.removesuffix("Bridge")
    raise NotOrdinaryError(IN_WORDS.get(name, f"its attention is of a kind of its own ({name})"))


def _matrix(module: Any) -> _Matrix:
    if isinstance(module, Conv1D):
        return _Matrix(module.weight.T, module.bias)
    if not isinstance(module, nn.Linear):
        raise NotOrdinaryError(f"a projection of its attention is a {type(module).__name__}")
    return _Matrix(module.weight, module.bias)


def _windows(hf_model: Any, config: Any, n_layers: int) -> list[int | None]:
    """How far back each layer looks; None for all the way."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if kinds is not None:
        unknown = set(kinds) - {"sliding_attention", "full_attention"}
        if unknown:
            raise NotOrdinaryError(f"it has layers of the kind {sorted(unknown)[0]}")
        return [int(window) if kind == "sliding_attention" and window else None for kind in kinds]
    # Some configurations carry a window that their model does not use.
    slides = window and any(
        "create_sliding_window_causal_mask" in _names_used(type(part).forward) for part in hf_model.modules()
    )
    return [int(window) if slides and window else None] * n_layers


def _pairs(config: Any) -> Pairs:
    if getattr(config, "rotary_interleaved_cos_sin", False):
        return "interleaved"
    return "adjacent" if getattr(config, "rotary_adjacent_pairs", False) else "halves"


def _names_used(function: Any) -> tuple[str, ...]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return () if code is None else code.co_names


def _rotations(module: TransformerBridge, config: Any, rotated: Mapping[int, bool]) -> dict[int, Rotation]:
    """By layer, those that rotate."""
    if not any(rotated.values()):
        return {}
    rotary: Any = module.rotary_emb.original_component
    kinds = list(config.layer_types) if getattr(rotary, "layer_types", None) else [None] * len(rotated)
    rope_type = getattr(rotary, "rope_type", "default")
    changing = {"dynamic", "longrope"} & (set(rope_type.values()) if isinstance(rope_type, dict) else {rope_type})
    if changing:
        raise NotOrdinaryError(f"its rotations depend on the length of the prompt (rope type {changing.pop()})")
    like = next(module.original_model.parameters())
    pairs: list[Pairs] = [_pairs(block.attn.config) for block in module.blocks]
    made: dict[tuple[Any, Any], Rotation] = {}
    out: dict[int, Rotation] = {}
    for layer, (kind, together) in enumerate(zip(kinds, pairs, strict=True)):
        key = kind, together
        if not rotated[layer]:
            continue
        if key not in made:
            made[key] = Rotation(rotary, like, kind, together)
        out[layer] = made[key]
    return out


def embedding_of(
    module: TransformerBridge, tokens: Int[Tensor, "row token"], expected: Float[Tensor, "row token d_model"]
) -> Embedding:
    """What makes `expected`, the residual stream before the first layer, of `tokens`.

    Raises:
        NotOrdinaryError: nothing that is known here does.
    """
    base: Any = module.embed.original_component
    config: Any = module.original_model.config
    config = config.get_text_config()
    scales = (1.0, float(getattr(config, "embedding_multiplier", None) or 1.0), math.sqrt(int(module.cfg.d_model)))
    table = getattr(getattr(module, "pos_embed", None), "weight", None) if _has(module, "pos_embed") else None
    tables = [None] if table is None else [table, table[2:]]
    for scale in scales:
        for positions in tables:
            found = Embedding(base, scale, positions)
            with torch.no_grad():
                try:
                    x = found(tokens, 0)
                except (RuntimeError, TypeError):
                    continue
            if x.shape == expected.shape and _near(x, expected):
                return found
    raise NotOrdinaryError("more than its embeddings makes the residual stream before the first layer")


def _has(module: TransformerBridge, name: str) -> bool:
    return name in (module.adapter.component_mapping or {})


def _near(x: Tensor, expected: Tensor) -> bool:
    allowed = 1e-5 if x.dtype in (torch.float32, torch.float64) else 1e-2
    return bool((x - expected).abs().max() <= allowed * expected.abs().max())


def bridge_layers(module: TransformerBridge, tokens: Int[Tensor, "row token"], capture: Captures) -> BridgeLayers:
    """The layers of a bridge, read off one pass over `tokens`.

    Args:
        module: the bridge.
        tokens: any.
        capture: activations at hook points of a pass over tokens; those that never fire are left out.

    Raises:
        NotOrdinaryError: layers that cannot be run one by one here, and why.
    """
    n_layers = int(module.cfg.n_layers)
    there = set(module.hook_dict)
    names = [f"blocks.{layer}.attn.hook_cos" for layer in range(n_layers)]
    seen = capture(tokens, [name for name in ["blocks.0.hook_resid_pre", *names] if name in there])
    if "blocks.0.hook_resid_pre" not in seen:
        raise NotOrdinaryError("the residual stream before its first layer is not shown")
    embedding = embedding_of(module, tokens, seen["blocks.0.hook_resid_pre"])
    return BridgeLayers(module, embedding, {layer: name in seen for layer, name in enumerate(names)})
