"""Attribution to features: the identity, the spliced pass-through gradient, finite differences, planted features."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mechlist.errors import MechlistError
from mechlist.metrics.answers import LogitDifference, LogProb
from mechlist.runner import Intervention, Rows, Runner
from mechlist.sae.ablation import exact_effects
from mechlist.sae.attribution import SUMMED, Site, feature_attribution
from mechlist.sae.edges import upstream
from mechlist.sae.load import load_sae, places
from mechlist.sae.sae import Sae
from mechlist.sae.stream import integrated_gradient
from mechlist.sae.traces import Question, Traces, trace
from tests.patching.hand_built import VOCAB, hand_built, slot
from tests.sae.saes_for_tests import write_lens

pytest.importorskip("sae_lens")
HOOKS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
LENGTHS = torch.tensor([9, 7])
ANSWER, WRONG = 5, 6


@pytest.fixture
def runner(loaded: Callable[[str], Runner]) -> Runner:
    return loaded("gemma2")


@pytest.fixture
def saes(tmp_path: Path) -> list[Sae]:
    folders = [write_lens(tmp_path / str(i), 32, 96, hook, kind="jumprelu", seed=i) for i, hook in enumerate(HOOKS)]
    return [load_sae(place) for place in places([str(folder) for folder in folders])]


def question(metric: Any = None) -> Question:
    tokens = torch.randint(9, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    return Question(tokens=tokens, lengths=LENGTHS, metric=metric or LogitDifference(answer=ANSWER, wrong=WRONG))


def counted() -> Tensor:
    """All real positions but the first."""
    where = torch.arange(9)
    return (where > 0) & (where < LENGTHS[:, None])


def site(traces: Traces, hook: str) -> Site:
    return Site(traces.x[hook], traces.g[hook])


def dense(traces: Traces, sae: Sae, where: Tensor | None = None) -> Tensor:
    """Attribution [prompt, position, feature], put together from all of the ranks."""
    where = counted() if where is None else where
    found = feature_attribution(sae, site(traces, sae.hook), where, 9 * 96)
    out = torch.zeros(2, 9, 96)
    for i in range(2):
        there = found.feature[i] >= 0
        out[i, found.position[i][there], found.feature[i][there]] = found.attribution[i][there]
    return out


def spliced(runner: Runner, asked: Question, saes: list[Sae]) -> tuple[Tensor, list[Tensor]]:
    """The metric with SAEs spliced in, errors passed through, and f x gradient of f at each; by autograd alone."""
    leaves: list[Tensor] = []

    def splice(sae: Sae, x: Tensor, hook: object) -> Tensor:
        f = sae.encode(x.detach()).requires_grad_()
        leaves.append(f)
        out = f @ sae.decoder + sae.bias
        return out + (x - out.detach())

    model = runner.model
    with torch.enable_grad():
        fwd = [(sae.hook, partial(splice, sae)) for sae in saes]
        logits = model.run_with_hooks(asked.tokens, fwd_hooks=fwd)
        last = logits[torch.arange(2), LENGTHS - 1]
        metric = last[:, ANSWER] - last[:, WRONG]
        gradients = torch.autograd.grad(metric.sum(), leaves)
    return metric.detach(), [(f.detach() * g) for f, g in zip(leaves, gradients, strict=True)]


@pytest.mark.parametrize("metric", [LogitDifference(answer=ANSWER, wrong=WRONG), LogProb(answer=ANSWER)])
def test_features_bias_and_error_add_up_to_x_times_g(runner: Runner, saes: list[Sae], metric: Any):
    traces = trace(runner, question(metric), HOOKS)
    for sae in saes:
        found = feature_attribution(sae, site(traces, sae.hook), counted(), 5)
        product = (traces.x[sae.hook].double() * traces.g[sae.hook].double()).sum(-1)
        torch.testing.assert_close(found.total, (product * counted()).sum(1))
        size = (found.features.abs() + found.bias.abs() + found.error.abs()).clamp(min=1e-9)
        missed = (found.features + found.bias + found.error - found.total).abs() / size
        assert float(missed.max()) < 1e-5
        assert float(found.features.abs().min()) > 0


def test_it_is_the_gradient_of_the_spliced_model_with_two_saes_at_once(runner: Runner, saes: list[Sae]):
    asked = question()
    traces = trace(runner, asked, HOOKS)
    metric, both = spliced(runner, asked, saes)
    torch.testing.assert_close(traces.base, metric, atol=1e-4, rtol=1e-4)
    for sae, own in zip(saes, both, strict=True):
        _, (alone,) = spliced(runner, asked, [sae])
        torch.testing.assert_close(own, alone, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(dense(traces, sae), own * counted()[..., None], atol=1e-6, rtol=1e-4)


def test_a_hook_alone_and_together_with_others_give_the_same(runner: Runner, saes: list[Sae]):
    together = trace(runner, question(), HOOKS)
    for sae in saes:
        alone = trace(runner, question(), [sae.hook])
        torch.testing.assert_close(alone.g[sae.hook], together.g[sae.hook])


def test_padding_has_neither_activation_nor_gradient(runner: Runner):
    traces = trace(runner, question(), HOOKS)
    for hook in HOOKS:
        assert not traces.x[hook][1, 7:].any()
        assert not traces.g[hook][1, 7:].any()
        assert traces.g[hook][1, :7].any()


def test_minus_a_metric_turns_the_sign(runner: Runner):
    asked = question(LogProb(answer=ANSWER))
    plain, turned = trace(runner, asked, HOOKS), trace(runner, replace(asked, sign=-1), HOOKS)
    torch.testing.assert_close(turned.base, -plain.base)
    torch.testing.assert_close(turned.g[HOOKS[0]], -plain.g[HOOKS[0]])


def test_finite_differences_of_a_feature_in_float64(runner: Runner, saes: list[Sae]):
    model = copy.deepcopy(runner.model).double()
    model.cfg.dtype = torch.float64
    own, asked, sae = Runner(model, progress=False), question(), saes[0]
    double = Sae(sae.name, sae.hook, sae.model, sae.neuronpedia, copy.deepcopy(sae.module).to(torch.float64))
    traces = trace(own, asked, [sae.hook])
    found = feature_attribution(double, site(traces, sae.hook), counted(), 3)

    def metric(prompt: int, position: int, change: Tensor) -> float:
        def edit(x: Tensor, hook: object) -> Tensor:
            out = x.clone()
            out[0, position] += change
            return out

        row = asked.tokens[prompt : prompt + 1, : int(LENGTHS[prompt])]
        with torch.no_grad():
            last = model.run_with_hooks(row, fwd_hooks=[(sae.hook, edit)])[0, -1]
        return float(last[ANSWER] - last[WRONG])

    step = 1e-5
    for prompt in range(2):
        for rank in range(3):
            feature, position = int(found.feature[prompt, rank]), int(found.position[prompt, rank])
            f = float(double.encode(traces.x[sae.hook][prompt, position].double())[feature])
            way = step * double.decoder[feature]
            slope = (metric(prompt, position, way) - metric(prompt, position, -way)) / (2 * step)
            assert float(found.attribution[prompt, rank]) == pytest.approx(f * slope, rel=1e-5)


def test_summed_over_positions_and_minus_another_run(runner: Runner, saes: list[Sae]):
    asked, sae = question(), saes[0]
    traces = trace(runner, asked, HOOKS)
    other = trace(runner, replace(asked, tokens=(asked.tokens + 1) % 97), HOOKS)
    whole = dense(traces, sae)
    summed = feature_attribution(sae, site(traces, sae.hook), counted(), 4, summed=True)
    assert bool((summed.position == SUMMED).all())
    expected = whole.sum(1).gather(1, summed.feature)
    torch.testing.assert_close(summed.attribution, expected)
    assert summed.attribution[0].abs().tolist() == sorted(summed.attribution[0].abs().tolist(), reverse=True)
    contrast = feature_attribution(sae, site(traces, sae.hook), counted(), 4, minus=site(other, sae.hook))
    difference = whole - dense(other, sae)
    rows = torch.arange(2)[:, None]
    torch.testing.assert_close(contrast.attribution, difference[rows, contrast.position, contrast.feature])
    assert float(contrast.attribution[0, 0].abs()) == pytest.approx(float(difference[0].abs().max()))


def test_ablating_is_editing_the_activation_by_hand(runner: Runner, saes: list[Sae]):
    asked, sae = question(), saes[1]
    traces = trace(runner, asked, HOOKS)
    found = feature_attribution(sae, site(traces, sae.hook), counted(), 3)
    prompt, feature = [0, 0, 1], [*found.feature[0, :2].tolist(), int(found.feature[1, 0])]
    position = [*found.position[0, :2].tolist(), SUMMED]
    where = [counted()[i].nonzero()[:, 0].tolist() for i in range(2)]
    exact = exact_effects(runner, sae, asked, prompt=prompt, feature=feature, position=position, counted=where)
    for row, (i, number, at) in enumerate(zip(prompt, feature, position, strict=True)):

        def edit(x: Tensor, hook: object, i: int = i, number: int = number, at: int = at) -> Tensor:
            f, out = sae.encode(x), x.clone()
            error = x - sae.decode(f)
            places = where[i] if at == SUMMED else [at]
            f[0, places, number] = 0
            out[0, places] = (sae.decode(f) + error)[0, places]
            return out

        tokens = asked.tokens[i : i + 1, : int(LENGTHS[i])]
        with torch.no_grad():
            last = runner.model.run_with_hooks(tokens, fwd_hooks=[(sae.hook, edit)])[0, -1]
        metric = float(last[ANSWER] - last[WRONG])
        assert float(exact[row]) == pytest.approx(float(traces.base[i]) - metric, abs=1e-4)


def test_an_ablation_that_changes_nothing_is_an_error(runner: Runner, saes: list[Sae]):
    asked, sae = question(), saes[0]
    traces = trace(runner, asked, HOOKS)
    found = feature_attribution(sae, site(traces, sae.hook), counted(), 1)
    number, at = int(found.feature[0, 0]), int(found.position[0, 0])
    with torch.no_grad():
        sae.module.W_dec[number] = 0
    with pytest.raises(MechlistError, match=f"Setting feature {number} of .* to 0 at position {at} of list 0 leaves"):
        exact_effects(runner, sae, asked, prompt=[0], feature=[number], position=[at], counted=[[at], []])


def test_planted_features_are_found_at_rank_1(tmp_path: Path):
    """In the hand-built induction model, an SAE with one feature for each entry of the residual stream."""
    runner = hand_built()
    width = runner.shape.d_model
    sae = load_sae(places([str(write_lens(tmp_path / "sae", width, 2 * width, "blocks.1.hook_resid_post"))])[0])
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    with torch.no_grad():
        sae.module.W_dec[:], sae.module.W_enc[:] = both, both.T
        sae.module.b_enc[:], sae.module.b_dec[:] = 0, 0
    tokens, answer, wrong = torch.tensor([[3, 17, 8, 21, 9, 17]]), 8, 30
    asked = Question(tokens=tokens, lengths=torch.tensor([6]), metric=LogitDifference(answer=answer, wrong=wrong))
    traces = trace(runner, asked, [sae.hook])
    found = feature_attribution(sae, site(traces, sae.hook), torch.ones(1, 6, dtype=torch.bool), 2)
    written = slot("written").start + answer
    assert (int(found.feature[0, 0]), int(found.position[0, 0])) == (written, 5)
    assert written < slot("written").start + VOCAB
    # What follows is linear here, so that attribution is exact.
    exact = exact_effects(runner, sae, asked, prompt=[0], feature=[written], position=[5], counted=[list(range(6))])
    assert float(exact[0]) == pytest.approx(float(found.attribution[0, 0]), rel=1e-4)
    assert float(found.error.abs().max()) < 1e-4


def test_integrated_gradients_add_up_to_what_is_lost_without_the_features(runner: Runner, saes: list[Sae]):
    sae, where, asked = saes[0], counted(), question()
    traces = trace(runner, asked, [sae.hook])
    g = integrated_gradient(runner, sae, asked, where, 32)
    found = feature_attribution(sae, Site(traces.x[sae.hook], g), where, 1)

    def without(activation: Tensor, rows: Rows) -> Tensor:
        here, out = where[rows.index], activation.clone()
        out[here] -= sae.decode(sae.encode(out[here])) - sae.bias
        return out

    with runner.intervene(Intervention(sae.hook, without)):
        lost = traces.base - trace(runner, asked, [sae.hook]).base
    torch.testing.assert_close(found.features.float(), lost.float(), atol=2e-3, rtol=2e-2)
    plain = feature_attribution(sae, site(traces, sae.hook), where, 1)
    assert (plain.features - lost).abs().sum() > 5 * (found.features - lost).abs().sum()


def test_gradients_of_a_later_feature_are_finite_differences(runner: Runner, saes: list[Sae]):
    earlier, later = saes
    row, at = question().tokens[0], 8
    x = runner.capture([row], later.hook)[later.hook]
    feature = int(later.encode(x[0, at]).argmax())
    site = upstream(runner, earlier.hook, later, feature, [row], [at])
    direction = torch.randn(site.x.shape, generator=torch.Generator().manual_seed(3))

    def value(step: float) -> float:
        moved = Intervention(earlier.hook, lambda activation, rows: activation + step * direction)
        with runner.intervene(moved):
            return float(later.encode(runner.capture([row], later.hook)[later.hook][0, at])[feature])

    found = (value(1e-3) - value(-1e-3)) / 2e-3
    assert float((site.g * direction).sum()) == pytest.approx(found, rel=2e-2, abs=2e-3)
