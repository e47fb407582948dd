"""Attribution to a prompt's tokens: each method against a slow, obvious computation."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.attention import attention_rollout, value_weighted_attention
from mechlist.models.quiet import quiet
from mechlist.patching.tokens.attention import last_attention
from mechlist.patching.tokens.gradients import gradient_times_input, integrated_gradients
from mechlist.patching.tokens.inputs import INPUT, answer_log_probs, input_of, input_statistics
from mechlist.patching.tokens.removal import deletion_curves, leave_one_out, mask_out
from mechlist.patching.tokens.tracing import causal_trace, noise, noise_each
from mechlist.runner import Runner, replace
from tests.conftest import HfDirectory

PROMPT, ANSWER = [5, 17, 4, 33, 8, 61, 2, 9, 40, 11], 23
"""Longer than the window of 8."""
ARCHITECTURES = ["gpt2", "llama", "gemma2", "stablelm"]
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
Loaded = Callable[[str], Runner]


def log_prob(runner: Runner, tokens: list[int]) -> float:
    return float(runner.logits([tokens])[0, -1].double().log_softmax(0)[ANSWER])


def log_prob_of_input(runner: Runner, value: Float[Tensor, "position d_model"]) -> float:
    """With an input of the first layer put in by hand."""
    with runner.intervene(replace(INPUT, value[None])):
        return log_prob(runner, PROMPT)


@architectures
def test_answers_are_those_of_whole_logits(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    found = answer_log_probs(runner, [PROMPT, PROMPT[:4]], ANSWER)
    assert found.tolist() == pytest.approx([log_prob(runner, PROMPT), log_prob(runner, PROMPT[:4])], abs=1e-4)


@architectures
def test_leaving_out_a_token_shortens_the_prompt(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    whole = log_prob(runner, PROMPT)
    expected = [whole - log_prob(runner, PROMPT[:i] + PROMPT[i + 1 :]) for i in range(len(PROMPT))]
    assert leave_one_out(runner, PROMPT, ANSWER).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_masked_tokens_are_those_of_hugging_faces_mask(loaded: Loaded, hf_directory: HfDirectory, architecture: str):
    runner = loaded(architecture)
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            hf_directory(architecture), attn_implementation="eager"
        )
    tokens, places = torch.tensor([PROMPT]), torch.arange(len(PROMPT))[None]

    def told(*hidden: int) -> float:
        mask = torch.ones_like(tokens)
        mask[0, list(hidden)] = 0
        with torch.no_grad():
            logits = model(tokens, attention_mask=mask, position_ids=places).logits
        return float(logits[0, -1].double().log_softmax(0)[ANSWER])

    # Hugging Face hides a token from itself, too: only where it is the last does that show.
    found = mask_out(runner, PROMPT, ANSWER)[:-1]
    assert found.tolist() == pytest.approx([told() - told(i) for i in range(len(PROMPT) - 1)], abs=1e-4)
    order = [3, 0, 7, 5]
    curve = deletion_curves(runner, PROMPT, ANSWER, [order, order[::-1]])
    assert curve[0].tolist() == pytest.approx([told(*order[:n]) for n in range(5)], abs=1e-4)
    assert curve[1, 2].item() == pytest.approx(told(5, 7), abs=1e-4)
    assert curve[1, -1].item() == pytest.approx(curve[0, -1].item(), abs=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "stablelm"])
def test_a_masked_token_is_read_by_no_other(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    removed = torch.zeros(1, len(PROMPT), dtype=torch.bool)
    removed[0, 4] = True
    other = [*PROMPT[:4], 90, *PROMPT[5:]]
    curves = [deletion_curves(runner, tokens, ANSWER, [[4]])[0] for tokens in (PROMPT, other)]
    # What the token is makes no difference once it is out of sight.
    assert curves[0][1].item() == pytest.approx(curves[1][1].item(), abs=1e-5)
    assert abs(curves[0][0].item() - curves[1][0].item()) > 1e-3


@architectures
def test_gradients_are_those_of_finite_differences(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    there = input_of(runner, PROMPT)
    found = gradient_times_input(runner, PROMPT, ANSWER)
    step = 1e-2
    for position in (0, 3, len(PROMPT) - 1):
        ends = []
        for sign in (1, -1):
            value = there.clone()
            value[position] *= 1 + sign * step
            ends.append(log_prob_of_input(runner, value))
        assert float(found[position]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-2, rel=2e-2)


@architectures
def test_integrated_gradients_add_up(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    baseline = input_statistics(runner, len(PROMPT)).mean
    found = integrated_gradients(runner, PROMPT, ANSWER, baseline=baseline, steps=64)
    whole = log_prob(runner, PROMPT) - log_prob_of_input(runner, baseline.float())
    assert abs(found.gap) < 0.02
    assert float(found.score.sum()) == pytest.approx(whole + found.gap, abs=1e-3)
    # Equal steps, as the definition has them, come to the same.
    way, total = input_of(runner, PROMPT).double() - baseline, torch.zeros(len(PROMPT), dtype=torch.float64)
    shares = (torch.arange(200) + 0.5) / 200
    from mechlist.patching.tokens.gradients import _gradients

    for share in shares.split(50):
        rows = (baseline + share[:, None, None] * way).float()
        gradient = _gradients(runner, PROMPT, ANSWER, rows)["gradient"].double()
        total += (gradient * way).sum(-1).sum(0) / 200
    torch.testing.assert_close(found.score, total, atol=0.02, rtol=0.05)


@architectures
def test_attention_of_the_last_position(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    layers = range(runner.shape.n_layers)
    patterns = torch.stack(
        [runner.capture([PROMPT], f"blocks.{n}.attn.hook_pattern")[f"blocks.{n}.attn.hook_pattern"][0] for n in layers]
    )
    found = last_attention(runner, PROMPT, -1)
    torch.testing.assert_close(found.mean.float(), patterns[-1, :, -1].mean(0))
    assert found.mean.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found.pattern, patterns[-1])
    flow = np.eye(len(PROMPT))
    for layer in patterns.double().mean(1).numpy():
        flow = 0.5 * (layer + np.eye(len(PROMPT))) @ flow
    np.testing.assert_allclose(found.rollout.numpy(), flow[-1], atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "stablelm"])
def test_values_weigh_what_heads_add(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    found = last_attention(runner, PROMPT, 1).value_weighted
    hooks = {name: f"blocks.1.attn.hook_{name}" for name in ("pattern", "v")}
    kept = runner.capture([PROMPT], *hooks.values())
    pattern, values = kept[hooks["pattern"]][0, :, -1], kept[hooks["v"]][0]
    heads, shared = runner.shape.n_heads, runner.shape.n_heads // runner.shape.n_key_value_heads
    expected = torch.zeros(len(PROMPT))
    for head in range(heads):
        for key in range(len(PROMPT)):
            added = pattern[head, key] * values[key, head // shared] @ runner.model.blocks[1].attn.W_O[head].detach()
            expected[key] += added.norm() / heads
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-4)


def test_rollout_of_two_layers_by_hand():
    first = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.3, 0.7]]])
    second = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    found = attention_rollout(torch.stack([first, second]))
    # Mean attention of the second position: .4 and .6, then .5 and .5; mixed with the stream: .2/.8, then .25/.75.
    torch.testing.assert_close(found[1], torch.tensor([0.25 + 0.75 * 0.2, 0.75 * 0.8], dtype=torch.float64))


def test_value_weights_by_hand():
    weights, values = torch.tensor([[0.25, 0.75]]), torch.tensor([[[3.0]], [[1.0]]])
    found = value_weighted_attention(weights, values, torch.tensor([[[3.0, 4.0]]]))
    torch.testing.assert_close(found, torch.tensor([[3.75, 3.75]], dtype=torch.float64))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "stablelm"])
def test_the_spread_of_embeddings_is_the_vocabularys(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    found = input_statistics(runner, len(PROMPT))
    weight = runner.model.W_E.detach().double()
    assert found.deviation == pytest.approx(float((weight - weight.mean(0)).pow(2).mean().sqrt()), rel=0.05)
    own = input_of(runner, PROMPT).double() - weight[PROMPT]
    expected = weight.mean(0) + (own if architecture == "gpt2" else 0)
    assert float((found.mean - expected).abs().mean()) < 0.2 * found.deviation


@architectures
def test_noise_is_put_on_one_embedding_at_a_time(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    there, drawn = input_of(runner, PROMPT), noise(runner, len(PROMPT), 2, 3.0)
    assert float(drawn.std()) == pytest.approx(3 * input_statistics(runner, len(PROMPT)).deviation, rel=0.1)
    found = noise_each(runner, PROMPT, ANSWER, draws=2)
    for draw, position in ((0, 0), (1, 4), (0, len(PROMPT) - 1)):
        value = there.clone()
        value[position] += drawn[draw, position]
        expected = log_prob(runner, PROMPT) - log_prob_of_input(runner, value)
        assert float(found[draw, position]) == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(noise(runner, len(PROMPT), 1, 3.0), drawn[:1])


@architectures
def test_restored_states_are_those_of_the_clean_run(loaded: Loaded, architecture: str):
    runner = loaded(architecture)
    found = causal_trace(runner, PROMPT, ANSWER, [3, -2], draws=3)
    drawn = noise(runner, len(PROMPT), 3, 3.0)
    hooks = [f"blocks.{n}.hook_resid_pre" for n in range(runner.shape.n_layers)]
    clean = runner.capture([PROMPT], *hooks)
    gains = np.zeros((3, len(hooks)))
    for draw in range(3):
        value = input_of(runner, PROMPT).clone()
        value[[3, -2]] += drawn[draw, [3, -2]]
        base = log_prob_of_input(runner, value)
        assert found["noised"].values[draw] == pytest.approx(base, abs=1e-4)
        for layer, hook in enumerate(hooks):
            state = replace(hook, clean[hook][:, [5]], positions=[5])
            with runner.intervene(replace(INPUT, value[None]), state):
                gains[draw, layer] = log_prob(runner, PROMPT) - base
    np.testing.assert_allclose(found["restored"].values[:, 5], gains.mean(0), atol=1e-4)
    assert found["clean"].item() == pytest.approx(log_prob(runner, PROMPT), abs=1e-4)
    # Restoring the last position in the last layer leaves only what attention reads there.
    assert found["restored"].dims == ("layer", "position")
    assert (found["restored_low"] <= found["restored"] + 1e-9).all()
    assert (found["restored"] <= found["restored_high"] + 1e-9).all()
    # A position before the noise is as it was: restoring it changes nothing.
    assert np.abs(found["restored"].values[:, :3]).max() < 1e-4


def test_what_cannot_be_is_refused(loaded: Loaded):
    runner = loaded("gpt2")
    with pytest.raises(InputError, match="takes a prompt of two tokens at least"):
        leave_one_out(runner, [5], ANSWER)
    with pytest.raises(InputError, match="steps must be at least 2, not 1"):
        integrated_gradients(runner, PROMPT, ANSWER, baseline=input_of(runner, PROMPT), steps=1)
    with pytest.raises(InputError, match=r"subject must be positions of the prompt's 10 tokens, not \[10\]"):
        causal_trace(runner, PROMPT, ANSWER, [10], draws=2)
    with pytest.raises(InputError, match=r"subject must be positions of the prompt's 10 tokens, not \[\]"):
        causal_trace(runner, PROMPT, ANSWER, [], draws=2)
    with pytest.raises(InputError, match="draws must be at least 1 and deviations above 0, not 0 and 3"):
        noise(runner, 4, 0, 3.0)
    with (
        runner.intervene(replace(INPUT, 0.0)),
        pytest.raises(InputError, match="Gradients of embeddings do not take interventions"),
    ):
        gradient_times_input(runner, PROMPT, ANSWER)
