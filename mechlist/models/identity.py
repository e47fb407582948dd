"""What a model's activations depend on, as a key: weights, buffers, configuration, code, versions; and what has no key.

Two models of the same weights differ by their rotary base, their activation function or the eps of their norms, so the
weights alone name nothing. Hooks and methods that somebody put on the module may do anything: a model that has some has
no key at all.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules import module as torch_module
from transformer_lens.hook_points import HookPoint

from mechlist.models.language_model import LanguageModel

_LIBRARIES = ("transformer_lens.", "transformers.", "accelerate.")
"""Their hooks on modules are part of the architecture."""
_VERSIONS = ("torch", "transformers", "transformer-lens", "numpy")
_CHUNK = 2**24
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")
_NOT_SETTINGS = ("tokenizer", "original_model", "context_level", "is_caching")


class Identity:
    """The key of one model, made again only when the model has changed."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._seen: tuple[Any, ...] | None = None
        self._weights = ""
        self._key = ""

    @property
    def weights(self) -> str:
        """SHA-256 of the weights as they are now."""
        self._refresh()
        return self._weights

    @property
    def model(self) -> str | None:
        """SHA-256 of weights, buffers, code and configuration; None for a model with hooks or methods of one's own."""
        if own_changes(self._model.module):
            return None
        self._refresh()
        return self._key

    @property
    def key(self) -> str | None:
        """SHA-256 of all that activations depend on: `model`, the libraries' versions, how matrices are multiplied."""
        model = self.model
        return (
            None if model is None else hashlib.sha256(_text([model, _versions(), *_precision()]).encode()).hexdigest()
        )

    def _refresh(self) -> None:
        seen = _glance(self._model.module)
        if seen == self._seen:
            return
        self._weights = fingerprint(self._model)
        digest = hashlib.sha256(self._weights.encode())
        for part in _surroundings(self._model):
            digest.update(_text(part).encode())
        for _, buffer in sorted(self._model.module.named_buffers()):
            digest.update(_digest(buffer).encode())
        self._key, self._seen = digest.hexdigest(), seen


def fingerprint(model: LanguageModel) -> str:
    """SHA-256 over the names, types, shapes and bytes of every weight; buffers such as masks are left out."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.module.named_parameters()):
        digest.update(json.dumps([name, str(weight.dtype), list(weight.shape)]).encode())
        _feed(digest, weight)
    return digest.hexdigest()


def own_changes(module: torch.nn.Module) -> list[str]:
    """Names of modules that carry hooks which no library put there, or methods of the instance's own."""
    found = [name for name in _GLOBAL_HOOKS if getattr(torch_module, name)]
    for name, part in module.named_modules():
        hooked = part.fwd_hooks if isinstance(part, HookPoint) else _foreign(part)
        if hooked or _replaced_methods(part):
            found.append(name)
    return found


def _foreign(part: torch.nn.Module) -> list[Any]:
    hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
    return [hook for hook in hooks if not str(getattr(hook, "__module__", "")).startswith(_LIBRARIES)]


def _replaced_methods(part: torch.nn.Module) -> list[str]:
    own = ((name, value) for name, value in vars(part).items() if not isinstance(value, torch.nn.Module))
    return [name for name, value in own if callable(value) and callable(getattr(type(part), name, None))]


def _surroundings(model: LanguageModel) -> Iterator[Any]:
    """Everything but numbers: class, processing, configuration, and the settings that each module holds."""
    module = model.module
    yield f"{type(module).__module__}.{type(module).__qualname__}"
    yield [model.info.get("processing"), model.shape.n_ctx, model.window, model.softcap]
    yield _settings(module.cfg)
    yield _original(module)
    for name, part in module.named_modules():
        if not isinstance(part, HookPoint):
            yield [name, f"{type(part).__module__}.{type(part).__qualname__}", _settings(part)]


def _precision() -> tuple[Any, ...]:
    return torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@cache
def _versions() -> tuple[str, ...]:
    return tuple(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS)


def _settings(holder: Any) -> dict[str, Any]:
    """Plain values and functions that an object holds."""
    plain = (bool, int, float, str, tuple, list, np.generic, torch.dtype)
    values = {name: value for name, value in vars(holder).items() if not name.startswith("_")}
    return {
        name: _plain(value) if callable(value) else value
        for name, value in values.items()
        if (value is None or isinstance(value, plain) or callable(value)) and name not in _NOT_SETTINGS
    }


def _plain(value: Any) -> str:
    """A value that JSON does not know, as text that is the same in every process."""
    if isinstance(value, partial):
        return f"partial {_plain(value.func)} {value.args} {sorted(value.keywords.items())}"
    code = getattr(value, "__code__", None)
    if callable(value):
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        return name if code is None else f"{name} {hashlib.sha256(code.co_code).hexdigest()} {_constants(code)}"
    return str(value) if isinstance(value, np.generic | torch.dtype) else type(value).__qualname__


def _constants(code: Any) -> list[str]:
    return [repr(value) for value in code.co_consts if isinstance(value, int | float | str | None)]


def _original(module: torch.nn.Module) -> Any:
    """The configuration of the Hugging Face model that a bridge stands around."""
    config = getattr(getattr(module, "original_model", None), "config", None)
    return None if config is None else [config.to_dict(), getattr(config, "_attn_implementation", None)]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)


def _digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(json.dumps([str(tensor.dtype), list(tensor.shape)]).encode())
    # Masks of position by position are large and follow from the configuration; their rows tell them apart.
    _feed(digest, tensor.sum(-1) if tensor.dtype == torch.bool and tensor.ndim > 1 else tensor)
    return digest.hexdigest()


def _feed(digest: Any, tensor: Tensor) -> None:
    data = tensor.detach().to("cpu").contiguous().view(-1)
    for chunk in data.split(_CHUNK):
        digest.update(chunk.view(torch.uint8).numpy())


def _glance(module: torch.nn.Module) -> tuple[Any, ...]:
    """What changes with any edit that matters, in the time in which the weights are read once.

    The counters that torch keeps miss edits through `.data`, so that each weight is multiplied by a fixed vector.
    """
    parts: list[Any] = []
    for name, weight in [*module.named_parameters(), *module.named_buffers()]:
        parts.append((name, weight.data_ptr(), weight._version, _projection(weight)))
    for name, part in module.named_modules():
        if not isinstance(part, HookPoint):
            parts.append((name, type(part), _text(_settings(part))))
    parts += [_text(_settings(module.cfg)), _text(_original(module))]
    return tuple(parts)


@torch.no_grad()
def _projection(weight: Tensor) -> bytes:
    if not weight.is_floating_point() or not weight.numel():
        return b""
    rows = weight.detach().reshape(-1, weight.shape[-1] if weight.ndim > 1 else weight.numel())
    generator = torch.Generator().manual_seed(rows.shape[1])
    vector = torch.randn(rows.shape[1], generator=generator).to(rows.device, rows.dtype)
    return (rows @ vector).float().cpu().numpy().tobytes()
