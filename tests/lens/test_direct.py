"""Direct logit attribution against TransformerLens's own decomposition, and against the logit difference itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from mechlist.errors import InputError, MechlistError
from mechlist.lens.direct import Attribution, direct_attribution
from mechlist.models.attributions import direct_logit_attribution
from mechlist.models.quiet import quiet
from mechlist.models.recipes import Pair
from mechlist.runner import Runner, replace
from mechlist.types import Processing
from tests.hooked import HookedTransformer, HookedTransformerConfig

ANSWER, WRONG = 5, 7
POSITIONS = torch.tensor([[10, 3], [4, -1], [0, 10]])


def built(**changes: Any) -> Runner:
    settings: dict[str, Any] = {
        "n_layers": 2,
        "d_model": 16,
        "n_heads": 4,
        "d_head": 4,
        "d_vocab": 97,
        "n_ctx": 32,
    } | changes
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(HookedTransformerConfig(**settings, device="cpu"))
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return Runner(model.eval(), progress=False)


def prompts(runner: Runner) -> torch.Tensor:
    return torch.randint(9, runner.shape.d_vocab, (3, 11), generator=torch.Generator().manual_seed(0))


def attributed(runner: Runner) -> Attribution:
    return direct_attribution(runner, prompts(runner), POSITIONS, answer=ANSWER, wrong=WRONG)


def check_against_transformer_lens(runner: Runner) -> None:
    """Every term where TransformerLens decomposes too, and the sum against its logits before the softcap."""
    model, out = runner.model, attributed(runner)
    along = model.W_U[:, ANSWER] - model.W_U[:, WRONG]
    gain = getattr(model.ln_final, "w", torch.ones(()))
    with torch.no_grad():
        _, cache = model.run_with_cache(prompts(runner))
        read = cache["ln_final.hook_normalized"] if runner.model.cfg.normalization_type != "LN" else None
        for prompt, slot in (POSITIONS >= 0).nonzero().tolist():
            place = int(POSITIONS[prompt, slot])

            def term(part: torch.Tensor, prompt: int = prompt, place: int = place) -> float:
                stack = cache.apply_ln_to_stack(part[None], layer=-1)
                return float((stack[0, prompt, place] * gain) @ along)

            largest = out.largest
            for layer in range(runner.shape.n_layers):
                expected = term(cache[f"blocks.{layer}.hook_attn_out"])
                assert abs(float(out.attention[prompt, slot, layer]) - expected) < 1e-4 * largest
                if out.mlp is not None:
                    expected = term(cache[f"blocks.{layer}.hook_mlp_out"])
                    assert abs(float(out.mlp[prompt, slot, layer]) - expected) < 1e-4 * largest
                expected = term(cache[f"blocks.{layer}.hook_resid_post"])
                assert abs(float(out.accumulated[prompt, slot, layer + 1]) - expected) < 1e-4 * largest
            assert abs(float(out.embedding[prompt, slot]) - term(cache["blocks.0.hook_resid_pre"])) < 1e-4 * largest
            if read is not None:
                # hook_normalized of a gain-less norm is what the unembedding reads; with a gain it comes before it.
                whole = (read[prompt, place] * (gain if model.cfg.normalization_type == "RMS" else 1)) @ along
                whole += model.b_U[ANSWER] - model.b_U[WRONG]
                assert abs(float(out.sum[prompt, slot]) - float(whole)) < 1e-4 * largest
    assert out.error < 1e-4 * out.largest


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma", "gemma2", "pythia", "qwen2"])
def test_terms_are_those_of_transformer_lens_and_add_up(loaded: Callable[[str], Runner], architecture: str):
    check_against_transformer_lens(loaded(architecture))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "pythia"])
def test_weights_as_they_are_in_the_file(hf_directory: Callable[[str], Path], architecture: str):
    plain = Processing(fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
    runner = Runner.load(str(hf_directory(architecture)), device="cpu", progress=False, processing=plain)
    check_against_transformer_lens(runner)
    out = attributed(runner)
    expected = runner.logits(prompts(runner), positions=POSITIONS.clamp(min=0))
    cap = runner.model.cfg.output_logits_soft_cap
    if cap is not None and cap > 0:
        expected = cap * torch.atanh(expected / cap)
    expected = (expected[..., ANSWER] - expected[..., WRONG]).double()
    real = POSITIONS >= 0
    torch.testing.assert_close(out.sum[real], expected[real], atol=1e-4 * out.largest, rtol=0)
    assert out.sum[~real].isnan().all()
    assert out.heads[~real].isnan().all()


@pytest.mark.parametrize("normalization", [None, "LN", "LNPre"])
def test_a_model_of_attention_alone_has_no_mlp_terms(normalization: str | None):
    runner = built(attn_only=True, normalization_type=normalization)
    out = attributed(runner)
    assert out.mlp is None
    logits = runner.logits(prompts(runner), positions=POSITIONS.clamp(min=0)).double()
    real = POSITIONS >= 0
    whole = logits[..., ANSWER] - logits[..., WRONG]
    torch.testing.assert_close(out.sum[real], whole[real], atol=1e-4 * out.largest, rtol=0)
    torch.testing.assert_close(
        (out.accumulated[..., -1] + out.bias)[real], whole[real], atol=1e-4 * out.largest, rtol=0
    )


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "pythia"])
def test_heads_without_the_output_bias(loaded: Callable[[str], Runner], architecture: str):
    runner, tokens = loaded(architecture), prompts(loaded(architecture))
    model, out = runner.model, attributed(runner)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        heads = cache.stack_head_results(layer=-1)
        terms = cache.apply_ln_to_stack(heads, layer=-1) @ (model.W_U[:, ANSWER] - model.W_U[:, WRONG])
    expected = terms[:, 0, 10].view(runner.shape.n_layers, -1)
    np.testing.assert_allclose(out.heads[0, 0], expected, atol=1e-4 * out.largest)


def test_the_head_that_writes_is_the_head_that_has_the_term():
    """A model whose one head copies a direction: everything is known by hand."""
    runner = built(n_layers=1, n_heads=2, d_head=2, d_model=4, attn_only=True, normalization_type=None, d_vocab=9)
    model = runner.model
    for parameter in model.parameters():
        parameter.data.zero_()
    model.W_U.data[0, 5], model.W_U.data[0, 7], model.b_U.data[5] = 1.0, -1.0, 0.25
    model.W_E.data[3, 1] = 2.0
    model.W_E.data[3, 0] = 0.5
    model.blocks[0].attn.W_V.data[1, 1, 0] = 1.0
    model.blocks[0].attn.W_O.data[1, 0, 0] = 3.0
    model.blocks[0].attn.b_O.data[0] = 0.125
    out = direct_attribution(runner, torch.tensor([[3, 3]]), torch.tensor([[1]]), answer=5, wrong=7)
    # Along (+1) - (-1) = 2: the head writes 2 * 1 * 3 = 6, the bias .125, the embedding .5.
    assert out.heads.flatten().tolist() == [0.0, 12.0]
    assert out.attention_bias.flatten().tolist() == [0.25]
    assert out.embedding.item() == 1.0
    assert out.bias.item() == 0.25
    assert out.sum.item() == out.total.item() == 13.5


def test_sets_of_tokens_are_averaged_and_may_differ_by_prompt(loaded: Callable[[str], Runner]):
    runner, tokens = loaded("gpt2"), prompts(loaded("gpt2"))
    where = torch.tensor([[10]] * 3)

    def one(answer: int, wrong: int) -> torch.Tensor:
        return direct_attribution(runner, tokens, where, answer=answer, wrong=wrong).heads

    both = direct_attribution(runner, tokens, where, answer=[[5, 6], [5], [6]], wrong=[[7], [8], [7]]).heads
    torch.testing.assert_close(both[0], (one(5, 7)[0] + one(6, 7)[0]) / 2)
    torch.testing.assert_close(both[1], one(5, 8)[1])
    torch.testing.assert_close(both[2], one(6, 7)[2])


def test_unequal_lengths_and_batches_change_nothing(loaded: Callable[[str], Runner]):
    runner, tokens = loaded("gemma2"), prompts(loaded("gemma2"))
    ragged = [tokens[0], tokens[1, :5], tokens[2]]
    out = direct_attribution(runner, ragged, POSITIONS, answer=ANSWER, wrong=WRONG)
    real = POSITIONS >= 0
    torch.testing.assert_close(out.heads[real], attributed(runner).heads[real], atol=1e-5, rtol=1e-5)


def test_interventions_act_and_those_that_break_the_sum_are_refused(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    with runner.intervene(replace("blocks.1.attn.hook_z", 0.0, heads=[2])):
        out = attributed(runner)
    assert abs(out.heads[0, 0, 1, 2]) < 1e-12
    assert out.error < 1e-4 * out.largest
    zeroed = replace("blocks.1.hook_attn_out", 0.0)
    with runner.intervene(zeroed), pytest.raises(MechlistError, match="an intervention replaces what they add up to"):
        attributed(runner)


def test_published_numbers_are_measured_alike(shared: Path):
    """The quantity of GPT-2's published numbers (`mechlist check gpt2`), another implementation, gives the same."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-tokenizer")
    runner = built(d_vocab=50257, normalization_type="LN", d_mlp=32, act_fn="gelu_new")
    runner = Runner(runner.model, progress=False)
    runner.model.set_tokenizer(tokenizer)
    pair = Pair(prompt="When John and Mary went to the shops, John gave the bag to", answer=" Mary", wrong=" John")
    ids = [runner.to_tokens(text, prepend_bos=False)[0] for text in (pair.answer, pair.wrong)]
    tokens = torch.tensor([runner.to_tokens(pair.prompt, prepend_bos=False)])
    where = torch.tensor([[tokens.shape[1] - 1]])
    out = direct_attribution(runner, tokens, where, answer=ids[0], wrong=ids[1])
    places = [(layer, head) for layer in range(runner.shape.n_layers) for head in range(runner.shape.n_heads)]
    expected = direct_logit_attribution(runner.language_model, pairs=[pair], heads=places, bos=False)
    np.testing.assert_allclose(out.heads[0, 0].flatten(), expected.detach(), atol=1e-4 * out.largest)


def test_what_cannot_be_taken_apart_is_refused(loaded: Callable[[str], Runner]):
    with pytest.raises(InputError, match="must take the model's layers apart, and cannot: its attention favours near"):
        attributed(loaded("mpt"))
    runner, tokens = loaded("gpt2"), prompts(loaded("gpt2"))
    for changes, words in (
        ({"wrong": ANSWER}, "answer and wrong must be different tokens; for prompt 0 both have 5"),
        ({"answer": 97}, "answer must be token ids from 0 to 96"),
    ):
        with pytest.raises(InputError, match=words):
            direct_attribution(runner, tokens, POSITIONS, **({"answer": ANSWER, "wrong": WRONG} | changes))
    with pytest.raises(InputError, match="positions must have one row for each of the 3 prompts, not 2"):
        direct_attribution(runner, tokens, POSITIONS[:2], answer=ANSWER, wrong=WRONG)
    with pytest.raises(InputError, match="no prompt has any"):
        direct_attribution(runner, tokens, POSITIONS * 0 - 1, answer=ANSWER, wrong=WRONG)
    with pytest.raises(InputError, match="Position 11 is outside prompt 0"):
        direct_attribution(runner, tokens, POSITIONS.clamp(min=0) + 1, answer=ANSWER, wrong=WRONG)
