"""run_edges: against TransformerLens's own split inputs, edge by edge, and against what must hold of any model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.answers import LogitDifference
from mechlist.metrics.distributions import KLFromBase
from mechlist.patching.circuits.nodes import Nodes
from mechlist.patching.circuits.runs import EdgeRuns
from mechlist.patching.edge_attribution import edge_scores
from mechlist.patching.edges import nodes_of, run_edges
from mechlist.patching.grid import patch_grid
from mechlist.patching.path import path_patch
from mechlist.patching.replacements import Mean
from mechlist.runner import Runner, replace
from tests.hooked import needs_hooked

METRIC = LogitDifference(answer=5, wrong=6)
ARCHITECTURES = ["gpt2", "llama", "gemma", "gemma2", "pythia", "qwen2"]
LENGTH = 11


def tokens(runner: Runner, prompts: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base, source = (torch.randint(9, runner.shape.d_vocab, (prompts, LENGTH), generator=generator) for _ in range(2))
    return base, source


def measured(runner: Runner, rows: Tensor) -> Tensor:
    logits = runner.model(rows)[:, -1]
    return logits[:, 5] - logits[:, 6]


def some_edges(nodes: Nodes, seed: int, share: float) -> Tensor:
    return nodes.reads & (torch.rand(nodes.reads.shape, generator=torch.Generator().manual_seed(seed)) < share)


def by_hooks(runner: Runner, base: Tensor, source: Tensor, patched: Tensor) -> Tensor:
    """The definition, by TransformerLens's hooks on what each head and MLP reads and writes."""
    model = runner.model
    flags = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")
    try:
        for flag in flags:
            setattr(model.cfg, flag, True)
        return recorded_metric(runner, base, recorded(runner, source), patched)
    finally:
        for flag in flags:
            setattr(model.cfg, flag, False)


def writers(runner: Runner) -> dict[str, str]:
    """Hook of what senders add, by name; that of heads has an axis of heads."""
    shape = runner.shape
    out = {f"a{n}": f"blocks.{n}.attn.hook_result" for n in range(shape.n_layers)}
    return (
        out
        | {f"m{n}": f"blocks.{n}.hook_mlp_out" for n in range(shape.n_layers)}
        | {"input": "blocks.0.hook_resid_pre"}
    )


def recorded(runner: Runner, rows: Tensor) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda x, hook: kept.__setitem__(name, x.clone())

    runner.model.run_with_hooks(rows, fwd_hooks=[(hook, keep(name)) for name, hook in writers(runner).items()])
    return kept


def recorded_metric(runner: Runner, base: Tensor, there: dict[str, Tensor], patched: Tensor) -> Tensor:
    nodes, now = Nodes(runner.shape), dict[str, Tensor]()

    def keep(name: str) -> Any:
        return lambda x, hook: now.__setitem__(name, x.clone())

    def difference(sender: int) -> Tensor:
        one = nodes.senders[sender]
        name = one.name.split(".")[0]
        gap = there[name] - now[name]
        return gap if one.head is None else gap[:, :, one.head]

    def change(kind: str, layer: int) -> Any:
        def hook(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            for number, one in enumerate(nodes.receivers):
                if (one.kind, one.layer) != (kind, layer):
                    continue
                for sender in patched[:, number].nonzero()[:, 0].tolist():
                    if kind in ("q", "k", "v"):
                        x[:, :, one.head] += difference(sender)
                    else:
                        x += difference(sender)
            return x

        return hook

    n = runner.shape.n_layers
    hooks: list[Any] = [(hook, keep(name)) for name, hook in writers(runner).items()]
    for layer in range(n):
        hooks += [(f"blocks.{layer}.hook_{kind}_input", change(kind, layer)) for kind in "qkv"]
        hooks.append((f"blocks.{layer}.hook_mlp_in", change("mlp", layer)))
    hooks.append((f"blocks.{n - 1}.hook_resid_post", change("logits", n)))
    logits = runner.model.run_with_hooks(base, fwd_hooks=hooks)[:, -1]
    return logits[:, 5] - logits[:, 6]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_any_set_of_edges_is_what_hooks_on_every_input_give(
    loaded: Callable[[str], Runner], architecture: str, share: float
):
    runner = loaded(architecture)
    base, source = tokens(runner)
    patched = some_edges(nodes_of(runner), 1, share)
    found = run_edges(runner, base=base, source=source, patched=patched[None], metric=METRIC)
    with torch.no_grad():
        expected = by_hooks(runner, base, source, patched)
    assert (expected - measured(runner, base)).abs().max() > 1e-3
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@needs_hooked
def test_no_edge_all_edges_and_all_edges_of_a_head(loaded: Callable[[str], Runner], architecture: str):
    runner = loaded(architecture)
    base, source = tokens(runner)
    nodes = nodes_of(runner)
    head = torch.zeros_like(nodes.reads)
    sender = nodes.sender("a1.h2")
    head[sender] = nodes.reads[sender]
    sets = torch.stack([torch.zeros_like(nodes.reads), nodes.reads, head])
    found = run_edges(runner, base=base, source=source, patched=sets, metric=METRIC)
    with torch.no_grad():
        expected = [measured(runner, base), measured(runner, source)]
        if not runner.model.cfg.use_normalization_before_and_after:
            z = runner.capture(source, "blocks.1.attn.hook_z")["blocks.1.attn.hook_z"]

            def put(x: Tensor, hook: Any) -> Tensor:
                x[:, :, 2] = z[:, :, 2]
                return x

            logits = runner.model.run_with_hooks(base, fwd_hooks=[("blocks.1.attn.hook_z", put)])[:, -1]
            expected.append(logits[:, 5] - logits[:, 6])
    for one, wanted in zip(found, expected, strict=False):
        torch.testing.assert_close(one, wanted, rtol=0, atol=2e-5)
    itself = run_edges(runner, base=base, source=base, patched=sets, metric=METRIC)
    torch.testing.assert_close(itself, found[:1].expand(3, -1), rtol=0, atol=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_add_up_to_attention_and_senders_to_the_residual_stream(
    loaded: Callable[[str], Runner], architecture: str
):
    runner = loaded(architecture)
    base, _ = tokens(runner)
    nodes = nodes_of(runner)
    last = runner.shape.n_layers - 1
    with torch.no_grad():
        written = EdgeRuns(runner.language_model.require_layers("The test"), nodes).written(base)
    kept = runner.capture(base, "*.hook_attn_out", "*.hook_mlp_out", "*.hook_resid_post")
    for layer in range(last + 1):
        heads = written[:, nodes.writing[layer, True]].sum(1)
        torch.testing.assert_close(heads, kept[f"blocks.{layer}.hook_attn_out"], rtol=0, atol=2e-5)
        mlp = written[:, nodes.writing[layer, False]][:, 0]
        torch.testing.assert_close(mlp, kept[f"blocks.{layer}.hook_mlp_out"], rtol=0, atol=2e-5)
    torch.testing.assert_close(written.sum(1), kept[f"blocks.{last}.hook_resid_post"], rtol=0, atol=5e-5)


def test_prompts_of_unequal_length_are_as_each_alone(loaded: Callable[[str], Runner]):
    runner = loaded("gemma2")
    base, source = tokens(runner)
    patched = some_edges(nodes_of(runner), 2, 0.3)[None]
    lengths = torch.tensor([11, 7, 9])
    found = run_edges(runner, base=base, source=source, patched=patched, metric=METRIC, lengths=lengths)
    for i, length in enumerate(lengths.tolist()):
        one = slice(i, i + 1)
        alone = run_edges(runner, base=base[one, :length], source=source[one, :length], patched=patched, metric=METRIC)
        torch.testing.assert_close(found[:, one], alone, rtol=0, atol=2e-5)


def test_batches_do_not_change_results(loaded: Callable[[str], Runner]):
    plain = loaded("gpt2")
    tight = Runner(plain.model, memory="400KB", progress=False)
    base, source = tokens(plain)
    patched = torch.stack([some_edges(nodes_of(plain), seed, 0.3) for seed in range(7)])
    for metric in (METRIC, KLFromBase()):
        whole = run_edges(plain, base=base, source=source, patched=patched, metric=metric)
        pieces = run_edges(tight, base=base, source=source, patched=patched, metric=metric)
        torch.testing.assert_close(whole, pieces, rtol=0, atol=2e-5)


def test_the_mean_is_over_prompts_that_reach_a_position(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, others = tokens(runner)
    nodes = nodes_of(runner)
    lengths = torch.tensor([11, 11, 6])
    patched = some_edges(nodes, 3, 0.5)
    found = run_edges(runner, base=base, source=Mean(others, lengths), patched=patched[None], metric=METRIC)
    runs = EdgeRuns(runner.language_model.require_layers("The test"), nodes)
    with torch.no_grad():
        written = runs.written(others)
        mean = torch.cat([written[..., :6, :].mean(0), written[:2, :, 6:].mean(0)], dim=1)
        final = runs.finals(base, mean[None], patched[None], torch.full((3, 1), LENGTH - 1))[0, :, 0]
        logits = runner.model.unembed(final[:, None])[:, 0]
    torch.testing.assert_close(found[0], logits[:, 5] - logits[:, 6], rtol=0, atol=2e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_one_edge_is_the_direct_path_of_path_patching(loaded: Callable[[str], Runner], architecture: str):
    runner = loaded(architecture)
    base, source = tokens(runner)
    nodes = nodes_of(runner)
    senders, receivers = ["input", "a0.h3", "m1", "a1.h0"], ["a2.h0<q>", "a2.h1<k>", "a2.h0<v>", "m2", "logits"]
    direct = path_patch(
        runner, base=base, source=source, senders=senders, receivers=receivers, frozen="all", metric=METRIC
    )
    edges = [(sender, receiver) for sender in senders for receiver in receivers]
    sets = torch.zeros(len(edges), *nodes.reads.shape, dtype=torch.bool)
    for number, (sender, receiver) in enumerate(edges):
        sets[number][nodes.edge(f"{sender}->{receiver}")] = True
    found = run_edges(runner, base=base, source=source, patched=sets, metric=METRIC).numpy()
    for values, (sender, receiver) in zip(found, edges, strict=True):
        expected = direct["patched"].sel(sender=sender, receiver=receiver).values
        assert abs(expected - direct["base"].values).max() > 1e-6
        assert values == pytest.approx(expected, abs=3e-5)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_mean_that_is_narrower_than_the_padding_is_that_of_its_prompts(loaded: Callable[[str], Runner], pooled: bool):
    """As in `patch_grid`: only real tokens need a mean."""
    runner = loaded("gpt2")
    base, source = tokens(runner)
    lengths = torch.tensor([8, 6, 7])
    nodes = nodes_of(runner)
    some: dict[str, Any] = {"base": base, "lengths": lengths, "metric": METRIC}
    sets = torch.stack([some_edges(nodes, seed, 0.3) for seed in range(3)])
    narrow, wide = Mean(source[:, :8], pooled=pooled), Mean(source, torch.full((3,), 8), pooled=pooled)
    found = run_edges(runner, **some, source=narrow, patched=sets)
    torch.testing.assert_close(found, run_edges(runner, **some, source=wide, patched=sets))
    # And what comes behind the prompts does not matter.
    cut = {"base": base[:, :8], "lengths": lengths, "metric": METRIC}
    torch.testing.assert_close(found, run_edges(runner, **cut, source=narrow, patched=sets), atol=1e-5, rtol=0)
    scores = edge_scores(runner, **some, source=narrow, steps=2).scores
    torch.testing.assert_close(scores, edge_scores(runner, **some, source=wide, steps=2).scores)
    assert patch_grid(runner, **some, source=narrow, site="z", per="head")["patched"].notnull().all()


def test_bad_input(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    with pytest.raises(InputError, match="patched must have the shape"):
        run_edges(runner, base=base, source=source, patched=torch.zeros(1, 2, 2, dtype=torch.bool), metric=METRIC)
    none = torch.zeros(1, *nodes_of(runner).reads.shape, dtype=torch.bool)
    with pytest.raises(InputError, match="one shape"):
        run_edges(runner, base=base, source=source[:, :5], patched=none, metric=METRIC)
    with pytest.raises(InputError, match="longest prompt has 4 tokens, so there is no mean at the positions up to 10"):
        run_edges(runner, base=base, source=Mean(source[:, :4]), patched=none, metric=METRIC)
    for lengths in (torch.tensor([1, 2]), torch.tensor([0, 2, 3]), torch.tensor([12, 2, 3])):
        with pytest.raises(InputError, match="lengths of a data set must be from 1 to 11, one for each of the 3"):
            run_edges(runner, base=base, source=Mean(source, lengths), patched=none, metric=METRIC)
    changed = replace("blocks.0.attn.hook_z", 0.0)
    with runner.intervene(changed), pytest.raises(InputError, match="interventions are in place"):
        nodes_of(runner)
    with pytest.raises(InputError, match="cannot be patched, because"):
        nodes_of(loaded("mpt"))
