"""A dozen architectures against Hugging Face's own forward pass and hooks; the benchmark makes the whole table."""

from pathlib import Path

import pytest

from experiments.benchmarks.architectures import MODELS, SITES, Result, examine, save, table
from mechlist.models.tl import HAS_HOOKED

LAYERED = {
    "Gemma 3": "HookedTransformer",
    "Mistral": "HookedTransformer",
    "GPT-NeoX, no biases": "HookedTransformer",
    "Llama, yarn": "TransformerBridge",
    "Falcon": "TransformerBridge",
    "GPT-BigCode": "TransformerBridge",
    "OLMo": "TransformerBridge",
    "OLMo 2": "TransformerBridge",
    "StableLM, parallel": "TransformerBridge",
    "Granite MoE": "TransformerBridge",
    "EXAONE 4": "TransformerBridge",
    "GLM 4": "TransformerBridge",
    "Nemotron": "TransformerBridge",
    "Cohere 2": "TransformerBridge",
}
REFUSED = {
    "OPT, narrow embedding": "has an embedding of 16 numbers a token in a residual stream of 32",
    "Falcon, grouped keys": "which TransformerBridge takes apart wrongly",
}


@pytest.mark.parametrize("name", LAYERED)
def test_logits_patching_and_generation_are_hugging_faces(name: str, tmp_path: Path):
    result = examine(save(name, tmp_path / "model"))
    through = LAYERED[name] if HAS_HOOKED else "TransformerBridge"
    assert (result.through, result.path) == (through, "layer by layer")
    assert result.log_prob < 1e-4
    assert len(result.patched) == len(SITES)
    assert all(isinstance(value, float) and value < 1e-4 for value in result.patched)
    assert result.same_text is True


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_exactly_is_refused(name: str, tmp_path: Path):
    assert REFUSED[name] in examine(save(name, tmp_path / "model")).through


def test_axes_that_are_not_heads_are_not_patched_by_head(tmp_path: Path):
    result = examine(save("DeepSeek V2", tmp_path / "model"))
    assert result.path == "its keys and values are compressed (multi-head latent attention)"
    resid_pre, z, mlp_out = result.patched
    assert isinstance(resid_pre, float)
    assert isinstance(mlp_out, float)
    assert max(resid_pre, mlp_out) < 1e-4
    assert z == (
        "z cannot be patched in this model: for one token it is [8, 4], and not [4, 4] (heads by the size of a head)."
    )


def test_layers_without_attention_are_said_to_be_so(tmp_path: Path):
    result = examine(save("Mamba", tmp_path / "model"))
    assert result.patched[1] == "The model has no z: its first layer has no attention."


def test_the_table_says_what_was_found():
    lines = table({"GPT-2": Result("HookedTransformer", "layer by layer", 1e-6, (2e-7, "no heads", 0.5), True)})
    assert "| GPT-2 | hooked | 1e-06 | 2e-07 | refused: no heads | 5e-01 | same | layer by layer |" in lines
    assert len(MODELS) >= 40
