"""What zero is in a processed model, and hooks of bridges that change nothing; against Hugging Face's own modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mechlist import patch_grid
from mechlist.decode import HeadEdit, Sampling, generate
from mechlist.errors import InputError
from mechlist.metrics.answers import LogitDifference
from mechlist.models.load import load
from mechlist.models.quiet import quiet
from mechlist.patching.ablation import ablated_next_tokens
from mechlist.patching.replacements import Zero
from mechlist.runner import Intervention, Runner
from mechlist.types import Processing
from tests.hooked import needs_hooked
from tests.models.tiny import save_huggingface

TOKENS = torch.tensor([[5, 9, 3, 17, 8, 2, 11]])
KINDS = {
    "GPT2Config": ("transformer.h.{}.attn.c_proj", {}),
    # Grouped keys and values, with biases.
    "Qwen2Config": ("model.layers.{}.self_attn.o_proj", {"num_key_value_heads": 2}),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, Any, str]:
    """A processed model, Hugging Face's own, and the module whose input is z."""
    place, sizes = KINDS[request.param]
    directory = save_huggingface(tmp_path_factory.mktemp("zero"), request.param, **sizes)
    with quiet():
        hf_model = transformers.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
        return Runner(load(str(directory), device="cpu"), progress=False), hf_model, place


def zeroed(hf_model: Any, place: str, layer: int, head: int, d_head: int) -> torch.Tensor:
    """Log-probabilities with one head's z at zero everywhere."""

    def without(module: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        z = given[0].clone()
        z[..., head * d_head : (head + 1) * d_head] = 0
        return (z,)

    handle = hf_model.get_submodule(place.format(layer)).register_forward_pre_hook(without)
    try:
        with torch.no_grad():
            return hf_model(TOKENS).logits[0].log_softmax(-1)
    finally:
        handle.remove()


@needs_hooked
def test_zero_is_that_of_the_model_as_published(pair: tuple[Runner, Any, str]):
    runner, hf_model, place = pair
    shape = runner.shape
    assert runner.language_model.nothing("z", 0) is not None
    found = patch_grid(
        runner, base=TOKENS, source=Zero(), site="z", per="head", metric=LogitDifference(answer=4, wrong=7)
    )["patched"]
    for layer in range(shape.n_layers):
        for head in range(shape.n_heads):
            expected = zeroed(hf_model, place, layer, head, shape.d_head)[-1]
            assert float(found[0, layer, head]) == pytest.approx(float(expected[4] - expected[7]), abs=2e-4)


def test_ablation_and_generation_know_it_too(pair: tuple[Runner, Any, str]):
    runner, hf_model, place = pair
    expected = zeroed(hf_model, place, 1, 2, runner.shape.d_head)
    out = ablated_next_tokens(runner, TOKENS, [(1, 2)], "zero")
    own = expected[:-1].gather(1, TOKENS[0, 1:, None])[:, 0]
    torch.testing.assert_close(out.log_prob[0], own, atol=2e-4, rtol=0)
    edit, greedy = HeadEdit(heads=((1, 2),)), Sampling(greedy=True)
    ((one,),) = generate(runner, TOKENS.tolist(), max_new_tokens=1, sampling=greedy, edit=edit)
    assert one.tokens == (int(expected[-1].argmax()),)
    assert one.log_probs[0] == pytest.approx(float(expected[-1].max()), abs=2e-4)


def test_values_of_zero(pair: tuple[Runner, Any, str]):
    runner, hf_model, place = pair
    arguments = {"base": TOKENS, "source": Zero(), "metric": LogitDifference(answer=4, wrong=7)}
    by_value = patch_grid(runner, site="v", per="head", **arguments)["patched"]
    # All of the group's heads read nothing.
    group = runner.shape.n_heads // runner.shape.n_key_value_heads
    if group == 1:
        expected = zeroed(hf_model, place, 0, 1, runner.shape.d_head)[-1]
        assert float(by_value[0, 0, 1]) == pytest.approx(float(expected[4] - expected[7]), abs=2e-4)


def test_what_is_not_folded_is_zero(tmp_path: Path):
    directory = save_huggingface(tmp_path, "GPT2Config")
    raw = Processing(fold_ln=True, center_writing_weights=True, center_unembed=True, fold_value_biases=False)
    assert load(str(directory), device="cpu", processing=raw).nothing("z", 0) is None
    assert load(str(directory), device="cpu").nothing("attn_out", 0) is None


def test_a_hook_that_changes_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = save_huggingface(tmp_path, "LlamaConfig", attention_bias=True)
    runner = Runner(load(str(directory), device="cpu"), progress=False)
    model, hook = runner.language_model, "blocks.0.attn.hook_z"
    doubled = Intervention(hook, lambda activation, rows: 2 * activation)
    with runner.intervene(doubled):
        pass
    assert not model.is_inert(hook)
    assert not any(model.is_inert(f"blocks.{layer}.attn.hook_pattern") for layer in range(runner.shape.n_layers))
    residual: Callable[..., torch.Tensor] = model.residual

    def deaf(tokens: torch.Tensor, hooks: Any) -> torch.Tensor:
        """As a bridge that shows what it computes and goes on with something else."""
        for name, function in hooks:
            if name == "blocks.1.attn.hook_z":
                function(torch.ones(1, 2), hook=None)
        return residual(tokens, [one for one in hooks if one[0] != "blocks.1.attn.hook_z"])

    monkeypatch.setattr(model, "residual", deaf)
    with (
        pytest.raises(InputError, match=r"blocks\.1\.attn\.hook_z cannot be changed in this model: the hook is there"),
        runner.intervene(Intervention("blocks.1.attn.hook_z", lambda activation, rows: activation)),
    ):
        pass
