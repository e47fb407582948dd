"""Small random SAEs in every local format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mechlist.models.quiet import quiet


def weights(d_in: int, d_sae: int, seed: int = 0) -> dict[str, Tensor]:
    """Of a JumpReLU SAE; encoder and decoder are tied, so that it reconstructs a little."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    return {
        "W_enc": directions.T.contiguous(),
        "W_dec": directions,
        "b_enc": 0.1 * torch.randn(d_sae, generator=generator),
        "b_dec": 0.1 * torch.randn(d_in, generator=generator),
        "threshold": 0.05 * torch.rand(d_sae, generator=generator),
    }


def write_scope(folder: Path, d_in: int, d_sae: int, seed: int = 0, **changed: Any) -> Path:
    """In Gemma Scope's format."""
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {name: value.numpy() for name, value in weights(d_in, d_sae, seed).items()}
    np.savez(folder / "params.npz", **(arrays | changed))
    return folder


def write_scope_2(folder: Path, d_in: int, d_sae: int, point: str, model: str = "", seed: int = 0) -> Path:
    """In Gemma Scope 2's format."""
    folder.mkdir(parents=True)
    own = {name.lower(): value.contiguous() for name, value in weights(d_in, d_sae, seed).items()}
    save_file(own, folder / "params.safetensors")
    config = {"architecture": "jump_relu", "hf_hook_point_in": point, "model_name": model}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_lens(
    folder: Path, d_in: int, d_sae: int, hook: str, kind: str = "standard", model: str = "", seed: int = 0, **more: Any
) -> Path:
    """In sae_lens's format, by its own classes."""
    with quiet():
        from sae_lens import SAE
    metadata = {"hook_name": hook, "model_name": model, "sae_lens_version": "6.0.0"}
    config = {"architecture": kind, "d_in": d_in, "d_sae": d_sae, "metadata": metadata, "device": "cpu", **more}
    own = weights(d_in, d_sae, seed)
    with quiet(), torch.random.fork_rng(), torch.no_grad():
        sae: Any = SAE.from_dict(config)
        for name, value in sae.named_parameters():
            value.copy_(own.get(name, torch.full_like(value, 0.1)))
        sae.save_model(folder)
    return folder


def write_two(folder: Path, k: int) -> Path:
    """Two random TopK SAEs of list-tiny's residual stream, after layers 2 and 4."""
    for layer in (2, 4):
        hook = f"blocks.{layer}.hook_resid_post"
        write_lens(folder / f"layer_{layer}", 256, 512, hook, kind="topk", k=k, seed=layer, model="list-tiny")
    return folder
