"""Fixtures: tiny random models of every architecture, and the real small models where they are at hand."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mechlist import registry
from mechlist.models.quiet import quiet
from mechlist.models.tl import HAS_HOOKED
from mechlist.runner import Runner

collect_ignore = [] if HAS_HOOKED else ["models/test_conversion.py"]
"""Conversions into HookedTransformer, which TransformerLens 4 no longer has."""
SHARED = Path(__file__).parents[2] / "shared"
SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
WINDOW = 8

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "llama": ("LlamaConfig", SMALL | {"num_key_value_heads": 2, "rms_norm_eps": 1e-5}),
    "gemma": ("GemmaConfig", SMALL | {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": (
        "Gemma2Config",
        SMALL
        | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 16}
        | {"sliding_window": WINDOW, "query_pre_attn_scalar": 24},
    ),
    "pythia": ("GPTNeoXConfig", SMALL | {"rotary_pct": 0.25}),
    "qwen2": ("Qwen2Config", SMALL | {"num_key_value_heads": 2}),
    "stablelm": ("StableLmConfig", SMALL | {"num_key_value_heads": 2}),
}
"""`stablelm` has no HookedTransformer conversion: it goes through TransformerBridge."""
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "mpt": ("MptConfig", {"vocab_size": 97, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64})
}
"""Through TransformerBridge, and its layers cannot be run one by one."""

HfDirectory = Callable[[str], Path]


@pytest.fixture(scope="session")
def hf_directory(tmp_path_factory: pytest.TempPathFactory) -> HfDirectory:
    """Directory of a tiny random Hugging Face model by architecture; its name would mislead TransformerLens."""
    made: dict[str, Path] = {}

    def directory(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = tmp_path_factory.mktemp(f"google-gemma-2-2b-llama-{architecture}")
            with quiet(), torch.random.fork_rng():
                torch.manual_seed(0)
                kind, values = (CONFIGS | WHOLE)[architecture]
                model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**values))
                for parameter in model.parameters():
                    # Zero biases and unit gains would hide a conversion that forgets them.
                    parameter.data += 0.1 * torch.randn_like(parameter)
                model.save_pretrained(made[architecture])
        return made[architecture]

    return directory


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs in tests keep their activations in a directory of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MECHLIST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def loaded(hf_directory: HfDirectory) -> Callable[[str], Runner]:
    """A Runner of a tiny Hugging Face model by architecture."""
    made: dict[str, Runner] = {}

    def runner(architecture: str) -> Runner:
        if architecture not in made:
            made[architecture] = Runner.load(str(hf_directory(architecture)), device="cpu", progress=False)
        return made[architecture]

    return runner


@pytest.fixture(scope="session")
def tiny_runner() -> Runner:
    """The built-in model, on the CPU."""
    if not HAS_HOOKED:
        pytest.skip("TransformerLens 4 has no HookedTransformer, which the built-in model is")
    return Runner.load("induction-tiny", device="cpu", progress=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real small models and recorded data; tests that need it skip without."""
    if not SHARED.is_dir():
        pytest.skip("the shared models are not at hand")
    return SHARED


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """No test leaves gradients off, the default type changed or an experiment of its own in the registry."""
    before, known = (torch.is_grad_enabled(), torch.get_default_dtype()), set(registry._registered)
    yield
    for name in set(registry._registered) - known:
        if not registry._registered[name].__module__.startswith("mechlist."):
            del registry._registered[name]
    assert before == (torch.is_grad_enabled(), torch.get_default_dtype())
