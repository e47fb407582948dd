"""One small protocol over HookedTransformer and TransformerBridge; nothing above this package tells them apart."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist import effort
from mechlist.errors import InputError, MechlistError, ModelError
from mechlist.models.comparison import LENGTH, MOST, ROUNDING, OneByOne, examined, miss
from mechlist.models.decoding import CachedDecoder, Change, Decoder, RecomputingDecoder
from mechlist.models.layers.layers import Layers
from mechlist.models.sites import FOLDED
from mechlist.models.tl import is_bridge, is_hooked
from mechlist.models.tokenizer import bos_of
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
    """The token that begins every prompt, if one does."""

    @property
    def tokenizer(self) -> Any:
        """As it lies beside the model, or None."""
        ...

    window: int | None
    """Tokens that local attention sees, if some layers are local."""
    softcap: float | None
    """Of the logits."""
    makes_logits: bool
    """Whether `residual` makes the logits of every position on its way, which takes memory."""

    @property
    def hook_names(self) -> frozenset[str]:
        """Every hook point."""
        ...

    def one_by_one(self) -> OneByOne:
        """The model's layers one by one, or why they cannot be run so; compared with its own pass the first time."""
        ...

    def require_layers(self, what: str) -> Layers:
        """The model's layers, for `what` cannot be done without.

        Raises:
            InputError: they cannot be run one by one.
        """
        ...

    def compare(self, tokens: Int[Tensor, "row token"], final: Float[Tensor, "row *token d_model"]) -> None:
        """What layers made of tokens, or of the last of them, against the model's own pass, once for each length.

        Raises:
            MechlistError: they differ by more than rounding.
        """
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
        """Logits (after any multiplier and softcap) of all tokens or of `columns` only."""
        ...

    def unembedding(
        self, columns: Int[Tensor, "*batch"]
    ) -> tuple[Float[Tensor, "d_model *batch"], Float[Tensor, "*batch"]]:
        """Weight and bias that make the logits of `columns` before any softcap, with any multiplier."""
        ...

    def is_inert(self, hook: str) -> bool:
        """Whether what is changed at a hook of a layer changes nothing; looked at once a hook."""
        ...

    def nothing(self, site: str, layer: int) -> Tensor | None:
        """What z or v is, [head, d_head], where the model as published has zero; None where that is zero here, too.

        Value biases that processing moved into the output bias are missing from both.
        """
        ...

    def decoder(self, rows: int, capacity: int, change: Change | None = None) -> Decoder:
        """A reader of `rows` sequences that grow to at most `capacity` tokens, with nothing read yet.

        `change` is done to activations of each layer; only a model whose layers can be run one by one takes it.
        """
        ...


def shape_of(module: Any) -> ModelShape:
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
        d_vocab_out=_outputs(cfg),
        n_ctx=int(cfg.n_ctx),
        attn_only=bool(getattr(cfg, "attn_only", False)),
        gated_mlp=bool(getattr(cfg, "gated_mlp", False)),
    )


def _outputs(cfg: Any) -> int:
    out = int(getattr(cfg, "d_vocab_out", None) or -1)
    return int(cfg.d_vocab) if out < 0 else out


def wrap(
    module: Any,
    info: dict[str, Any] | None = None,
    bos_token_id: int | None = None,
    tokenizer: Any = None,
    context: int | None = None,
) -> LanguageModel:
    """The protocol's view of a built HookedTransformer or TransformerBridge; a view is taken as it is.

    Args:
        module: the model.
        info: what the loader knows of it; None for a model that was built elsewhere, which is asked itself.
        bos_token_id: as the loader has found it.
        tokenizer: as it lies beside the model.
        context: tokens that a prompt may have; None for what the model says.

    Raises:
        ModelError: another type, a model in train mode (dropout would make every number noise), one whose attention
            looks ahead, or logits that are not made of the final residual stream as is known here.
    """
    if isinstance(module, _Hooked | _Bridged):
        return module
    if not (is_hooked(module) or is_bridge(module)):
        raise ModelError(f"Runner takes a HookedTransformer or a TransformerBridge, not {type(module).__name__}.")
    require_eval(module)
    if getattr(module.cfg, "attention_dir", "causal") != "causal":
        raise ModelError(
            "The model's attention looks ahead, so that what a prompt gives would depend on the padding behind it: "
            "take a model with causal attention."
        )
    own = info is None
    if info is None:
        # Built elsewhere: its tokenizer is all there is to ask. The loader has asked the files already.
        info, bos_token_id = {"name": str(module.cfg.model_name)}, bos_of(module.tokenizer)
    view = (_Bridged if is_bridge(module) else _Hooked)(module, info, bos_token_id, tokenizer)
    if context is not None:
        view.shape = dataclasses.replace(view.shape, n_ctx=context)
    if own:
        _check_logits(view)
    return view


def _check_logits(model: "_View") -> None:
    """Logits of the model's own forward pass against those that are made of its final residual stream."""
    tokens = model.some_tokens(LENGTH)
    with torch.no_grad():
        ours = model.unembed(model.residual(tokens, [])).float()
        theirs = model.module(tokens).float()
    by = miss(ours, theirs)
    if not by <= ROUNDING[model.dtype]:
        raise ModelError(
            f"The model's own logits differ from those of its final residual stream by {by:.2g} of the largest: "
            "something stands between that is not known here; load the model by its name or directory."
        )


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


def _softcap(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None or cap <= 0 else cap * torch.tanh(logits / cap)


class _View(ABC):
    """What both kinds of model share."""

    makes_logits = False
    multiplier = 1.0
    """Of the logits, before any softcap."""

    def __init__(self, module: Any, info: dict[str, Any], bos_token_id: int | None, tokenizer: Any) -> None:
        self.module = module
        self.info = info
        self.shape = shape_of(module)
        self.bos_token_id = bos_token_id
        self._tokenizer = tokenizer
        self.window = getattr(module.cfg, "window_size", None)
        cap = getattr(module.cfg, "output_logits_soft_cap", None)
        self.softcap = float(cap) if cap and cap > 0 else None
        self._hook_names = frozenset(module.hook_dict)
        self._compared = 0
        """Tokens of the longest prompt on which the layers were compared with the model's own forward pass."""

    @property
    def tokenizer(self) -> Any:
        # One may be given to a model that was built elsewhere.
        return self.module.tokenizer if self._tokenizer is None else self._tokenizer

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
        weight, bias = self.module.W_U, self.module.b_U
        if columns is not None:
            weight, bias = weight[:, columns], bias[columns]
        logits = normalized @ weight + bias
        return _softcap(logits if self.multiplier == 1 else logits * self.multiplier, self.softcap)

    def unembedding(
        self, columns: Int[Tensor, "*batch"]
    ) -> tuple[Float[Tensor, "d_model *batch"], Float[Tensor, "*batch"]]:
        columns = columns.to(self.device)
        weight, bias = self.module.W_U[:, columns], self.module.b_U[columns]
        return (weight, bias) if self.multiplier == 1 else (weight * self.multiplier, bias * self.multiplier)

    def some_tokens(self, length: int) -> Int[Tensor, "1 token"]:
        """Random tokens, at most as many as the context holds."""
        generator = torch.Generator().manual_seed(0)
        size = (1, max(1, min(length, self.shape.n_ctx)))
        return torch.randint(0, self.shape.d_vocab, size, generator=generator).to(self.device)

    def one_by_one(self) -> OneByOne:
        return self._one_by_one

    @cached_property
    def _one_by_one(self) -> OneByOne:
        window = self.window or 0
        tokens = self.some_tokens(max(LENGTH, window + 4) if window + 4 <= MOST else LENGTH)
        with effort.once():
            found = self._read_layers(tokens)
            if isinstance(found, str):
                return OneByOne(None, found)
            self._compared = tokens.shape[1]
            return examined(found, tokens, self._capture, self._hook_names, ROUNDING[self.dtype])

    def require_layers(self, what: str) -> Layers:
        found = self.one_by_one()
        if found.layers is None:
            raise InputError(f"{what} must take the model's layers apart, and cannot: {found.because}.")
        return found.layers

    def compare(self, tokens: Int[Tensor, "row token"], final: Float[Tensor, "row *token d_model"]) -> None:
        if not final.isfinite().all():
            raise MechlistError(
                "The model's residual stream is not a number after a prompt: its activations are too large for "
                f"{str(self.dtype).removeprefix('torch.')}; take --dtype float32 or bfloat16."
            )
        if tokens.shape[1] <= self._compared or self.one_by_one().layers is None:
            return
        with torch.no_grad():
            own = self.residual(tokens.to(self.device), [])
        by = miss(final, own[:, -1] if final.ndim == 2 else own)
        if not by <= ROUNDING[self.dtype]:
            raise MechlistError(
                f"The model's layers, run one by one, miss its own final residual stream by {by:.2g} of its "
                "largest entry: patching and generation cannot be trusted. Please report the architecture."
            )
        self._compared = tokens.shape[1]

    @abstractmethod
    def is_inert(self, hook: str) -> bool: ...

    def nothing(self, site: str, layer: int) -> Tensor | None:
        folded = getattr(getattr(self.module.blocks[layer], "attn", None), FOLDED, None)
        if folded is None or site not in ("z", "v"):
            return None
        groups = 1 if site == "v" else self.shape.n_heads // len(folded)
        return -folded.repeat_interleave(groups, dim=0)

    def decoder(self, rows: int, capacity: int, change: Change | None = None) -> Decoder:
        layers = self.one_by_one().layers
        if layers is not None:
            return CachedDecoder(layers, rows, capacity, next(self.module.parameters()), change)
        return RecomputingDecoder(self.residual)

    @abstractmethod
    def residual(
        self, tokens: Int[Tensor, "batch position"], hooks: Sequence[Hook]
    ) -> Float[Tensor, "batch position d_model"]: ...

    @abstractmethod
    def _read_layers(self, tokens: Int[Tensor, "1 token"]) -> Layers | str:
        """The layers as they seem to be, or why they cannot be run one by one."""

    def _capture(self, tokens: Int[Tensor, "row token"], names: list[str]) -> dict[str, Tensor]:
        """Activations of a plain pass; hook points that never fire are left out."""
        seen: dict[str, Tensor] = {}

        def keep(name: str, activation: Tensor, hook: Any) -> None:  # noqa: ARG001
            seen[name] = activation.detach().clone()

        with torch.no_grad():
            final = self.residual(tokens, [(name, partial(keep, name)) for name in names])
        return seen | {"final": final}


class _Hooked(_View):
    def residual(
        self, tokens: Int[Tensor, "batch position"], hooks: Sequence[Hook]
    ) -> Float[Tensor, "batch position d_model"]:
        with self.module.hooks(fwd_hooks=list(hooks)):
            out = self.module(tokens, stop_at_layer=self.shape.n_layers, padding_side="right")
            return out if self.module.cfg.normalization_type is None else self.module.ln_final(out)

    def is_inert(self, hook: str) -> bool:  # noqa: ARG002 (it computes with what its hooks give back)
        return False

    def _read_layers(self, tokens: Int[Tensor, "1 token"]) -> Layers | str:  # noqa: ARG002
        from mechlist.models.layers.hooked_layers import HookedLayers, unsupported

        return unsupported(self.module) or HookedLayers(self.module)


class _Bridged(_View):
    makes_logits = True

    def __init__(self, module: Any, info: dict[str, Any], bos_token_id: int | None, tokenizer: Any) -> None:
        super().__init__(module, info, bos_token_id, tokenizer)
        # What the architecture does to logits: a multiplier, and then perhaps the softcap. Near 0 no softcap acts.
        small = torch.tensor([2.0**-20], dtype=torch.float64)
        self.multiplier = round(float(module.adapter.apply_output_logits_transform(small) / small), 9)
        config: Any = module.original_model.config.get_text_config()
        self.window = self.window or getattr(config, "sliding_window", None)
        self._inert: dict[str, bool] = {}

    def residual(
        self, tokens: Int[Tensor, "batch position"], hooks: Sequence[Hook]
    ) -> Float[Tensor, "batch position d_model"]:
        final: list[Tensor] = []

        def keep(activation: Tensor, hook: Any) -> None:  # noqa: ARG001 (TransformerLens passes it by name)
            final.append(activation)

        mask = torch.ones_like(tokens)
        self.module.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=[*hooks, (FINAL_HOOK, keep)])
        return final[-1]

    def is_inert(self, hook: str) -> bool:
        if hook.startswith("blocks.") and hook not in self._inert:
            tokens, fired = self.some_tokens(LENGTH), list[bool]()
            with effort.once(), torch.no_grad():
                plain = self.residual(tokens, [])
                changed = self.residual(tokens, [(hook, partial(_shaken, fired))])
            self._inert[hook] = bool(fired) and torch.equal(plain, changed)
        return self._inert.get(hook, False)

    def _read_layers(self, tokens: Int[Tensor, "1 token"]) -> Layers | str:
        from mechlist.models.layers.bridge_layers import bridge_layers
        from mechlist.models.layers.bridge_parts import NotOrdinaryError

        try:
            return bridge_layers(self.module, tokens, self._capture)
        except NotOrdinaryError as error:
            return str(error)


def _shaken(fired: list[bool], activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens passes it)
    """The activation with noise of its own size; what is masked stays so."""
    if not activation.is_floating_point():
        return activation
    fired.append(True)
    masked = activation < torch.finfo(activation.dtype).min / 2
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(activation.shape, generator=generator).to(activation)
    size = activation.masked_fill(masked, 0).abs().mean() + 1e-3
    return torch.where(masked, activation, activation + size * noise)
