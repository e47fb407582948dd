"""Load a model by name or directory into the LanguageModel protocol."""

import torch

from mechlist.errors import ModelError
from mechlist.models.huggingface import load_hf, load_huggingface
from mechlist.models.language_model import LanguageModel
from mechlist.models.quiet import quiet
from mechlist.models.sources.files import check_weights
from mechlist.models.sources.source import Source, locate
from mechlist.models.tl import HAS_HOOKED
from mechlist.types import DType, Processing

__all__ = ["load", "load_hf", "resolve_device"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    model: str,
    *,
    device: str = "auto",
    dtype: DType = "float32",
    processing: Processing | None = None,
    bos: bool | None = None,
    context: int | None = None,
) -> LanguageModel:
    """Load `model`: a hub name, a Hugging Face or HookedTransformer directory, or a built-in model.

    Args:
        model: a name on the hub, a directory, or a built-in model (README, Models).
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: of weights and activations; weights are processed in float32 and then rounded.
        processing: folding and centring of Hugging Face weights; a HookedTransformer directory is taken as saved.
        bos: whether prompts begin with the BOS token; None for models whose tokenizer has one.
        context: tokens that a prompt may have; None for what the configuration says.

    Raises:
        ModelError: the model cannot be found, read or trusted; one sentence says what to do.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    where = resolve_device(device)
    source = locate(model)
    check_weights(source.directory)
    with quiet():
        if source.kind == "hooked_transformer":
            found = _hooked(source, where, DTYPES[dtype], bos, context)
        else:
            found = load_huggingface(source, where, DTYPES[dtype], processing or Processing(), bos=bos, context=context)
    found.info |= {"bos": found.bos_token_id, "context": found.shape.n_ctx}
    return found


def _hooked(source: Source, device: str, dtype: torch.dtype, bos: bool | None, context: int | None) -> LanguageModel:
    if not HAS_HOOKED:
        raise ModelError(
            f"{source.name} is a HookedTransformer, which TransformerLens 4 no longer has; install transformer-lens<4, "
            "or take a Hugging Face model."
        )
    from mechlist.models.hooked import load_hooked

    return load_hooked(source, device, dtype, bos=bos, context=context)


def resolve_device(device: str) -> str:
    """The device that "auto" stands for, or `device` itself if it is there.

    Raises:
        ModelError: an unknown device, or one that this machine lacks.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    kind, colon, index = device.partition(":")
    known = kind in present and (not colon or (kind == "cuda" and index.isdecimal()))
    if not known:
        raise ModelError(f"device must be auto, cpu, cuda, cuda:N or mps, not {device!r}.")
    if not present[kind] or (index and int(index) >= torch.cuda.device_count()):
        there = ", ".join(k for k, v in present.items() if v)
        raise ModelError(
            f"device {device} is not available on this machine; there is {there}: choose one of these, or auto."
        )
    return device
