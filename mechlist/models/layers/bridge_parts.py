"""What the layers of a TransformerBridge are made of, or why they are not ordinary.

Covered are decoders with ordinary attention: queries, keys and values of every token, each of them a matrix product,
perhaps normed, clipped or rotated; any MLP that treats each token by itself, experts included. TransformerBridge says
which module is which; which of them a layer uses is read off the wrappers and off Hugging Face's configuration.
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

from mechlist.models.layers.relevance import Parts


class NotOrdinaryError(Exception):
    """A layer is built in a way that is not known here; says how."""


@dataclass(frozen=True)
class Attention:
    """What one layer's attention is made of."""

    query: "Matrix"
    key: "Matrix"
    value: "Matrix"
    output: "Matrix"
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
class Matrix:
    """x @ weight.T + bias."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None

    def __call__(self, x: Float[Tensor, "token in"]) -> Float[Tensor, "token out"]:
        """The product."""
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Layer:
    """What one layer is made of."""

    attention: Attention
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


def layer_of(block: Any, window: int | None) -> Layer:
    """What a block is made of.

    Raises:
        NotOrdinaryError: something that is not known here.
    """
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
    return Layer(
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


def _attention(bridge: Any, window: int | None) -> Attention:
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
    return Attention(
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


def _matrix(module: Any) -> Matrix:
    if isinstance(module, Conv1D):
        return Matrix(module.weight.T, module.bias)
    if not isinstance(module, nn.Linear):
        raise NotOrdinaryError(f"a projection of its attention is a {type(module).__name__}")
    return Matrix(module.weight, module.bias)


ACTIVATIONS = ("act_fn", "act", "activation_fn", "activation")
"""What MLPs of Hugging Face call their activation function."""
MISSES = 1e-5
"""By how much an MLP that is written out may miss the module, of its largest output; in half precision 100 times."""


def mlp_parts(bridge: Any, width: int) -> Parts:
    """An MLP written out, if that gives what the module itself does on random numbers.

    Raises:
        NotOrdinaryError: it does not, or there is more to it than matrices and an activation function.
    """
    module: Any = bridge.original_component
    matrices = {name: part.original_component for name, part in bridge.submodules.items() if _is_there(part)}
    activation = next((getattr(module, name) for name in ACTIVATIONS if callable(getattr(module, name, None))), None)
    if activation is None or not {"in", "out"} <= set(matrices) <= {"in", "out", "gate"}:
        raise NotOrdinaryError(f"its MLP is a {type(module).__name__}")
    found = Parts(matrices["in"], activation, matrices["out"], matrices.get("gate"))
    like = next(module.parameters())
    probe = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad():
        out = module(probe[None])
        expected = (out[0] if isinstance(out, tuple) else out)[0]
        by = (found.plain(probe) - expected).abs().max()
    if not by <= MISSES * (1 if like.dtype in (torch.float32, torch.float64) else 100) * expected.abs().max():
        raise NotOrdinaryError(f"its MLP is a {type(module).__name__}, which computes something of its own")
    return found


def windows_of(hf_model: Any, config: Any, n_layers: int) -> list[int | None]:
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


def rotations_of(module: TransformerBridge, config: Any, rotated: Mapping[int, bool]) -> dict[int, Rotation]:
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
