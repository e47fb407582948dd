"""The way from hidden state to logits against the model itself, on every kind of architecture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mechlist.errors import InputError, MechlistError
from mechlist.models.load import load_hf
from mechlist.runner import Runner
from mechlist.runner.raw import raw_runner
from mechlist.weights.output import equal_columns, final_gain, final_states, output_weights
from tests.conftest import CONFIGS, HfDirectory
from tests.models.tiny import random_sequences, save_hooked

Loaded = Callable[[str], Runner]


def last_norm(model: Any) -> Any:
    """Hugging Face's own last norm, by the name that each architecture has for it."""
    if hasattr(model, "transformer"):
        return model.transformer.ln_f
    return model.gpt_neox.final_layer_norm if hasattr(model, "gpt_neox") else model.model.norm


@pytest.mark.parametrize("architecture", CONFIGS)
def test_raw_weights_are_those_of_hugging_face(loaded: Loaded, hf_directory: HfDirectory, architecture: str):
    found = output_weights(raw_runner(loaded(architecture)))
    model = load_hf(hf_directory(architecture))
    torch.testing.assert_close(found.weight.mT, model.get_output_embeddings().weight, atol=1e-6, rtol=1e-5)
    norm = last_norm(model)
    gain = norm.weight + 1 if "gemma" in architecture else norm.weight
    torch.testing.assert_close(found.gain, gain.detach(), atol=1e-5, rtol=1e-4)
    shift = getattr(norm, "bias", None)
    expected = torch.zeros_like(found.shift) if shift is None else shift.detach()
    torch.testing.assert_close(found.shift, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_logits_of_final_states_are_the_models(loaded: Loaded, architecture: str):
    for runner in {id(r): r for r in (loaded(architecture), raw_runner(loaded(architecture)))}.values():
        rows = random_sequences(97, rows=2, length=9)
        states = final_states(runner, rows, -1)[:, 0]
        found = output_weights(runner).logits(states)
        torch.testing.assert_close(found, runner.logits(rows, positions=-1)[:, 0], atol=1e-4, rtol=1e-4)


def test_the_gain_is_folded_or_not(loaded: Loaded):
    folded, raw = (output_weights(r) for r in (loaded("llama"), raw_runner(loaded("llama"))))
    torch.testing.assert_close(folded.gain, torch.ones(32), atol=1e-5, rtol=1e-5)
    assert (raw.gain - 1).abs().max() > 0.05
    # The folded one is centred over the vocabulary as well.
    centred = raw.folded_gain - raw.folded_gain.mean(1, keepdim=True)
    torch.testing.assert_close(folded.weight, centred, atol=1e-5, rtol=1e-4)


def test_tied_embeddings_are_told(loaded: Loaded, tmp_path: Path):
    assert output_weights(raw_runner(loaded("gpt2"))).tied_factor == 1.0
    # Gemma multiplies its embeddings by the root of the width.
    assert output_weights(raw_runner(loaded("gemma2"))).tied_factor == pytest.approx(32**0.5, abs=1e-5)
    assert output_weights(raw_runner(loaded("llama"))).tied_factor is None
    save_hooked(tmp_path / "other", d_vocab_out=5)
    assert output_weights(Runner.load(str(tmp_path / "other"), device="cpu", guards=False)).tied_factor is None


def test_a_bias_and_a_softcap_are_part_of_it(tmp_path: Path):
    model = save_hooked(tmp_path / "capped", output_logits_soft_cap=2.0)
    with torch.no_grad():
        model.unembed.b_U.copy_(torch.linspace(-1, 1, 97))
    runner = Runner(model)
    found = output_weights(runner)
    assert found.has_bias
    assert found.softcap == 2.0
    rows = random_sequences(97, rows=2, length=9)
    states = 5 * final_states(runner, rows, -1)[:, 0]
    assert found.logits(states).abs().max() < 2
    torch.testing.assert_close(found.logits(states), runner.language_model.unembed(states))


def test_a_model_that_does_more_is_refused(tmp_path: Path):
    runner = Runner(save_hooked(tmp_path / "tiny"))
    own = runner.language_model.unembed

    def squared(normalized: Tensor, columns: Tensor | None = None) -> Tensor:
        return own(normalized, columns) ** 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.language_model, "unembed", squared)
        with pytest.raises(MechlistError, match="it does something else to them, and reading W_U would mislead"):
            output_weights(runner)


def test_a_multiplier_is_found(tmp_path: Path):
    runner = Runner(save_hooked(tmp_path / "tiny"))
    own = runner.language_model.unembed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.language_model, "unembed", lambda normalized, columns=None: own(normalized, columns) / 8)
        assert output_weights(runner).multiplier == 0.125


@pytest.mark.parametrize("width", [6, 7])
def test_gain_and_shift_come_from_what_the_norm_does(width: int):
    norm = nn.LayerNorm(width)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, width))
        norm.bias.copy_(torch.linspace(-1, 1, width))
    gain, shift = final_gain(norm, width, torch.zeros(width, 3))
    torch.testing.assert_close(gain, norm.weight.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shift, norm.bias.detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(final_gain(None, width, torch.zeros(width, 3))[0], torch.ones(width))


def test_equal_columns_are_those_of_earlier_tokens():
    weight = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    assert equal_columns(weight).tolist() == []
    weight[:, [9, 30]] = weight[:, [4]]
    weight[:, [11, 12, 13]] = 0
    assert equal_columns(weight).tolist() == [9, 12, 13, 30]


def test_a_broken_hidden_state_is_named(tmp_path: Path):
    model = save_hooked(tmp_path / "tiny")
    with torch.no_grad():
        model.embed.W_E[7] = torch.nan
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4, 7])]
    with pytest.raises(InputError, match="The final hidden state of prompt 1 holds NaN or infinity"):
        final_states(Runner(model), rows)
    assert final_states(Runner(model), rows[:1]).isfinite().all()


def test_states_beyond_a_prompts_end_are_nan(tmp_path: Path):
    states = final_states(Runner(save_hooked(tmp_path / "tiny")), [torch.tensor([1, 2, 3]), torch.tensor([4])])
    assert states[0].isfinite().all()
    assert states[1, 1:].isnan().all()
