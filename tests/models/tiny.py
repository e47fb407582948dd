"""Tiny random models in directories, and slow, obvious log-probabilities to compare with."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from mechlist.models.language_model import LanguageModel
from mechlist.models.quiet import quiet
from tests.conftest import SMALL
from tests.hooked import HookedTransformer, HookedTransformerConfig

HOOKED: dict[str, Any] = {
    "n_layers": 2,
    "n_ctx": 48,
    "d_model": 16,
    "d_head": 4,
    "n_heads": 4,
    "d_mlp": 24,
    "act_fn": "gelu",
    "d_vocab": 97,
    "normalization_type": "LN",
}


def save_huggingface(directory: Path, kind: str, **values: Any) -> Path:
    """A random model of `SMALL`'s sizes unless `values` say otherwise; no bias or gain is left at its default."""
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**SMALL | values))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(directory)
    return directory


def save_hooked(directory: Path, **values: Any) -> HookedTransformer:
    """Write a random HookedTransformer to `directory` and return it."""
    settings = HOOKED | values
    with quiet(), torch.random.fork_rng():
        model = HookedTransformer(HookedTransformerConfig(**settings, device="cpu", seed=0)).eval()
    directory.mkdir(exist_ok=True)
    (directory / "hooked_transformer_config.json").write_text(json.dumps(settings))
    save_file({k: v.detach().contiguous() for k, v in model.named_parameters()}, directory / "model.safetensors")
    return model


def copy(directory: Path, to: Path) -> Path:
    return Path(shutil.copytree(directory, to, copy_function=shutil.copyfile))


def edit_config(directory: Path, name: str = "config.json", **values: Any) -> None:
    """Set keys of a JSON file; a value of None removes the key."""
    file = directory / name
    settings = (json.loads(file.read_text()) if file.is_file() else {}) | values
    file.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def edit_weights(directory: Path, *, drop: str = "", **tensors: Tensor) -> None:
    """Replace or add tensors (`__` stands for a full stop), and drop the first whose name ends in `drop`."""
    file = directory / "model.safetensors"
    weights = load_file(file) | {name.replace("__", "."): value for name, value in tensors.items()}
    if drop:
        del weights[next(name for name in weights if name.endswith(drop))]
    save_file(weights, file, metadata={"format": "pt"})


def random_sequences(d_vocab: int, rows: int = 3, length: int = 40) -> Int[Tensor, "row position"]:
    return torch.randint(0, d_vocab, (rows, length), generator=torch.Generator().manual_seed(1))


def reference(directory: Path, tokens: Tensor) -> Float[Tensor, "row position vocab"]:
    """Log-probabilities of Hugging Face's own model."""
    with quiet(), torch.inference_mode():
        return transformers.AutoModelForCausalLM.from_pretrained(directory).eval()(tokens).logits.log_softmax(-1)


def logits_of(model: LanguageModel, tokens: Tensor) -> Float[Tensor, "row position vocab"]:
    with torch.inference_mode():
        return model.unembed(model.residual(tokens, []))


def difference(model: LanguageModel, directory: Path, length: int = 40) -> float:
    """Largest difference of a log-probability from Hugging Face's model, in nats."""
    tokens = random_sequences(model.shape.d_vocab, length=length)
    ours = logits_of(model, tokens).float().log_softmax(-1)
    return (ours - reference(directory, tokens)).abs().max().item()
