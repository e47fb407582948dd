"""A circuit that is chosen on some prompts: measured on the others, and chosen again."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mechlist.experiments.circuit.experiment import Circuit
from mechlist.experiments.circuit.stability import held_out, selected
from mechlist.patching.circuits.nodes import Nodes
from mechlist.patching.circuits.selection import strongest
from mechlist.patching.edge_attribution import score_edges
from mechlist.runner import Runner
from mechlist.types import ModelShape


def test_every_prompt_is_measured_in_the_circuit_of_the_other_half(tiny_runner: Runner):
    circuit = Circuit(examples=4)
    task = circuit._task(tiny_runner, circuit._pairs(tiny_runner))
    scores = score_edges(task, 1).scores
    labels = np.array(["a", "a", "b", "b"])
    seen: list[Tensor] = []

    def select(mean: Tensor) -> Tensor:
        seen.append(mean)
        return strongest(task.nodes, mean.abs(), 20 if len(seen) == 1 else 40)

    found = held_out(task, scores, labels, select)
    # The first of the two halves is that of the cluster which the generator drew; the other is measured with it.
    first = torch.tensor([bool(torch.allclose(seen[0], scores[i : i + 2].double().mean(0))) for i in (0, 2)])
    assert int(first.sum()) == 1
    own = torch.stack([strongest(task.nodes, mean.abs(), n) for mean, n in zip(seen, (20, 40), strict=True)])
    values = task.values(task.nodes.reads & ~own)
    expected = torch.where(first.repeat_interleave(2), values[1], values[0])
    np.testing.assert_allclose(found["held_out"].values, expected.numpy(), rtol=1e-5, atol=1e-5)
    both = int((own[0] & own[1]).sum()) / int((own[0] | own[1]).sum())
    assert float(found["halves_jaccard"]) == pytest.approx(both)
    assert not held_out(task, scores, np.array(["a"] * 4), select)


def test_resamples_count_how_often_an_edge_is_chosen():
    sizes: dict[str, Any] = {"n_layers": 1, "n_heads": 1, "n_key_value_heads": 1, "d_model": 2, "d_head": 2, "d_mlp": 2}
    nodes = Nodes(ModelShape(**sizes, d_vocab=5, n_ctx=9, attn_only=True))
    ways = torch.zeros(2, *nodes.reads.shape)
    # Two clusters: one for the direct way, one (stronger) for the head.
    ways[0][nodes.edge("input->logits")] = 1
    for name in ("input->a0.h0<v>", "a0.h0->logits"):
        ways[1][nodes.edge(name)] = 3
    labels = np.array(["one", "other"])
    often = selected(nodes, ways, labels, lambda mean: strongest(nodes, mean, 2), np.random.default_rng(0))
    share = dict(zip(nodes.edge_names, often.tolist(), strict=True))
    # The head's edges are the two strongest unless the first cluster is drawn twice, of which the chance is a quarter.
    assert share["a0.h0->logits"] == pytest.approx(0.75, abs=0.12)
    assert share["input->logits"] == pytest.approx(0.25, abs=0.12)
    alone = selected(nodes, ways, np.array(["one", "one"]), lambda mean: mean > 0, np.random.default_rng(0))
    assert np.isnan(alone).all()
