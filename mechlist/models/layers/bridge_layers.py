"""The layers of a TransformerBridge, from the Hugging Face modules that it wraps.

Of what they are made says `bridge_parts.py`; what they compute is checked against the bridge's own activations
(`mechlist.models.comparison`).
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge import generalized_components as parts

from mechlist.errors import InputError
from mechlist.models.comparison import Captures
from mechlist.models.layers import relevance
from mechlist.models.layers.bridge_parts import (
    Embedding,
    NotOrdinaryError,
    embedding_of,
    layer_of,
    mlp_parts,
    rotations_of,
    windows_of,
)
from mechlist.models.layers.layers import Layers, Touch, in_pieces, mixed, scores_of, unseen
from mechlist.models.layers.norms import Norm, written_out


class BridgeLayers(Layers):
    """The layers of a TransformerBridge."""

    def __init__(
        self, module: TransformerBridge, embedding: Embedding, rotated: Mapping[int, bool], *, relevant: bool = False
    ) -> None:
        """Read the layers off the bridge.

        Args:
            module: the bridge.
            embedding: what makes the residual stream before the first layer.
            rotated: whether each layer was given rotations in a pass of the bridge.
            relevant: let relevance run back, and not gradients.

        Raises:
            NotOrdinaryError: layers that are not known here, or not with their relevance.
        """
        self._read = module, embedding, rotated
        hf_model: Any = module.original_model
        cfg: Any = module.cfg
        config: Any = hf_model.config.get_text_config()
        windows = windows_of(hf_model, config, int(cfg.n_layers))
        self._layers = [layer_of(block, window) for block, window in zip(module.blocks, windows, strict=True)]
        self._embedding, self._final = embedding, module.ln_final.original_component
        self._rotations = rotations_of(module, config, rotated)
        first = self._layers[0].attention
        self.n_layers, self.d_model, self.d_head = len(self._layers), int(cfg.d_model), first.d_head
        self.n_heads, self.n_key_value_heads = (len(m.weight) // self.d_head for m in (first.query, first.key))
        self.attn_only, self.parallel = False, isinstance(module.blocks[0], parts.ParallelBlockBridge)
        self._eps = float(getattr(cfg, "eps", 1e-5))
        self.final_norm = written_out(self._final, self.d_model, self._eps)
        self._norms: dict[nn.Module, Norm] = {}
        self._mlps: list[relevance.Parts] = []
        if relevant:
            self._norms = {norm: self._written_out(norm, width) for norm, width in self._all_norms()}
            self._mlps = [mlp_parts(block.mlp, self.d_model) for block in module.blocks]

    def embed(self, tokens: Int[Tensor, "row token"], first: int = 0) -> Float[Tensor, "row token d_model"]:
        """See Layers."""
        for rotation in self._rotations.values():
            rotation.reach(first + tokens.shape[1])
        return self._embedding(tokens, first)

    def normed(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return self._normed(self._layers[layer].before, residual)

    def queries(self, layer: int, normed: Float[Tensor, "token d_model"]) -> Float[Tensor, "token head d_head"]:
        """See Layers."""
        return self._layers[layer].attention.query(normed).view(len(normed), self.n_heads, self.d_head)

    def keys_values(
        self, layer: int, normed: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token kv_head d_head"], Float[Tensor, "token kv_head d_head"]]:
        """See Layers."""
        attention = self._layers[layer].attention
        shape = (len(normed), self.n_key_value_heads, self.d_head)
        k, v = (matrix(normed).view(shape) for matrix in (attention.key, attention.value))
        return k, v

    def place(
        self, layer: int, x: Float[Tensor, "row token any_head d_head"], positions: Int[Tensor, " token"], kind: str
    ) -> Float[Tensor, "row token any_head d_head"]:
        """See Layers."""
        attention = self._layers[layer].attention
        norm = attention.norms.get(kind)
        if norm is not None and attention.norms_whole:
            x = self._normed(norm, x.flatten(2)).view(x.shape)
        if attention.clip is not None:
            x = x.clamp(-attention.clip, attention.clip)
        if norm is not None and not attention.norms_whole:
            # Norms with a weight for each head want the head before the token.
            x = self._normed(norm, x.transpose(1, 2)).transpose(1, 2)
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
        out = self._normed(of.after, of.attention.output(z.flatten(1)))
        return out if of.scale == 1 else out * of.scale

    def mlp(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        of = self._layers[layer]

        def one(piece: Tensor) -> Tensor:
            read = self._normed(of.mlp_before, piece)
            if self._mlps:
                return self._mlps[layer].relevance(read)
            out = of.mlp(read[None])
            return (out[0] if isinstance(out, tuple) else out)[0]

        out = self._normed(of.mlp_after, in_pieces(one, residual))
        return out if of.scale == 1 else out * of.scale

    def final(self, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """See Layers."""
        return self._normed(self._final, residual)

    def project_each(
        self, layer: int, kind: str, residual: Float[Tensor, "token any_head d_model"]
    ) -> Float[Tensor, "token any_head d_head"]:
        """See Layers."""
        attention = self._layers[layer].attention
        matrix = {"q": attention.query, "k": attention.key, "v": attention.value}[kind]
        normed = self._normed(self._layers[layer].before, residual.flatten(0, 1)).view(residual.shape)
        out = torch.einsum("thm,hdm->thd", normed, matrix.weight.view(-1, self.d_head, self.d_model))
        return out if matrix.bias is None else out + matrix.bias.view(-1, self.d_head)

    def head_outputs(self, layer: int, z: Float[Tensor, "token head d_head"]) -> Float[Tensor, "token head d_model"]:
        """See Layers."""
        of = self._layers[layer]
        output = of.attention.output
        out = torch.einsum("thd,mhd->thm", z, output.weight.unflatten(1, z.shape[1:]))
        out = out if output.bias is None else out + output.bias / self.n_heads
        if of.after is not None:
            out = self._written_out(of.after, self.d_model).parts(out)
        return out if of.scale == 1 else out * of.scale

    def output_bias(self, layer: int) -> Float[Tensor, " d_model"]:
        """See Layers."""
        of = self._layers[layer]
        bias, weight = of.attention.output.bias, of.attention.output.weight
        return weight.new_zeros(len(weight)) if bias is None or of.after is not None else bias * of.scale

    def relevance(self) -> "BridgeLayers":
        """See Layers."""
        try:
            return BridgeLayers(*self._read, relevant=True)
        except NotOrdinaryError as error:
            raise InputError(relevance.no_rule(str(error))) from None

    def _normed(self, norm: nn.Module | None, x: Tensor) -> Tensor:
        if norm is None:
            return x
        out = norm(x)
        return relevance.normed(self._norms[norm], out, x) if norm in self._norms else out

    def _all_norms(self) -> Iterator[tuple[nn.Module, int]]:
        """Every norm that is not an identity, and the width of what it norms."""
        layers = [(of.before, of.after, of.mlp_before, of.mlp_after) for of in self._layers]
        for norm in (self._final, *itertools.chain(*layers)):
            if norm is not None and not isinstance(norm, nn.Identity):
                yield norm, self.d_model
        heads = {"q": self.n_heads, "k": self.n_key_value_heads}
        for of in self._layers:
            for kind, norm in of.attention.norms.items():
                yield norm, self.d_head * (heads[kind] if of.attention.norms_whole else 1)

    def _written_out(self, module: nn.Module, width: int) -> Norm:
        norm = written_out(module, width, self._eps)
        if norm is None:
            raise NotOrdinaryError(f"one of its norms is a {type(module).__name__}")
        return norm


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
