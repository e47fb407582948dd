"""Loading: dtypes, devices, tokenizers, HookedTransformer directories, clear errors, no traces."""

import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.utils import logging as hf_logging

from mechlist.errors import ModelError
from mechlist.models.load import load, load_hf, resolve_device
from mechlist.models.quiet import quiet
from mechlist.runner import Runner
from tests.conftest import CONFIGS, HfDirectory
from tests.hooked import needs_hooked
from tests.models.tiny import (
    copy,
    difference,
    edit_config,
    edit_weights,
    logits_of,
    random_sequences,
    save_hooked,
    save_huggingface,
)

Settings = dict[str, object]


def settings() -> Settings:
    """Everything global that loading could change."""
    root = logging.getLogger()
    return {
        "verbosity": hf_logging.get_verbosity(),
        "bars": hf_logging.is_progress_bar_enabled(),
        "levels": {name: logging.getLogger(name).level for name in ("", "transformers", "huggingface_hub", "torch")},
        "disabled": root.manager.disable,
        "random": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(autouse=True)
def _no_traces(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No test may print or change a global setting, whether loading succeeds or fails."""
    before = settings()
    yield
    assert settings() == before
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def message(model: Path | str, **options: Any) -> str:
    """The one sentence that loading fails with."""
    arguments: dict[str, Any] = {"device": "cpu"} | options
    with pytest.raises(ModelError) as caught:
        load(str(model), **arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 600
    return text


@pytest.fixture
def llama(hf_directory: HfDirectory, tmp_path: Path) -> Path:
    """A Llama directory of one's own to break."""
    return copy(hf_directory("llama"), tmp_path / "llama")


@pytest.fixture
def hooked(tmp_path: Path) -> Path:
    """A HookedTransformer directory of one's own to break."""
    save_hooked(tmp_path / "hooked")
    return tmp_path / "hooked"


# What works


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_reduced_precision_stays_near_float32(hf_directory: HfDirectory, architecture: str, dtype: Any):
    directory = str(hf_directory(architecture))
    full, reduced = load(directory, device="cpu"), load(directory, device="cpu", dtype=dtype)
    tokens = random_sequences(97)
    wanted, got = logits_of(full, tokens), logits_of(reduced, tokens)
    assert got.dtype == reduced.dtype == getattr(torch, dtype)
    assert reduced.module.cfg.dtype == reduced.dtype
    assert got.isfinite().all()
    assert (got.float() - wanted).abs().max() < (0.1 if dtype == "bfloat16" else 0.015)
    assert reduced.info["parity"]["passed"]


@needs_hooked
def test_the_conversion_is_checked_in_float32_whatever_the_dtype(hf_directory: HfDirectory):
    model = load(str(hf_directory("gemma2")), device="cpu", dtype="bfloat16")
    assert model.info["parity"]["tolerance"] == 1e-4


def test_weights_are_rounded_only_after_processing(hf_directory: HfDirectory):
    full, reduced = (load(str(hf_directory("gpt2")), device="cpu", dtype=d).module for d in ("float32", "bfloat16"))
    for (name, a), (_, b) in zip(full.named_parameters(), reduced.named_parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16), b), name


def test_a_model_in_eval_mode_whose_hugging_face_weights_take_no_gradient(hf_directory: HfDirectory):
    assert not load(str(hf_directory("gpt2")), device="cpu").module.training
    hf_model = load_hf(hf_directory("gpt2"))
    assert not hf_model.training
    assert not any(p.requires_grad for p in hf_model.parameters())


def test_weights_in_shards_load_and_a_missing_shard_is_named(llama: Path, tmp_path: Path):
    whole = load(str(llama), device="cpu")
    sharded = copy(llama, tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    with quiet():
        load_hf(llama).save_pretrained(sharded, max_shard_size="30KB")
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 1
    tokens = random_sequences(97)
    assert torch.equal(logits_of(load(str(sharded), device="cpu"), tokens), logits_of(whole, tokens))
    shards[-1].unlink()
    assert str(sharded) in message(sharded)


@needs_hooked
def test_a_checkpoint_saved_in_bfloat16_loads_in_float32(hf_directory: HfDirectory, tmp_path: Path):
    directory = tmp_path / "half"
    with quiet():
        load_hf(hf_directory("gemma2"), torch.bfloat16).save_pretrained(directory)
    copied = load(str(directory), device="cpu")
    assert copied.dtype == torch.float32
    assert copied.info["class"] == "HookedTransformer"


# Devices and dtypes


def test_auto_is_a_device_of_this_machine():
    assert resolve_device("auto") in ("cpu", "cuda", "mps")
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:1", "meta"])
def test_an_unknown_device(llama: Path, device: str):
    assert message(llama, device=device) == f"device must be auto, cpu, cuda, cuda:N or mps, not {device!r}."


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:3", 1), ("mps", 0)])
def test_a_device_that_is_not_there(llama: Path, device: str, gpus: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    there = "cpu, cuda" if gpus else "cpu"
    assert message(llama, device=device) == (
        f"device {device} is not available on this machine; there is {there}: choose one of these, or auto."
    )


def test_an_unknown_dtype(llama: Path):
    # The checks of the tests refuse it first; the command line has no such checks.
    plain: Any = getattr(load, "__wrapped__", load)
    with pytest.raises(ModelError, match=re.escape("dtype must be one of float32, bfloat16, float16, not 'float8'.")):
        plain(str(llama), dtype="float8")


# Tokens


def test_without_tokenizer_files_there_is_no_tokenizer(hf_directory: HfDirectory, hooked: Path):
    assert load(str(hf_directory("gpt2")), device="cpu").module.tokenizer is None
    assert load(str(hf_directory("stablelm")), device="cpu").module.tokenizer is None
    assert load(str(hooked), device="cpu").module.tokenizer is None


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [(3, 5, 3), (None, 5, 5), (None, None, None), ([3, 4], 5, 5), (0, 5, 0)],
)
def test_bos_comes_from_the_files(llama: Path, generation: Any, config: int | None, expected: int | None):
    (llama / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        edit_config(llama, "generation_config.json", bos_token_id=generation)
    settings = json.loads((llama / "config.json").read_text()) | {"bos_token_id": config}
    (llama / "config.json").write_text(json.dumps(settings))
    assert load(str(llama), device="cpu").bos_token_id == expected


def test_bos_of_a_hooked_transformer_directory(hooked: Path):
    assert load(str(hooked), device="cpu").bos_token_id is None
    edit_config(hooked, "generation_config.json", bos_token_id=7)
    assert load(str(hooked), device="cpu").bos_token_id == 7


def add_tokenizer(directory: Path, **special: str) -> None:
    """A tokenizer of the words w0 to w96."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w96"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w96", **special).save_pretrained(directory)


@pytest.mark.parametrize("kind", ["llama", "hooked"])
def test_the_tokenizers_bos_counts_before_the_files(kind: str, request: pytest.FixtureRequest):
    directory: Path = request.getfixturevalue(kind)
    edit_config(directory, "generation_config.json", bos_token_id=3)
    add_tokenizer(directory, bos_token="w11", eos_token="w12")
    model = load(str(directory), device="cpu")
    assert model.bos_token_id == 11
    assert model.module.to_tokens("w1 w2").tolist() == [[11, 1, 2]]


@pytest.mark.parametrize("kind", ["llama", "hooked"])
def test_no_token_is_taken_for_a_bos_that_the_tokenizer_lacks(kind: str, request: pytest.FixtureRequest):
    """Qwen's chat tokenizers have none; their configuration names one, and TransformerLens would take EOS."""
    directory: Path = request.getfixturevalue(kind)
    edit_config(directory, "generation_config.json", bos_token_id=3)
    add_tokenizer(directory, eos_token="w12")
    assert load(str(directory), device="cpu").bos_token_id is None
    runner = Runner.load(str(directory), device="cpu", progress=False)
    assert runner.to_tokens("w1 w2") == [1, 2]
    assert runner.model.to_tokens("w1 w2").tolist() == [[1, 2]]


@pytest.mark.parametrize("architecture", ["gpt2", "stablelm"])
def test_a_tokenizer_changes_no_logit_even_for_its_padding_token(
    hf_directory: HfDirectory, tmp_path: Path, architecture: str
):
    directory = copy(hf_directory(architecture), tmp_path / "model")
    add_tokenizer(directory, bos_token="w11", eos_token="w12", pad_token="w12")
    model = load(str(directory), device="cpu")
    tokens = random_sequences(97)
    tokens[:, [0, 5, 6, -1]] = 12
    without = load(str(hf_directory(architecture)), device="cpu")
    assert torch.equal(logits_of(model, tokens), logits_of(without, tokens))


def test_gpt2s_tokenizer_beside_a_model_of_its_vocabulary(shared: Path, tmp_path: Path):
    directory = save_huggingface(
        tmp_path / "model", "GPT2Config", vocab_size=50257, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    shutil.copytree(shared / "models" / "gpt2-tokenizer", directory, dirs_exist_ok=True, copy_function=shutil.copyfile)
    model = load(str(directory), device="cpu")
    assert model.bos_token_id == 50256
    assert model.module.to_tokens("When Mary and John").tolist() == [[50256, 2215, 5335, 290, 1757]]
    assert model.module.to_tokens("When Mary", prepend_bos=False).tolist() == [[2215, 5335]]
    runner = Runner.load(str(directory), device="cpu", progress=False)
    assert runner.to_tokens("When Mary") == [50256, 2215, 5335]
    assert runner.token_texts([2215, 5335]) == ["When", " Mary"]


@pytest.mark.parametrize("kind", ["llama", "hooked"])
def test_a_tokenizer_of_another_model_does_not_fit(kind: str, request: pytest.FixtureRequest, shared: Path):
    directory: Path = request.getfixturevalue(kind)
    shutil.copytree(shared / "models" / "gpt2-tokenizer", directory, dirs_exist_ok=True, copy_function=shutil.copyfile)
    assert message(directory) == (
        "The tokenizer does not fit the model: it has token ids up to 50256, the model's vocabulary ends at 96; "
        "put the model's own tokenizer files there, or none."
    )


@pytest.mark.parametrize("content", ["garbage", "{}", "[]", ""])
@pytest.mark.parametrize("kind", ["llama", "hooked"])
def test_a_tokenizer_that_is_garbage(kind: str, request: pytest.FixtureRequest, content: str):
    directory: Path = request.getfixturevalue(kind)
    (directory / "tokenizer.json").write_text(content)
    text = message(directory)
    assert text.startswith(f"The tokenizer in {directory} cannot be loaded (")
    assert "or remove them to run on token ids" in text


# HookedTransformer directories


@pytest.mark.parametrize("tokenizer", [False, True])
def test_a_hooked_transformer_comes_back_as_it_was_saved(tmp_path: Path, tokenizer: bool):
    saved = save_hooked(tmp_path / "model")
    if tokenizer:
        add_tokenizer(tmp_path / "model", bos_token="w11", eos_token="w12")
    model = load(str(tmp_path / "model"), device="cpu")
    tokens = random_sequences(97)
    with torch.inference_mode():
        assert torch.equal(model.module(tokens), saved(tokens))
    assert (model.module.tokenizer is not None) == tokenizer
    assert model.info["processing"] == "as saved"


def test_saved_buffers_of_another_version_do_no_harm(hooked: Path):
    before = logits_of(load(str(hooked), device="cpu"), random_sequences(97))
    edit_weights(
        hooked, blocks__0__attn__mask=torch.ones(48, 48, dtype=torch.bool), blocks__0__attn__IGNORE=torch.tensor(-1e5)
    )
    assert torch.equal(logits_of(load(str(hooked), device="cpu"), random_sequences(97)), before)


def test_settings_of_another_machine_are_replaced(hooked: Path):
    edit_config(hooked, "hooked_transformer_config.json", device="cuda:7", dtype="torch.float16", n_devices=8, seed=3)
    model = load(str(hooked), device="cpu")
    assert (str(model.device), model.dtype, model.module.cfg.n_devices) == ("cpu", torch.float32, 1)


@needs_hooked
def test_a_trained_hooked_transformer_loads(shared: Path):
    model = load(str(shared / "models" / "induction-2l"), device="cpu")
    assert model.shape.attn_only
    assert (model.shape.n_layers, model.shape.n_heads, model.shape.d_vocab, model.shape.d_mlp) == (2, 4, 128, 0)
    tokens = random_sequences(128)
    with torch.inference_mode():
        assert torch.equal(logits_of(model, tokens), model.module(tokens))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"d_modle": 16}, "d_modle"),
        ({"d_model": None}, "d_model"),
        ({"act_fn": "golu"}, "act_fn=golu must be one of"),
        ({"n_layers": "two"}, "TypeError"),
        ({"n_heads": 0}, "hooked_transformer_config.json"),
    ],
)
def test_a_wrong_hooked_transformer_configuration(hooked: Path, change: dict[str, Any], expected: str):
    edit_config(hooked, "hooked_transformer_config.json", **change)
    text = message(hooked)
    assert "hooked_transformer_config.json" in text
    assert expected in text


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"drop": "blocks.1.attn.W_Q"}, "lacks blocks.1.attn.W_Q"),
        ({"drop": "ln_final.b"}, "lacks ln_final.b"),
        ({"extra": torch.zeros(2)}, "has the unknown extra"),
        ({"unembed__W_U": torch.zeros(16, 98)}, "has the wrong shape for unembed.W_U"),
    ],
)
def test_weights_that_do_not_fit_the_hooked_transformer(hooked: Path, edit: dict[str, Any], expected: str):
    edit_weights(hooked, **edit)
    assert message(hooked) == (
        f"{hooked}/model.safetensors {expected}: it does not fit hooked_transformer_config.json; "
        "save both from one model."
    )


def test_several_weights_that_do_not_fit_are_counted(hooked: Path):
    edit_config(hooked, "hooked_transformer_config.json", n_layers=3)
    assert "lacks blocks.2.attn.W_K and 15 more" in message(hooked)


# Hugging Face directories that are wrong


@pytest.mark.parametrize("content", ["not json", "", '{"a": 1', "\x00"])
@pytest.mark.parametrize("kind", ["llama", "hooked"])
def test_a_configuration_that_is_not_json(kind: str, request: pytest.FixtureRequest, content: str):
    directory: Path = request.getfixturevalue(kind)
    name = "config.json" if kind == "llama" else "hooked_transformer_config.json"
    (directory / name).write_text(content)
    assert message(directory).startswith(f"{directory}/{name} is not readable JSON (")


@pytest.mark.parametrize("kind", ["llama", "hooked"])
def test_a_configuration_that_is_a_list(kind: str, request: pytest.FixtureRequest):
    directory: Path = request.getfixturevalue(kind)
    name = "config.json" if kind == "llama" else "hooked_transformer_config.json"
    (directory / name).write_text("[1]")
    assert message(directory) == f"{directory}/{name} must hold one JSON object, not list; fetch it again."


def test_a_configuration_in_no_known_encoding(llama: Path):
    (llama / "config.json").write_bytes(b"\xff\xfe{}")
    assert "is not readable JSON" in message(llama)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "martian"}, "martian"),
        ({"model_type": None, "architectures": None}, "model_type"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
        ({"hidden_act": "golu"}, "golu"),
    ],
)
def test_a_configuration_that_transformers_refuses(llama: Path, change: dict[str, Any], expected: str):
    edit_config(llama, **change)
    text = message(llama)
    assert text.startswith(f"{llama} cannot be loaded as a causal language model (")
    assert expected in text
    assert text.endswith("check config.json and the weights.")


def test_remote_code_is_off(llama: Path):
    (llama / "modeling_martian.py").write_text("raise SystemExit('remote code ran')")
    edit_config(llama, model_type="martian", auto_map={"AutoModelForCausalLM": "modeling_martian.Martian"})
    assert message(llama) == (
        f"{llama} needs code of its own to run, and remote code is off in mechlist; choose another model."
    )


@needs_hooked
def test_a_known_architecture_that_also_brings_code_runs_without_it(llama: Path):
    (llama / "modeling_martian.py").write_text("raise SystemExit('remote code ran')")
    edit_config(llama, auto_map={"AutoModelForCausalLM": "modeling_martian.Martian"})
    assert load(str(llama), device="cpu").info["class"] == "HookedTransformer"


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"])
def test_an_encoder_is_no_causal_language_model(tmp_path: Path, kind: str):
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=97, hidden_size=16, **sizes)
    with quiet(), torch.random.fork_rng():
        getattr(transformers, kind)(config).save_pretrained(tmp_path / "bert")
    assert message(tmp_path / "bert") == (
        f"{tmp_path}/bert holds a {kind}, which is not a causal language model; "
        "choose a model that predicts the next token."
    )


@pytest.mark.parametrize("length", [0, 4, 7, 8, 9, 100, 1000, -1000, -1])
@pytest.mark.parametrize("kind", ["llama", "hooked"])
def test_weights_that_are_cut_off(kind: str, request: pytest.FixtureRequest, length: int):
    directory: Path = request.getfixturevalue(kind)
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    text = message(directory)
    assert text.startswith(f"{file} is damaged or cut off (")
    assert text.endswith("fetch it again.")


def test_weights_that_are_garbage(llama: Path):
    (llama / "model.safetensors").write_bytes(b"<html>not found</html>" * 100)
    assert "is damaged or cut off" in message(llama)


@pytest.mark.parametrize("name", ["layers.1.self_attn.q_proj.weight", "model.norm.weight", "embed_tokens.weight"])
def test_a_missing_weight_is_named(llama: Path, name: str):
    edit_weights(llama, drop=name)
    text = message(llama)
    assert name in text
    assert text.startswith(f"{llama} lacks the weight ")
    assert text.endswith("(1 such in all); fetch its *.safetensors again.")


def test_a_weight_of_the_wrong_shape_is_named(llama: Path):
    edit_weights(llama, model__layers__1__mlp__up_proj__weight=torch.zeros(48, 31))
    assert message(llama) == (
        f"{llama} has the wrong shape for the weight model.layers.1.mlp.up_proj.weight (1 such in all); "
        "fetch its *.safetensors again."
    )


def test_a_smaller_vocabulary_in_the_configuration_is_noticed(llama: Path):
    edit_config(llama, vocab_size=90)
    assert "has the wrong shape for the weight lm_head.weight (2 such in all)" in message(llama)


def test_a_log_probability_of_a_bridge_that_is_not_hugging_faces_is_refused(
    hf_directory: HfDirectory, monkeypatch: pytest.MonkeyPatch
):
    from mechlist.models import language_model

    monkeypatch.setattr(language_model._Bridged, "unembed", lambda self, x, columns=None: 1.5 * (x @ self.module.W_U))
    text = message(hf_directory("stablelm"))
    assert text.startswith("TransformerBridge does not run StableLmForCausalLM exactly (largest difference")


def test_neither_conversion_nor_bridge(hf_directory: HfDirectory, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no adapter.\nSecond line")

    monkeypatch.setattr("transformer_lens.model_bridge.TransformerBridge.boot_transformers", refuse)
    assert message(hf_directory("stablelm")) == (
        "Neither HookedTransformer nor TransformerBridge can run StableLmForCausalLM "
        "(ValueError: no adapter); choose another model."
    )


def test_loading_twice_gives_the_same_bits(hf_directory: HfDirectory):
    tokens = random_sequences(97)
    first, second = (logits_of(load(str(hf_directory("gemma2")), device="cpu"), tokens) for _ in range(2))
    assert torch.equal(first, second)


def test_progress_bars_that_were_off_stay_off(hf_directory: HfDirectory):
    hf_logging.disable_progress_bar()
    try:
        load(str(hf_directory("gpt2")), device="cpu")
        assert not hf_logging.is_progress_bar_enabled()
    finally:
        hf_logging.enable_progress_bar()


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "stablelm"])
def test_no_handler_is_left_on_the_root_logger(
    hf_directory: HfDirectory, architecture: str, monkeypatch: pytest.MonkeyPatch
):
    # pytest's own handlers would keep TransformerLens from installing one.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    load(str(hf_directory(architecture)), device="cpu")
    assert logging.getLogger().handlers == []


def test_a_hub_model_is_loaded_from_the_directory_it_was_saved_in(
    hf_directory: HfDirectory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mechlist.models.sources.source.hub.download", lambda name: hf_directory("llama"))
    model = load("somebody/their-model", device="cpu")
    assert model.info["name"] == "somebody/their-model"
    assert model.info["directory"] == str(hf_directory("llama"))
    assert difference(model, hf_directory("llama")) < 1e-4
