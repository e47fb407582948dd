"""Fixtures: a tiny random HookedTransformer, alone and in a Runner, and random prompts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mechlist.runner import Runner
from tests.hooked import HookedTransformer, HookedTransformerConfig

BuildModel = Callable[..., HookedTransformer]


@pytest.fixture(scope="session")
def build() -> BuildModel:
    """Makes a tiny random HookedTransformer; keyword arguments change its configuration."""

    def make(**changes: Any) -> HookedTransformer:
        settings = {
            "n_layers": 2,
            "d_model": 16,
            "n_heads": 4,
            "d_head": 4,
            "d_mlp": 24,
            "d_vocab": 31,
            "n_ctx": 32,
            "act_fn": "gelu",
            "normalization_type": "LN",
            "device": "cpu",
        }
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = HookedTransformer(HookedTransformerConfig(**(settings | changes)))
            for parameter in model.parameters():
                # Larger than the usual start, so that every head and bias leaves its mark on the logits.
                parameter.data += 0.3 * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture
def tiny(build: BuildModel) -> Runner:
    """A Runner with a two-layer model."""
    return Runner(build(), progress=False)


@pytest.fixture
def prompts() -> Callable[..., list[torch.Tensor]]:
    """Random prompts of random lengths."""

    def make(count: int = 9, longest: int = 20, vocabulary: int = 31, seed: int = 0) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, longest + 1, (count,), generator=generator)
        return [torch.randint(0, vocabulary, (int(n),), generator=generator) for n in lengths]

    return make
