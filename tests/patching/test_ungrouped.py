"""Keys and values that heads share, counted as each head's own: numbers of edges, scores and exact patching."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mechlist.metrics.answers import LogitDifference
from mechlist.patching.circuits.nodes import Nodes
from mechlist.patching.edge_attribution import edge_scores
from mechlist.patching.edges import nodes_of, run_edges
from mechlist.runner import Runner
from mechlist.types import ModelShape

METRIC = LogitDifference(answer=5, wrong=6)


def shape(layers: int, heads: int, shared: int) -> ModelShape:
    sizes: dict[str, Any] = {"d_model": 8, "d_head": 2, "d_mlp": 16, "d_vocab": 5, "n_ctx": 9, "attn_only": False}
    return ModelShape(n_layers=layers, n_heads=heads, n_key_value_heads=shared, **sizes)


@pytest.mark.parametrize(
    ("sizes", "grouped", "published"),
    [
        ((12, 12, 12), 32_491, 32_491),  # GPT-2 small
        ((26, 8, 4), 50_610, 74_218),  # Gemma 2 2B
        ((24, 14, 2), 79_813, 179_749),  # Qwen 2.5 0.5B
        ((32, 32, 8), 805_681, 1_592_881),  # Llama 3.1 8B
    ],
)
def test_as_many_edges_as_mib_counts(sizes: tuple[int, int, int], grouped: int, published: int):
    layers, heads, _ = sizes
    # Before layer l there are 1 + l (heads + 1) senders; each head reads them three times, and the MLP the heads, too.
    before = [1 + layer * (heads + 1) for layer in range(layers)]
    assert sum(3 * heads * n + n + heads for n in before) + 1 + layers * (heads + 1) == published
    assert int(Nodes(shape(*sizes).ungrouped()).reads.sum()) == published
    assert int(Nodes(shape(*sizes)).reads.sum()) == grouped


def tokens(runner: Runner) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base, source = (torch.randint(9, runner.shape.d_vocab, (2, 7), generator=generator) for _ in range(2))
    return base, source


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "stablelm"])
@pytest.mark.parametrize("rule", ["gradient", "relp"])
def test_scores_of_the_heads_that_share_keys_add_up_to_theirs(
    loaded: Callable[[str], Runner], architecture: str, rule: Any
):
    runner = loaded(architecture)
    base, source = tokens(runner)
    asked: dict[str, Any] = {"base": base, "source": source, "metric": METRIC, "rule": rule}
    together, apart = edge_scores(runner, **asked).scores, edge_scores(runner, **asked, ungrouped=True).scores
    shared, own = nodes_of(runner), nodes_of(runner, ungrouped=True)
    sharing = runner.shape.n_heads // runner.shape.n_key_value_heads
    assert sharing == 2
    largest = 0.0
    for (kind, layer), place in shared.reading.items():
        mine = apart[:, :, own.reading[kind, layer]]
        if kind in "kv":
            largest = max(largest, float((mine[..., 0] - mine[..., 1]).abs().max()))
            mine = mine.unflatten(2, (-1, sharing)).sum(3)
        torch.testing.assert_close(mine, together[:, :, place], rtol=1e-3, atol=1e-5)
    # They are not shared out equally, but by what each head makes of them.
    assert largest > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "stablelm"])
def test_patching_what_a_group_reads_together_is_patching_what_they_share(
    loaded: Callable[[str], Runner], architecture: str
):
    runner = loaded(architecture)
    base, source = tokens(runner)
    shared, own = nodes_of(runner), nodes_of(runner, ungrouped=True)

    def values(nodes: Nodes, names: list[list[str]], *, ungrouped: bool) -> Tensor:
        patched = torch.zeros(len(names), *nodes.reads.shape, dtype=torch.bool)
        for number, several in enumerate(names):
            for name in several:
                patched[number][nodes.edge(name)] = True
        return run_edges(runner, base=base, source=source, patched=patched, metric=METRIC, ungrouped=ungrouped)

    together = values(shared, [[], ["input->a1.h1<k>"], ["input->a1.h1<v>", "m0->a2.h0<k>"]], ungrouped=False)
    groups = [
        [],
        ["input->a1.h2<k>", "input->a1.h3<k>"],
        ["input->a1.h2<v>", "input->a1.h3<v>", "m0->a2.h0<k>", "m0->a2.h1<k>"],
    ]
    torch.testing.assert_close(values(own, groups, ungrouped=True), together, rtol=0, atol=1e-5)
    halves = values(own, [["input->a1.h2<v>"], ["input->a1.h3<v>"]], ungrouped=True)
    assert (halves - together[0]).abs().max() > 1e-3
    assert (halves[0] - halves[1]).abs().max() > 1e-3


def test_where_nothing_is_shared_nothing_changes(loaded: Callable[[str], Runner]):
    runner = loaded("gpt2")
    base, source = tokens(runner)
    asked: dict[str, Any] = {"base": base, "source": source, "metric": METRIC}
    plain, own = edge_scores(runner, **asked).scores, edge_scores(runner, **asked, ungrouped=True).scores
    torch.testing.assert_close(plain, own)
