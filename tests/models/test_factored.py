"""Weights per head against what the model computes with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mechlist.errors import InputError
from mechlist.models.factored import FactoredMatrix, embedding, head_weights, layer_weights, unembedding
from mechlist.models.huggingface import load_hf
from mechlist.models.load import load
from mechlist.models.quiet import quiet
from mechlist.models.tokenizer import stand_in
from mechlist.types import Processing
from tests.conftest import CONFIGS, SMALL, HfDirectory
from tests.hooked import needs_hooked
from tests.models.tiny import random_sequences, save_hooked

NONE = Processing(fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
LAYER = 1
HYBRID: dict[str, tuple[str, dict[str, Any], str]] = {
    "convolution": ("Lfm2Config", {"layer_types": ["conv", "full_attention", "conv"]}, "Layer 0 .* has no W_Q"),
    "compressed": (
        "DeepseekV3Config",
        {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
        | {"moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
        "Layer 0 .* has no W_Q .*Multi-Head Latent Attention",
    ),
}


def bridge(directory: Path) -> TransformerBridge:
    with quiet():
        hf_model = load_hf(directory)
        hf_model.set_attn_implementation("eager")
        return TransformerBridge.boot_transformers(
            str(directory), hf_model=hf_model, tokenizer=stand_in(), device="cpu", dtype=torch.float32
        ).eval()


def about_the_mean(activation: Float[Tensor, "batch position ..."]) -> Tensor:
    """Without what is the same at every position: the bias."""
    return activation - activation.mean(dim=1, keepdim=True)


def check_against_activations(module: Any) -> None:
    tokens = random_sequences(97, rows=2, length=12)
    entry = f"blocks.{LAYER}." + ("attn.hook_in" if isinstance(module, TransformerBridge) else "ln1.hook_normalized")
    exit_ = f"blocks.{LAYER}." + ("attn.hook_out" if isinstance(module, TransformerBridge) else "hook_attn_out")
    with quiet(), torch.inference_mode():
        _, cache = module.run_with_cache(tokens)
    heads, size = module.cfg.n_heads, module.cfg.d_head
    weights = [head_weights(module, LAYER, head) for head in range(heads)]
    for name in "qkv":
        seen = cache[f"blocks.{LAYER}.attn.hook_{name}"].unflatten(-1, (-1, size)).reshape(2, 12, -1, size)
        for head in range(heads):
            expected = cache[entry] @ getattr(weights[head], f"W_{name.upper()}")
            ours = about_the_mean(seen[:, :, head * seen.shape[2] // heads])
            torch.testing.assert_close(ours, about_the_mean(expected), atol=1e-5, rtol=1e-5)
    z = cache[f"blocks.{LAYER}.attn.hook_z"].reshape(2, 12, heads, size)
    out = sum(z[:, :, head] @ weights[head].W_O for head in range(heads))
    assert isinstance(out, Tensor)
    torch.testing.assert_close(about_the_mean(cache[exit_]), about_the_mean(out), atol=1e-5, rtol=1e-5)


# Gemma 2 normalises what attention writes before the only hook on it: its bridge is checked, and the two compared.
@pytest.mark.parametrize("architecture", [name for name in CONFIGS if name != "gemma2"])
def test_weights_are_what_the_model_computes_with(hf_directory: HfDirectory, architecture: str):
    check_against_activations(load(str(hf_directory(architecture)), device="cpu").module)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "pythia"])
@needs_hooked
def test_a_bridge_has_the_weights_of_the_conversion(hf_directory: HfDirectory, architecture: str):
    bridged = bridge(hf_directory(architecture))
    hooked = load(str(hf_directory(architecture)), device="cpu", processing=NONE).module
    check_against_activations(bridged)
    for layer in range(hooked.cfg.n_layers):
        ours, theirs = layer_weights(bridged, layer), layer_weights(hooked, layer)
        assert all(torch.equal(a, vars(theirs)[name]) for name, a in vars(ours).items())
    scale = 32**0.5 if architecture == "gemma2" else 1.0
    torch.testing.assert_close(embedding(bridged) * scale, embedding(hooked))
    torch.testing.assert_close(unembedding(bridged), unembedding(hooked))


def test_grouped_keys_are_repeated_and_nothing_carries_a_gradient(tmp_path: Path):
    model = save_hooked(tmp_path / "grouped", n_key_value_heads=2)
    every = layer_weights(model, 1)
    assert every.W_K.shape == every.W_Q.shape == (4, 16, 4)
    assert torch.equal(every.W_K[0], every.W_K[1])
    assert not torch.equal(every.W_K[1], every.W_K[2])
    head = head_weights(model, 1, 2)
    assert torch.equal(head.W_V, model.W_V[1, 2])
    assert torch.equal(head.W_O, model.W_O[1, 2])
    tensors = [*vars(head).values(), embedding(model), unembedding(model)]
    assert not any(t.requires_grad for t in tensors)
    product: Any = FactoredMatrix(head.W_V, head.W_O).AB
    assert torch.equal(product, head.W_V @ head.W_O)


@pytest.mark.parametrize(
    ("layer", "head", "text"),
    [
        (2, 0, "head L2H0: layer must be from 0 to 1 in this model, not 2."),
        (-1, 0, "head L-1H0: layer must be from 0 to 1 in this model, not -1."),
        (1, 4, "head L1H4: head must be from 0 to 3 in this model, not 4."),
    ],
)
def test_a_head_that_is_not_there(tmp_path: Path, layer: int, head: int, text: str):
    with pytest.raises(InputError) as error:
        head_weights(save_hooked(tmp_path / "tiny"), layer, head)
    assert str(error.value) == text


def test_one_layer_leaves_one_choice(tmp_path: Path):
    with pytest.raises(InputError, match="layer must be 0 in this model, not 1"):
        layer_weights(save_hooked(tmp_path / "tiny", n_layers=1), 1)


@pytest.mark.parametrize("case", HYBRID)
def test_attention_without_weights_per_head_is_refused(tmp_path: Path, case: str):
    kind, values, text = HYBRID[case]
    with quiet(), torch.random.fork_rng():
        config = getattr(transformers, kind)(**SMALL | values)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=text):
        layer_weights(bridge(tmp_path), 0)


def test_weights_of_another_shape_are_refused(tmp_path: Path):
    model = save_hooked(tmp_path / "tiny")
    model.blocks[0].attn.W_O = torch.nn.Parameter(torch.zeros(16, 16))
    with pytest.raises(InputError, match=r"W_O of layer 0 has the shape \(16, 16\), not \(4, 4, 16\)"):
        layer_weights(model, 0)
