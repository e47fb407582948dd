"""The formats of local SAEs: sae_lens's own, Gemma Scope's (`params.npz`) and Gemma Scope 2's (`params.safetensors`).

Each is read in two steps: what its files say of it, which is little, and its weights.
"""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mechlist.errors import InputError

Format = Literal["sae_lens", "gemma-scope", "gemma-scope-2"]
FILES: dict[Format, tuple[str, ...]] = {
    "sae_lens": ("cfg.json", "sae_weights.safetensors"),
    "gemma-scope": ("params.npz",),
    "gemma-scope-2": ("config.json", "params.safetensors"),
}
WEIGHTS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
_VERSION = "6.0.0"
"""Of the configuration that is written here for sae_lens."""
_SCOPE_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_POINTS = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""Hook points of Hugging Face's Gemma 3, as Gemma Scope 2 names them."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What the files of an SAE say of it before its weights are read."""

    format: Format
    hook: str
    """"" where they do not say."""
    model: str
    d_in: int
    d_sae: int


def format_of(folder: Path) -> Format | None:
    """The format of the SAE that a folder holds; None where it holds none."""
    return next((name for name, files in FILES.items() if all((folder / file).is_file() for file in files)), None)


def read_about(folder: Path, form: Format) -> About:
    """What the files say.

    Raises:
        InputError: a file that cannot be read, or a weight that is missing or of another shape than the rest.
    """
    try:
        about = {"sae_lens": _of_sae_lens, "gemma-scope": _of_scope, "gemma-scope-2": _of_scope_2}[form](folder)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, SafetensorError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{folder} is not an SAE that can be read: {said}.") from error
    return about


def converted(folder: Path, device: str, dtype: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a Gemma Scope SAE, as sae_lens takes them.

    Raises:
        InputError: weights that do not fit together.
    """
    form = format_of(folder)
    raw = _npz(folder) if form == "gemma-scope" else _safetensors(folder)
    missing = [name for name in WEIGHTS if name not in raw]
    if missing:
        raise InputError(f"{folder} is not an SAE that can be read: it lacks {', '.join(missing)}.")
    if len(raw) > len(WEIGHTS):
        more = ", ".join(sorted(set(raw) - set(WEIGHTS)))
        raise InputError(f"{folder} is a transcoder or a variant that is not supported: it also holds {more}.")
    d_in, d_sae = len(raw["b_dec"]), len(raw["b_enc"])
    weights = {name: raw[name].to(device=device, dtype=getattr(torch, dtype)) for name in WEIGHTS}
    for name, shape in {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "threshold": (d_sae,)}.items():
        if weights[name].shape == shape[::-1] != shape:
            weights[name] = weights[name].T.contiguous()
        if weights[name].shape != shape:
            raise InputError(
                f"{folder} is not an SAE that can be read: {name} must have the shape {list(shape)}, as its biases "
                f"tell, not {list(weights[name].shape)}."
            )
    config = {"architecture": "jumprelu", "d_in": d_in, "d_sae": d_sae, "dtype": dtype, "device": device}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none"}
    return config | {"metadata": {"sae_lens_version": _VERSION}}, weights


def _of_sae_lens(folder: Path) -> About:
    config = _json(folder / "cfg.json")
    known = {**config, **config.get("metadata", {})}
    if known.get("hook_name_out") or "transcoder" in str(known.get("architecture", "")):
        raise InputError(f"{folder} is a transcoder, which reads one hook and writes another: give an SAE.")
    hook = known.get("hook_name") or known.get("hook_point") or ""
    return About(
        format="sae_lens",
        hook=str(hook),
        model=str(known.get("model_name") or ""),
        d_in=int(config["d_in"]),
        d_sae=int(config["d_sae"]),
    )


def _of_scope(folder: Path) -> About:
    with np.load(folder / "params.npz") as data:
        sizes = {name: len(data[name]) for name in ("b_dec", "b_enc")}
    path = folder.resolve().as_posix()
    release = re.search(r"gemma-scope-(\w+)-(pt|it)-(res|mlp|att)", path)
    layer = re.search(r"layer_(\d+)", path)
    hook = f"blocks.{layer[1]}.{_SCOPE_SITES[release[3]]}" if release and layer else ""
    # Their fine-tuned ones apart, the SAEs are of the base model.
    model = f"google/gemma-2-{release[1]}{'-it' if release[2] == 'it' else ''}" if release else ""
    return About(format="gemma-scope", hook=hook, model=model, d_in=sizes["b_dec"], d_sae=sizes["b_enc"])


def _of_scope_2(folder: Path) -> About:
    config = _json(folder / "config.json")
    if config.get("architecture") != "jump_relu":
        raise ValueError(f"its architecture must be jump_relu, not {config.get('architecture')!r}")
    if config.get("hf_hook_point_out"):
        raise InputError(f"{folder} is a transcoder, which reads one hook and writes another: give an SAE.")
    point = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)", str(config.get("hf_hook_point_in", "")))
    hook = f"blocks.{point[1]}.{_POINTS[point[2]]}" if point and point[2] in _POINTS else ""
    with safe_open(folder / "params.safetensors", "pt") as opened:
        names = {name.lower(): name for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        sizes = {name: opened.get_slice(names[name]).get_shape()[0] for name in ("b_dec", "b_enc")}
    model = str(config.get("model_name") or "")
    return About(format="gemma-scope-2", hook=hook, model=model, d_in=sizes["b_dec"], d_sae=sizes["b_enc"])


def _npz(folder: Path) -> dict[str, Tensor]:
    with np.load(folder / "params.npz") as data:
        return {_own_name(name): torch.from_numpy(np.asarray(data[name])) for name in data.files}


def _safetensors(folder: Path) -> dict[str, Tensor]:
    with safe_open(folder / "params.safetensors", "pt") as opened:
        return {_own_name(name): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def _own_name(name: str) -> str:
    return f"W_{name[2:]}" if name.startswith("w_") else name


def _json(file: Path) -> dict[str, Any]:
    value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} must hold an object, not {type(value).__name__}")
    return value
