"""The protocol over both kinds of model, and the fingerprint of weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from mechlist import LogitDifference, patch_grid
from mechlist.errors import InputError, MechlistError, ModelError
from mechlist.models.identity import fingerprint
from mechlist.models.language_model import LanguageModel, wrap
from mechlist.models.load import load
from mechlist.models.sites import Site
from mechlist.runner import Runner
from mechlist.types import Processing
from tests.conftest import CONFIGS, HfDirectory
from tests.hooked import HookedTransformer, needs_hooked
from tests.models.tiny import copy, edit_weights, logits_of, random_sequences, save_hooked, save_huggingface

PLAIN = Processing(fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HookedTransformer]:
    directory = tmp_path_factory.mktemp("hooked")
    return directory, save_hooked(directory)


@pytest.fixture(params=["gpt2", "stablelm"])
def model(request: pytest.FixtureRequest, hf_directory: HfDirectory) -> LanguageModel:
    """One of each kind."""
    return load(str(hf_directory(request.param)), device="cpu")


# wrap


@pytest.mark.parametrize("other", [None, "gpt2", torch.nn.Linear(2, 2)])
def test_other_types_are_refused(other: Any):
    with pytest.raises(ModelError) as caught:
        wrap(other)
    assert str(caught.value) == (
        f"Runner takes a HookedTransformer or a TransformerBridge, not {type(other).__name__}."
    )


def test_a_built_model_is_wrapped_as_it_is(saved: tuple[Path, HookedTransformer]):
    model = wrap(saved[1])
    assert model.module is saved[1]
    assert model.info == {"name": "custom"}
    assert model.bos_token_id is None
    assert (str(model.device), model.dtype) == ("cpu", torch.float32)
    tokens = random_sequences(97)
    with torch.inference_mode():
        torch.testing.assert_close(logits_of(model, tokens), saved[1](tokens))


def test_a_fresh_model_without_dropout_may_be_in_train_mode(saved: tuple[Path, HookedTransformer]):
    saved[1].train()
    try:
        assert wrap(saved[1]).shape.n_layers == 2
    finally:
        saved[1].eval()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("StableLmConfig", {"num_key_value_heads": 2, "attention_dropout": 0.1}),
        ("StableLmConfig", {"num_key_value_heads": 2, "hidden_dropout": 0.1}),
    ],
)
def test_dropout_in_train_mode_is_refused(tmp_path: Path, kind: str, values: dict[str, Any]):
    module = load(str(save_huggingface(tmp_path / "model", kind, **values)), device="cpu").module
    assert isinstance(module, TransformerBridge)
    module.train()
    with pytest.raises(ModelError, match=r"The model is in train mode.*call model\.eval\(\) first\."):
        wrap(module)
    module.eval()
    wrap(module)


@pytest.mark.parametrize("normalization", ["LN", "LNPre", "RMS", "RMSPre", None])
@pytest.mark.parametrize("attn_only", [False, True])
def test_the_plain_forward_is_the_unembedded_residual(tmp_path: Path, normalization: str | None, attn_only: bool):
    model = wrap(save_hooked(tmp_path / "m", normalization_type=normalization, attn_only=attn_only))
    tokens = random_sequences(97)
    with torch.inference_mode():
        torch.testing.assert_close(logits_of(model, tokens), model.module(tokens))
    assert model.shape.d_mlp == (0 if attn_only else 24)


# residual and unembed


def test_hooks_act_and_are_gone_afterwards(model: LanguageModel):
    tokens = random_sequences(97)
    before = logits_of(model, tokens)
    seen: list[torch.Size] = []

    def zero(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        seen.append(activation.shape)
        return torch.zeros_like(activation)

    with torch.inference_mode():
        changed = model.unembed(model.residual(tokens, [("blocks.1.hook_resid_post", zero)]))
    assert seen == [torch.Size([3, 40, 32])]
    assert (changed - before).abs().max() > 1e-3
    assert torch.equal(logits_of(model, tokens), before)
    assert len(seen) == 1


def test_hooks_are_gone_after_an_error(model: LanguageModel):
    tokens = random_sequences(97)
    before = logits_of(model, tokens)

    def fail(activation: torch.Tensor, hook: Any) -> None:
        raise KeyError("from a hook")

    with pytest.raises(KeyError, match="from a hook"):
        model.residual(tokens, [("blocks.0.hook_resid_pre", fail)])
    assert torch.equal(logits_of(model, tokens), before)


def test_hook_names_are_those_of_the_module(model: LanguageModel):
    assert {"blocks.0.hook_resid_pre", "blocks.2.attn.hook_z", "blocks.2.attn.hook_pattern"} <= model.hook_names
    assert model.hook_names == frozenset(model.module.hook_dict)


def test_columns_of_the_unembedding_are_columns_of_the_logits(model: LanguageModel):
    normalized = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    columns = torch.tensor([96, 0, 0])
    every = model.unembed(normalized)
    assert every.shape == (2, 5, 97)
    torch.testing.assert_close(model.unembed(normalized, columns), every[..., columns])
    torch.testing.assert_close(model.unembed(normalized[0, 0]), every[0, 0])
    assert model.unembed(normalized, torch.tensor([], dtype=torch.long)).shape == (2, 5, 0)


# fingerprint


def test_the_same_weights_have_the_same_fingerprint(hf_directory: HfDirectory, tmp_path: Path):
    prints = {fingerprint(load(str(hf_directory(name)), device="cpu")) for name in CONFIGS}
    assert len(prints) == len(CONFIGS)
    for architecture in ("llama", "stablelm"):
        first = fingerprint(load(str(hf_directory(architecture)), device="cpu"))
        moved = copy(hf_directory(architecture), tmp_path / architecture)
        assert fingerprint(load(str(moved), device="cpu")) == first
        assert len(first) == 64


def _smallest_step(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.clone()
    weight.view(-1)[-1] = torch.nextafter(weight.view(-1)[-1], torch.tensor(9.0))
    return weight


def test_one_changed_value_changes_the_fingerprint(tmp_path: Path):
    saved = save_hooked(tmp_path / "m")
    bias = saved.get_parameter("ln_final.b").detach()
    before = fingerprint(wrap(saved))
    assert fingerprint(load(str(tmp_path / "m"), device="cpu")) == before
    edit_weights(tmp_path / "m", ln_final__b=_smallest_step(bias))
    assert fingerprint(load(str(tmp_path / "m"), device="cpu")) != before


@needs_hooked
def test_dtype_and_processing_change_the_fingerprint(hf_directory: HfDirectory):
    directory = str(hf_directory("gpt2"))
    options: list[dict[str, Any]] = [
        {},
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
        {"processing": PLAIN},
    ]
    assert len({fingerprint(load(directory, device="cpu", **o)) for o in options}) == 4


CHANGES: dict[str, Callable[[Any], None]] = {
    "masks": lambda module: setattr(module.blocks[0].attn, "mask", torch.ones(48, 48, dtype=torch.bool)),
    "train mode": lambda module: module.train(),
    "gradients": lambda module: module.requires_grad_(False),
    "layout in memory": lambda module: setattr(module.unembed.W_U, "data", module.unembed.W_U.data.T.contiguous().T),
    "moved and back": lambda module: module.to("cpu", print_details=False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_weight_leaves_the_fingerprint(tmp_path: Path, change: str):
    module = save_hooked(tmp_path / "m")
    before = fingerprint(wrap(module))
    CHANGES[change](module)
    assert fingerprint(wrap(module)) == before


def test_names_and_shapes_are_part_of_the_fingerprint(tmp_path: Path):
    zeros = [save_hooked(tmp_path / str(n), n_heads=n, d_head=16 // n) for n in (2, 4)]
    for module in zeros:
        for parameter in module.parameters():
            parameter.data.zero_()
    assert len({fingerprint(wrap(m)) for m in zeros}) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_device_is_no_part_of_the_fingerprint(hf_directory: HfDirectory):
    for architecture in ("gemma2", "stablelm"):
        prints = {fingerprint(load(str(hf_directory(architecture)), device=d)) for d in ("cpu", "cuda")}
        assert len(prints) == 1


# layers one by one


def test_a_model_whose_attention_looks_ahead_is_refused(tmp_path: Path):
    module = save_hooked(tmp_path / "m")
    module.cfg.attention_dir = "bidirectional"
    with pytest.raises(ModelError, match="attention looks ahead, so that what a prompt gives would depend"):
        wrap(module)


def test_logits_that_are_not_those_of_the_final_residual_stream_are_refused(tmp_path: Path):
    module = save_hooked(tmp_path / "m")

    def twice(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        return 2 * out

    module.unembed.register_forward_hook(twice)
    with pytest.raises(ModelError, match=r"own logits differ from those of its final residual stream by 0\.5"):
        wrap(module)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "stablelm"])
def test_layers_show_what_the_models_own_hooks_show(hf_directory: HfDirectory, architecture: str):
    model = load(str(hf_directory(architecture)), device="cpu")
    found = model.one_by_one()
    assert found.because is None
    assert found.sites == frozenset(get_args(Site))
    assert found.layers is model.require_layers("anything")


def test_layers_that_miss_the_models_own_pass_are_not_used(hf_directory: HfDirectory, monkeypatch: pytest.MonkeyPatch):
    from mechlist.models.layers.bridge_layers import BridgeLayers

    real = BridgeLayers.attention_output
    monkeypatch.setattr(
        BridgeLayers, "attention_output", lambda self, layer, z: real(self, layer, z) * (1.1 if layer == 1 else 1)
    )
    model = load(str(hf_directory("stablelm")), device="cpu")
    because = model.one_by_one().because
    assert because is not None
    assert "miss its own residual stream" in because
    assert because.endswith("from attn_out of layer 1 on")
    with pytest.raises(InputError, match="Taking it apart must take the model's layers apart, and cannot: its layers"):
        model.require_layers("Taking it apart")


def test_a_window_that_is_overlooked_is_noticed_on_the_first_longer_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mechlist.models.layers import bridge_layers

    values: dict[str, Any] = {"num_key_value_heads": 2, "sliding_window": 30, "num_hidden_layers": 2}
    directory = save_huggingface(tmp_path / "model", "Starcoder2Config", **values)
    monkeypatch.setattr(bridge_layers, "windows_of", lambda hf_model, config, n_layers: [None] * n_layers)
    monkeypatch.setattr("mechlist.models.language_model.MOST", 16)
    model = load(str(directory), device="cpu")
    for length in (16, 40):
        tokens = random_sequences(97, rows=1, length=length)
        final = model.decoder(1, length).feed(tokens)
        if length == 16:
            model.compare(tokens, final)
        else:
            with pytest.raises(MechlistError, match="run one by one, miss its own final residual stream"):
                model.compare(tokens, final)


def test_logits_are_counted_by_what_the_model_predicts(tmp_path: Path):
    runner = Runner(save_hooked(tmp_path / "m", d_vocab_out=11), progress=False)
    assert (runner.shape.d_vocab, runner.shape.d_vocab_out) == (97, 11)
    tokens = torch.randint(11, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    assert runner.logits(tokens).shape == (2, 9, 11)
    with pytest.raises(InputError, match="columns must be token ids from 0 to 10"):
        runner.logits(tokens, columns=torch.tensor([11]))
    source = tokens.flip(0)
    found = patch_grid(
        runner, base=tokens, source=source, site="z", per="head", metric=LogitDifference(answer=3, wrong=10)
    )
    assert found["patched"].notnull().all()
    with pytest.raises(InputError, match="answer must be token ids from 0 to 10"):
        patch_grid(runner, base=tokens, source=source, site="z", per="head", metric=LogitDifference(answer=50, wrong=1))
