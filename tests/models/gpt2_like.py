"""A random model behind GPT-2's tokenizer."""

from pathlib import Path
from typing import Any

import torch

from mechlist.models.language_model import LanguageModel, wrap
from mechlist.models.quiet import quiet
from mechlist.models.tokenizer import load_tokenizer
from tests.hooked import HookedTransformer, HookedTransformerConfig


def random_view(shared: Path, normalization: str = "LN", **sizes: int) -> LanguageModel:
    """A random model behind GPT-2's tokenizer; no bias or gain is at its default."""
    settings: dict[str, Any] = {
        "n_layers": 2,
        "n_heads": 4,
        "d_model": 16,
        "d_head": 4,
        "d_mlp": 24,
        "n_ctx": 40,
    } | sizes
    cfg = HookedTransformerConfig(
        **settings, d_vocab=50257, act_fn="gelu", normalization_type=normalization, device="cpu", seed=0
    )
    with quiet(), torch.random.fork_rng():
        model = HookedTransformer(cfg, load_tokenizer(shared / "models" / "gpt2-tokenizer")).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return wrap(model.requires_grad_(False), {"name": "random"}, bos_token_id=50256)
