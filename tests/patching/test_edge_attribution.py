"""edge_scores: against finite differences, exact patching, and a circuit that was built by hand."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mechlist.datasets.pairs.induction import induction_pairs
from mechlist.errors import InputError
from mechlist.metrics.answers import LogitDifference, LogProb, Rank
from mechlist.models.quiet import quiet
from mechlist.patching import edge_attribution
from mechlist.patching.circuits.runs import EdgeRuns
from mechlist.patching.edge_attribution import edge_scores
from mechlist.patching.edges import nodes_of, run_edges
from mechlist.patching.replacements import Mean
from mechlist.runner import Runner
from tests.hooked import HookedTransformer, HookedTransformerConfig, needs_hooked
from tests.patching.hand_built import CIRCUIT, VOCAB, hand_built
from tests.patching.live_bytes import LiveBytes

METRIC = LogitDifference(answer=5, wrong=6)
LENGTH = 7


def tokens(runner: Runner, prompts: int = 2, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base, source = (torch.randint(9, runner.shape.d_vocab, (prompts, length), generator=generator) for _ in range(2))
    return base, source


def precise(runner: Runner) -> Runner:
    module = copy.deepcopy(runner.model).double()
    module.cfg.dtype = torch.float64
    return Runner(module, progress=False)


def slopes(runner: Runner, base: Tensor, carried: Callable[[Tensor], Tensor], edges: list[tuple[int, int]]) -> Tensor:
    """Derivative of the metric with respect to a mask on each edge, by differences in float64."""
    nodes, size = nodes_of(runner), 1e-4
    runs = EdgeRuns(runner.language_model.require_layers("The test"), nodes)
    sets = torch.zeros(len(edges), *nodes.reads.shape, dtype=torch.bool)
    for number, edge in enumerate(edges):
        sets[number][edge] = True
    with torch.no_grad():
        own = runs.written(base)
        change = carried(own) - own
        values = []
        for sign in (1, -1):
            read = torch.full((len(base), 1), base.shape[1] - 1)
            final = runs.finals(base, own + sign * size * change, sets, read)[:, :, 0]
            logits = runner.language_model.unembed(final, None)
            values.append(logits[..., 5] - logits[..., 6])
    return (values[0] - values[1]) / (2 * size)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "pythia", "qwen2"])
@needs_hooked
def test_eap_is_the_gradient_of_a_mask_on_each_edge(loaded: Callable[[str], Runner], architecture: str):
    runner = precise(loaded(architecture))
    base, source = tokens(runner)
    nodes = nodes_of(runner)
    runs = EdgeRuns(runner.language_model.require_layers("The test"), nodes)
    edges = [tuple(edge) for edge in nodes.edges[:: max(1, len(nodes.edges) // 60)].tolist()]
    expected = slopes(runner, base, lambda own: runs.written(source), edges)
    found = edge_scores(runner, base=base, source=source, metric=METRIC).scores
    chosen = torch.stack([found[:, s, r] for s, r in edges])
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(chosen.double(), expected.double(), rtol=1e-3, atol=1e-6)
    assert not found[:, ~nodes.reads].any()


def test_mean_sources_and_unequal_lengths(loaded: Callable[[str], Runner]):
    runner = precise(loaded("gpt2"))
    base, others = tokens(runner)
    nodes = nodes_of(runner)
    runs = EdgeRuns(runner.language_model.require_layers("The test"), nodes)
    edges = [tuple(edge) for edge in nodes.edges[::9].tolist()]
    expected = slopes(runner, base, lambda own: runs.written(others).mean(0, keepdim=True), edges)
    found = edge_scores(runner, base=base, source=Mean(others), metric=METRIC).scores
    chosen = torch.stack([found[:, s, r] for s, r in edges])
    torch.testing.assert_close(chosen.double(), expected.double(), rtol=1e-3, atol=1e-6)
    lengths = torch.tensor([LENGTH, 4])
    padded = edge_scores(runner, base=base, source=others, metric=METRIC, lengths=lengths, steps=3).scores
    alone = edge_scores(runner, base=base[1:, :4], source=others[1:, :4], metric=METRIC, steps=3).scores
    torch.testing.assert_close(padded[1:], alone, rtol=0, atol=1e-6)


@needs_hooked
def test_eap_ig_averages_gradients_on_the_way_between_the_embeddings(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner, prompts=1)
    nodes = nodes_of(runner)
    found = edge_scores(runner, base=base, source=source, metric=METRIC, steps=2).scores
    # By hand, for the input's edge to the logits: forward passes from embeddings half way and all the way.
    model, total = runner.model, 0.0
    embedded = [model.embed(t) + model.pos_embed(t) for t in (base, source)]
    for share in (0.5, 1.0):
        x = (embedded[1] + share * (embedded[0] - embedded[1])).detach()
        kept: dict[str, Tensor] = {}

        def keep(resid: Tensor, hook: Any, kept: dict[str, Tensor] = kept) -> Tensor:
            kept["at"] = resid.detach().requires_grad_()
            return kept["at"]

        last = f"blocks.{runner.shape.n_layers - 1}.hook_resid_post"
        hooks = [("blocks.0.hook_resid_pre", lambda r, hook, x=x: x), (last, keep)]
        with torch.enable_grad():
            logits = model.run_with_hooks(base, fwd_hooks=hooks)[0, -1]
            (gradient,) = torch.autograd.grad(logits[5] - logits[6], kept["at"])
        total += float(((embedded[1] - embedded[0]) * gradient).sum().detach()) / 2
    assert float(found[0, 0, -1]) == pytest.approx(total, rel=1e-4)
    assert nodes.receivers[-1].name == "logits"


def test_pieces_and_batches_do_not_change_scores(loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch):
    runner = loaded("gemma2")
    base, source = tokens(runner, prompts=3)
    whole = edge_scores(runner, base=base, source=source, metric=METRIC, steps=2)
    monkeypatch.setattr(edge_attribution, "PIECE_BYTES", 20_000)
    tight = Runner(runner.model, memory="3MB", progress=False)
    pieces = edge_scores(tight, base=base, source=source, metric=METRIC, steps=2)
    torch.testing.assert_close(whole.scores, pieces.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.base, pieces.base, rtol=0, atol=1e-5)


def test_the_dense_tensor_of_what_every_sender_writes_is_never_there(monkeypatch: pytest.MonkeyPatch):
    with quiet():
        cfg = HookedTransformerConfig(
            n_layers=2, n_heads=32, d_model=128, d_head=2, d_vocab=50, n_ctx=16, attn_only=True, seed=0
        )
        runner = Runner(HookedTransformer(cfg).eval(), progress=False)
    base, source = tokens(runner, prompts=32, length=12)
    dense = 4 * base.numel() * len(nodes_of(runner).senders) * runner.shape.d_model
    monkeypatch.setattr(edge_attribution, "PIECE_BYTES", dense // 50)
    with LiveBytes() as live:
        edge_scores(runner, base=base, source=source, metric=METRIC)
    assert live.peak < dense


def hand_pairs() -> tuple[Runner, Any, dict[str, Any]]:
    runner = hand_built()
    found = induction_pairs(16, 14, VOCAB, 0, torch.Generator().manual_seed(1))
    metric = LogitDifference(answer=found.answer, wrong=found.wrong)
    return runner, found, {"base": found.clean, "source": found.corrupt, "metric": metric}


def test_the_hand_built_model_does_induction():
    runner, pairs, _ = hand_pairs()
    logits = runner.logits(pairs.clean, positions=-1)[:, 0]
    assert torch.equal(logits.argmax(-1), pairs.answer)
    assert torch.equal(runner.logits(pairs.corrupt, positions=-1)[:, 0].argmax(-1), pairs.wrong)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_hand_built_circuit_is_found_edge_by_edge(steps: int):
    runner, _, asked = hand_pairs()
    nodes = nodes_of(runner)
    scores = edge_scores(runner, **asked, steps=steps).scores.mean(0)[nodes.reads].abs()
    order = torch.argsort(-scores)
    assert {nodes.edge_names[i] for i in order[:3].tolist()} == CIRCUIT
    assert scores[order[3]] < 0.1 * scores[order[2]]
    # Heads that nothing reads, and that read only positions, have no effect at all.
    idle = [i for i, name in enumerate(nodes.edge_names) if "a1.h1" in name or "a1.h3" in name or "a0.h3->" in name]
    assert not scores[idle].any()


def test_exact_effects_of_the_hand_built_edges_agree_with_their_names():
    runner, _, asked = hand_pairs()
    nodes = nodes_of(runner)
    sets = torch.zeros(len(nodes.edges), *nodes.reads.shape, dtype=torch.bool)
    for number, (s, r) in enumerate(nodes.edges.tolist()):
        sets[number, s, r] = True
    base = run_edges(runner, **asked, patched=torch.zeros_like(sets[:1])).double()
    effect = (run_edges(runner, **asked, patched=sets).double() - base).mean(1).abs().numpy()
    order = np.argsort(-effect)
    assert {nodes.edge_names[i] for i in order[:3]} == CIRCUIT
    assert effect[order[2]] > 0.9 * base.mean()
    assert effect[order[3]] < 0.05 * base.mean()


def test_bad_input(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    with pytest.raises(InputError, match="steps must be 1 or more"):
        edge_scores(runner, base=base, source=source, metric=METRIC, steps=0)
    with pytest.raises(InputError, match="has no gradient"):
        edge_scores(runner, base=base, source=source, metric=Rank(answer=5))
    with pytest.raises(InputError, match="cannot be patched, because"):
        edge_scores(loaded("mpt"), base=base, source=source, metric=METRIC)
    quantised = Runner(copy.deepcopy(runner.model), progress=False)
    quantised.model.cfg.load_in_4bit = True
    with pytest.raises(InputError, match="The weights are quantised, and have no gradients"):
        edge_scores(quantised, base=base, source=source, metric=METRIC)


def test_gradients_of_log_probabilities(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    assert edge_scores(runner, base=base, source=source, metric=LogProb(answer=5)).scores.abs().max() > 0
