"""What is known, or refused, before weights are read: contexts, adapters, attention that looks ahead; and the text half
of models of text and images."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mechlist.errors import InputError, ModelError
from mechlist.models.load import load
from mechlist.models.outline import read_outline
from mechlist.models.quiet import quiet
from mechlist.models.tl import HAS_HOOKED
from mechlist.runner import Runner
from tests.conftest import SMALL, HfDirectory
from tests.models.tiny import copy, difference, edit_config, edit_weights, logits_of, random_sequences, save_huggingface

LONG = SMALL | {"num_key_value_heads": 2, "max_position_embeddings": 40960}


def refused(directory: Path, words: str, **options: Any) -> None:
    with pytest.raises(ModelError) as caught:
        load(str(directory), device="cpu", **options)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


# contexts


@pytest.mark.parametrize(
    ("kind", "values", "context"),
    [
        ("Qwen3Config", LONG | {"head_dim": 8}, 40960),
        ("MistralConfig", LONG, 40960),
        ("LlamaConfig", LONG | {"max_position_embeddings": 131072}, 131072),
        ("GPT2Config", {"vocab_size": 97, "n_embd": 32, "n_layer": 1, "n_head": 4, "max_position_embeddings": 80}, 80),
        ("OPTConfig", SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}, 64),
    ],
)
def test_the_configuration_decides_the_context(tmp_path: Path, kind: str, values: dict[str, Any], context: int):
    model = load(str(save_huggingface(tmp_path / "model", kind, **values)), device="cpu")
    assert model.shape.n_ctx == model.info["context"] == context
    if model.info["class"] == "HookedTransformer":
        # Nothing is made for positions that no prompt has.
        assert all(buffer.numel() <= 2048 * 32 for buffer in model.module.buffers())


def test_a_context_by_another_name(hf_directory: HfDirectory):
    assert load(str(hf_directory("mpt")), device="cpu").shape.n_ctx == 64


def test_a_prompt_beyond_the_tables_that_transformer_lens_makes_at_first(tmp_path: Path):
    directory = save_huggingface(tmp_path / "model", "LlamaConfig", **LONG | {"num_hidden_layers": 1})
    runner = Runner.load(str(directory), device="cpu", progress=False)
    tokens = random_sequences(97, rows=1, length=2100)
    decoder = runner.language_model.decoder(1, 2100)
    final = decoder.feed(tokens)
    own = runner.language_model.residual(tokens, [])[:, -1]
    torch.testing.assert_close(final, own, atol=1e-4, rtol=1e-4)


def test_a_context_that_is_asked_for(hf_directory: HfDirectory):
    assert load(str(hf_directory("llama")), device="cpu", context=200).shape.n_ctx == 200
    assert load(str(hf_directory("stablelm")), device="cpu", context=20).shape.n_ctx == 20
    runner = Runner.load(str(hf_directory("gpt2")), device="cpu", progress=False, context=20)
    with pytest.raises(InputError, match="Prompt 0 has 21 tokens, the model's context holds 20"):
        runner.logits(random_sequences(97, rows=1, length=21))
    refused(hf_directory("llama"), "context must be at least 1 token, not 0", context=0)
    words = "context must be at most 64, the positions that the model has learned, not 65"
    refused(hf_directory("gpt2"), words, context=65)


def test_a_longer_context_than_configured_is_hugging_faces(hf_directory: HfDirectory):
    assert difference(load(str(hf_directory("llama")), device="cpu", context=200), hf_directory("llama"), 150) < 1e-4


def test_a_context_is_refused_before_weights_are_read(hf_directory: HfDirectory, tmp_path: Path):
    directory = copy(hf_directory("gpt2"), tmp_path / "gpt2")
    # Whole, as far as its header tells, and no weight of the model.
    edit_weights(directory, drop="wte.weight")
    refused(directory, "context must be at most 64", context=99)


# what has no place


def test_weights_that_the_configuration_has_no_place_for(hf_directory: HfDirectory, tmp_path: Path):
    llama = copy(hf_directory("llama"), tmp_path / "llama")
    edit_config(llama, num_hidden_layers=2)
    refused(
        llama, "has the weight model.layers.2.input_layernorm.weight and 8 more, for which config.json has no place"
    )
    biased = save_huggingface(tmp_path / "biased", "LlamaConfig", num_key_value_heads=2, attention_bias=True)
    edit_config(biased, attention_bias=False)
    refused(biased, "has the weight model.layers.0.self_attn.k_proj.bias and 11 more")
    classifier = copy(hf_directory("llama"), tmp_path / "classifier")
    edit_weights(classifier, score__weight=torch.zeros(2, 32))
    refused(classifier, "has the weight score.weight, for which config.json has no place")


def test_tables_of_older_versions_do_no_harm(hf_directory: HfDirectory, tmp_path: Path):
    llama = copy(hf_directory("llama"), tmp_path / "llama")
    edit_weights(llama, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(4))
    tokens = random_sequences(97)
    before = logits_of(load(str(hf_directory("llama")), device="cpu"), tokens)
    assert torch.equal(logits_of(load(str(llama), device="cpu"), tokens), before)


def test_an_adapter_beside_a_model_is_not_left_out(hf_directory: HfDirectory, tmp_path: Path):
    llama = copy(hf_directory("llama"), tmp_path / "llama")
    (llama / "adapter_config.json").write_text("{}")
    refused(llama, "holds an adapter (adapter_config.json) beside its model, which would be left out; merge it")


def test_attention_that_looks_ahead_is_refused(tmp_path: Path):
    values: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 16}
    directory = save_huggingface(tmp_path / "model", "Gemma3TextConfig", **values)
    edit_config(directory, use_bidirectional_attention=True)
    refused(directory, "holds a Gemma3ForCausalLM whose attention looks ahead")


def test_a_weight_that_is_no_number_is_named(hf_directory: HfDirectory, tmp_path: Path):
    for architecture, name in (("stablelm", "model.layers.1.mlp.up_proj.weight"), ("llama", "model.norm.weight")):
        directory = copy(hf_directory(architecture), tmp_path / architecture)
        weight = torch.full((48, 32) if "mlp" in name else (32,), torch.nan)
        tensors: dict[str, Any] = {name.replace(".", "__"): weight}
        edit_weights(directory, **tensors)
        refused(directory, f"has numbers that are NaN or infinite in the weight {name}")


# models of text and images


def test_the_text_half_of_a_model_of_text_and_images(tmp_path: Path):
    text = SMALL | {"num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 6, "sliding_window": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision | {"image_size": 16, "patch_size": 4},
        mm_tokens_per_image=16,
        image_token_index=90,
    )
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        whole = transformers.Gemma3ForConditionalGeneration(config).eval()
        for parameter in whole.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        whole.save_pretrained(tmp_path / "model")
    assert read_outline(tmp_path / "model").is_multimodal
    model = load(str(tmp_path / "model"), device="cpu")
    through = "HookedTransformer" if HAS_HOOKED else "TransformerBridge"
    assert (model.info["class"], model.info["architecture"]) == (through, "Gemma3ForCausalLM")
    tokens = torch.randint(0, 90, (2, 30), generator=torch.Generator().manual_seed(0))
    with quiet(), torch.no_grad():
        expected = whole(tokens).logits.log_softmax(-1)
    torch.testing.assert_close(logits_of(model, tokens).log_softmax(-1), expected, atol=1e-4, rtol=0)
