"""One small protocol over HookedTransformer and TransformerBridge; nothing above this package tells them apart."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mechlist.errors import ModelError
from mechlist.models.decoding import CachedDecoder, Decoder, RecomputingDecoder
from mechlist.models.layers import unsupported
from mechlist.types import ModelShape

Hook = tuple[str, Callable[..., Tensor | None]]
"""Name of a hook point and the function it calls with (activation, hook=HookPoint)."""

FINAL_HOOK = "unembed.hook_in"
"""Where a TransformerBridge shows the final, normalised residual stream."""


@runtime_checkable
class LanguageModel(Protocol):
    """What the Runner needs of a model."""

    module: Any
    """The HookedTransformer or TransformerBridge itself."""
    shape: ModelShape
    info: dict[str, Any]
    """Name, processing, conversion: what a run records."""
    bos_token_id: int | None
    window: int | None
    """Tokens that local attention sees, if some layers are local."""
    makes_logits: bool
    """Whether `residual` makes the logits of every position on its way, which takes memory."""

    @property
    def hook_names(self) -> frozenset[str]:
        """Every hook point."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and activations."""
        ...

    def residual(
        self, tokens: Int[Tensor, "batch position"], hooks: Sequence[Hook]
    ) -> Float[Tensor, "batch position d_model"]:
        """The final residual stream after the last norm, with `hooks` in place."""
        ...

    def unembed(
        self, normalized: Float[Tensor, "*batch d_model"], columns: Int[Tensor, " column"] | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        """Logits (after any softcap) of all tokens or of `columns` only."""
        ...

    def decoder(self, rows: int, capacity: int) -> Decoder:
        """A reader of `rows` sequences that grow to at most `capacity` tokens, with nothing read yet."""
        ...


def shape_of(module: HookedTransformer | TransformerBridge) -> ModelShape:
    """Sizes of a built model."""
    cfg = module.cfg
    heads = int(cfg.n_heads)
    return ModelShape(
        n_layers=int(cfg.n_layers),
        n_heads=heads,
        n_key_value_heads=int(getattr(cfg, "n_key_value_heads", None) or heads),
        d_model=int(cfg.d_model),
        d_head=int(cfg.d_head),
        d_mlp=0 if getattr(cfg, "attn_only", False) else int(getattr(cfg, "d_mlp", None) or 0),
        d_vocab=int(cfg.d_vocab),
        n_ctx=int(cfg.n_ctx),
        attn_only=bool(getattr(cfg, "attn_only", False)),
        gated_mlp=bool(getattr(cfg, "gated_mlp", False)),
    )


def wrap(module: Any, info: dict[str, Any] | None = None, bos_token_id: int | None = None) -> LanguageModel:
    """The protocol's view of a built HookedTransformer or TransformerBridge.

    Raises:
        ModelError: another type, or a model in train mode (dropout would make every number noise).
    """
    if not isinstance(module, HookedTransformer | TransformerBridge):
        raise ModelError(f"Runner takes a HookedTransformer or a TransformerBridge, not {type(module).__name__}.")
    require_eval(module)
    if info is None:
        # Built elsewhere: its tokenizer is all there is to ask. The loader has asked the files already.
        info, bos_token_id = {"name": str(module.cfg.model_name)}, getattr(module.tokenizer, "bos_token_id", None)
    view = _Bridged if isinstance(module, TransformerBridge) else _Hooked
    return view(module, info, bos_token_id)


def fingerprint(model: LanguageModel) -> str:
    """SHA-256 over the names, types, shapes and bytes of every weight; buffers such as masks are left out."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.module.named_parameters()):
        digest.update(json.dumps([name, str(weight.dtype), list(weight.shape)]).encode())
        data = weight.detach().to("cpu").contiguous().view(-1)
        for chunk in data.split(2**24):
            digest.update(chunk.view(torch.uint8).numpy())
    return digest.hexdigest()


def require_eval(module: Any) -> None:
    """Refuse a model whose dropout is active.

    Raises:
        ModelError: naming what to do.
    """
    if _dropout(module):
        raise ModelError("The model is in train mode, where dropout makes results random; call model.eval() first.")


def _dropout(module: torch.nn.Module) -> bool:
    """Whether any dropout is active: a layer of its own, or the rate that Hugging Face's attention applies."""
    training = [m for m in module.modules() if m.training]
    return any((isinstance(m, torch.nn.Dropout) and m.p > 0) or _attention_dropout(m) > 0 for m in training)


def _attention_dropout(module: torch.nn.Module) -> float:
    rate = getattr(module, "attention_dropout", 0.0)
    return rate if isinstance(rate, float) else 0.0


def _columns(module: Any, columns: Int[Tensor, " column"] | None) -> tuple[Tensor, Tensor]:
    if columns is None:
        return module.W_U, module.b_U
    return module.W_U[:, columns], module.b_U[columns]


def _softcap(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None or cap <= 0 else cap * torch.tanh(logits / cap)


class _View:
    """What both kinds of model share."""

    makes_logits = False

    def __init__(self, module: Any, info: dict[str, Any], bos_token_id: int | None) -> None:
        self.module = module
        self.info = info
        self.shape = shape_of(module)
        self.bos_token_id = bos_token_id
        self.window = getattr(module.cfg, "window_size", None)
        self.softcap = getattr(module.cfg, "output_logits_soft_cap", None)
        self._hook_names = frozenset(module.hook_dict)

    @property
    def hook_names(self) -> frozenset[str]:
        return self._hook_names

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    def unembed(
        self, normalized: Float[Tensor, "*batch d_model"], columns: Int[Tensor, " column"] | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        weight, bias = _columns(self.module, columns)
        return _softcap(normalized @ weight + bias, self.softcap)


class _Hooked(_View):
    def residual(
        self, tokens: Int[Tensor, "batch position"], hooks: Sequence[Hook]
    ) -> Float[Tensor, "batch position d_model"]:
        with self.module.hooks(fwd_hooks=list(hooks)):
            out = self.module(tokens, stop_at_layer=self.shape.n_layers, padding_side="right")
            return out if self.module.cfg.normalization_type is None else self.module.ln_final(out)

    def decoder(self, rows: int, capacity: int) -> Decoder:
        if unsupported(self.module) is None:
            return CachedDecoder(self.module, rows, capacity)
        return RecomputingDecoder(self.residual)


class _Bridged(_View):
    makes_logits = True

    def residual(
        self, tokens: Int[Tensor, "batch position"], hooks: Sequence[Hook]
    ) -> Float[Tensor, "batch position d_model"]:
        final: list[Tensor] = []

        def keep(activation: Tensor, hook: Any) -> None:  # noqa: ARG001 (TransformerLens passes it by name)
            final.append(activation)

        mask = torch.ones_like(tokens)
        self.module.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=[*hooks, (FINAL_HOOK, keep)])
        return final[-1]

    def decoder(self, rows: int, capacity: int) -> Decoder:  # noqa: ARG002 (it keeps tokens alone)
        return RecomputingDecoder(self.residual)
