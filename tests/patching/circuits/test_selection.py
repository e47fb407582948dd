"""Circuits chosen by scores."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mechlist.errors import InputError
from mechlist.patching.circuits.nodes import Nodes
from mechlist.patching.circuits.selection import above, connected, greedy, random_circuit, strongest
from tests.patching.circuits.test_nodes import shape

NODES = Nodes(shape(n_layers=2, n_heads=2, n_key_value_heads=1))


def edges(*names: str) -> Tensor:
    out = torch.zeros_like(NODES.reads)
    for name in names:
        out[NODES.edge(name)] = True
    return out


def keys(**values: float) -> Tensor:
    out = torch.zeros(NODES.reads.shape)
    for name, value in values.items():
        out[NODES.edge(name)] = value
    return out


def names(kept: Tensor) -> set[str]:
    return {NODES.edge_name(s, r) for s, r in kept.nonzero().tolist()}


def test_only_edges_on_a_way_from_input_to_logits_stay():
    whole = edges("input->a0.h0<v>", "a0.h0->m1", "m1->logits")
    assert names(connected(NODES, whole)) == names(whole)
    dangling = edges("input->a0.h1<q>", "m0->m1", "a0.h0->a1.h1<q>")
    assert names(connected(NODES, whole | dangling)) == names(whole)
    assert not connected(NODES, edges("input->a0.h0<v>", "m1->logits")).any()


def test_a_shared_key_enters_every_head_of_its_group():
    through = edges("input->a0.h0<k>", "a0.h1->logits")
    assert names(connected(NODES, through)) == names(through)
    assert not connected(NODES, edges("input->a0.h0<q>", "a0.h1->logits")).any()


def test_what_is_no_edge_is_dropped():
    assert torch.equal(connected(NODES, torch.ones_like(NODES.reads)), NODES.reads)


CHAIN = {"input->a0.h0<v>": 1.0, "a0.h0->a1.h1<q>": 3.0, "a1.h1->logits": 2.0, "input->m1": 5.0, "m0->logits": 0.5}


def test_the_strongest_edges_may_not_be_connected():
    assert names(strongest(NODES, keys(**CHAIN), 2)) == set()
    assert names(strongest(NODES, keys(**CHAIN), 4)) == {"input->a0.h0<v>", "a0.h0->a1.h1<q>", "a1.h1->logits"}


def test_greedy_grows_from_the_logits():
    # The first that leads to the logits is a1.h1's; input->m1 is the strongest, but leads nowhere.
    assert names(greedy(NODES, keys(**CHAIN), 3)) == {"input->a0.h0<v>", "a0.h0->a1.h1<q>", "a1.h1->logits"}
    assert names(greedy(NODES, keys(**CHAIN), 2)) == set()
    assert names(greedy(NODES, keys(**(CHAIN | {"m1->logits": 0.1})), 6)) >= {"input->m1", "m1->logits"}


def test_greedy_with_every_edge_is_the_model():
    assert torch.equal(greedy(NODES, torch.rand(NODES.reads.shape), 10**6), NODES.reads)


def test_a_threshold_that_leaves_no_way_is_refused():
    assert names(above(NODES, keys(**CHAIN), 1)) == {"input->a0.h0<v>", "a0.h0->a1.h1<q>", "a1.h1->logits"}
    with pytest.raises(InputError, match=r"No edges with a score of 2 or more lie on a way .* the largest is 5"):
        above(NODES, keys(**CHAIN), 2)


@pytest.mark.parametrize("count", [1, 5, 20, 10**6])
def test_random_circuits_are_connected_and_large_enough(count: int):
    drawn = [random_circuit(NODES, count, np.random.default_rng(seed)) for seed in range(5)]
    for one in drawn:
        assert torch.equal(connected(NODES, one), one)
        assert int(one.sum()) >= min(count, int(NODES.reads.sum()))
        assert count > len(NODES.edges) or int(one.sum()) < count + 2 * 2 + 2
    assert count > len(NODES.edges) or any(not torch.equal(drawn[0], one) for one in drawn[1:])


def way_by_way(count: int, generator: np.random.Generator) -> Tensor:
    """The definition: one random way after another, until there are edges enough."""
    kept = torch.zeros_like(NODES.reads)
    while int(kept.sum()) < count:
        receiver = len(NODES.receivers) - 1
        while True:
            sender = int(generator.integers(NODES.written_before(receiver)))
            kept[sender, receiver] = True
            if sender == 0:
                break
            receiver = int(generator.choice(NODES.inputs_of(sender)))
    return kept


@pytest.mark.parametrize("count", [4, 12, 36])
def test_random_circuits_are_drawn_as_one_way_after_another(count: int, monkeypatch: pytest.MonkeyPatch):
    # Small batches, so that most circuits take several.
    monkeypatch.setattr("mechlist.patching.circuits.selection.FIRST_WAYS", 3)
    monkeypatch.setattr("mechlist.patching.circuits.selection.MANY_WAYS", 5)
    draws, generator = 1500, np.random.default_rng(0)
    fast, slow = (
        torch.stack([draw(generator) for _ in range(draws)]).float()
        for draw in (lambda g: random_circuit(NODES, count, g), lambda g: way_by_way(count, g))
    )
    # How often each edge, each pair of edges, and each number of edges is drawn: within five standard errors.
    for of in (lambda x: x.flatten(1)[:, NODES.reads.flatten()], lambda x: _pairs(x), lambda x: _sizes(x)):
        one, other = of(fast).mean(0), of(slow).mean(0)
        error = ((one * (1 - one) + other * (1 - other)) / draws).sqrt()
        assert ((one - other).abs() <= 5 * error + 1e-6).all()
    # Another distribution does not pass: edges at random, as many.
    even = float(fast.sum() / draws / NODES.reads.sum())
    drawn = fast.flatten(1)[:, NODES.reads.flatten()].mean(0)
    assert count == 36 or (drawn - even).abs().max() > 0.1


def _pairs(drawn: Tensor) -> Tensor:
    flat = drawn.flatten(1)[:, NODES.reads.flatten()]
    return (flat[:, :, None] * flat[:, None]).flatten(1)


def _sizes(drawn: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(drawn.flatten(1).sum(1).long(), int(NODES.reads.sum()) + 1).float()


def test_all_edges_of_gpt2_small_are_drawn_at_once():
    nodes = Nodes(shape(n_layers=12, n_heads=12, n_key_value_heads=12))
    # About 700,000 ways: one after another they took a minute and a half.
    assert torch.equal(random_circuit(nodes, len(nodes.edges), np.random.default_rng(0)), nodes.reads)
