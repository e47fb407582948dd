"""Names, order and edges of nodes."""

from typing import Any

import pytest

from mechlist.errors import InputError
from mechlist.patching.circuits.nodes import Nodes
from mechlist.types import ModelShape


def shape(**changes: Any) -> ModelShape:
    sizes: dict[str, Any] = {
        "n_layers": 3,
        "n_heads": 4,
        "n_key_value_heads": 4,
        "d_model": 8,
        "d_head": 2,
        "d_mlp": 16,
    }
    return ModelShape(**(sizes | {"d_vocab": 5, "n_ctx": 9, "attn_only": False} | changes))


def test_gpt2_has_as_many_edges_as_were_published():
    # Hanna et al. 2024 and MIB count 32,491 for GPT-2 small.
    assert len(Nodes(shape(n_layers=12, n_heads=12, n_key_value_heads=12)).edges) == 32491


def test_order_of_senders_and_receivers():
    nodes = Nodes(shape(n_layers=1, n_heads=2, n_key_value_heads=1))
    assert [one.name for one in nodes.senders] == ["input", "a0.h0", "a0.h1", "m0"]
    names = ["a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits"]
    assert [one.name for one in nodes.receivers] == names
    assert nodes.edge_names[:6] == [f"input->{name}" for name in names]
    assert nodes.edge_names[6:] == ["a0.h0->m0", "a0.h0->logits", "a0.h1->m0", "a0.h1->logits", "m0->logits"]


def test_parallel_mlps_do_not_read_their_layers_attention():
    serial, parallel = Nodes(shape()), Nodes(shape(), parallel=True)
    assert "a1.h2->m1" in serial.edge_names
    assert set(serial.edge_names) - set(parallel.edge_names) == {f"a{n}.h{h}->m{n}" for n in range(3) for h in range(4)}


def test_attention_only_models_have_no_mlps():
    nodes = Nodes(shape(attn_only=True))
    assert not [one.name for one in (*nodes.senders, *nodes.receivers) if one.name.startswith("m")]


def test_a_heads_inputs_are_its_own_queries_and_its_groups_keys_and_values():
    nodes = Nodes(shape(n_key_value_heads=2))
    inputs = [nodes.receivers[number].name for number in nodes.inputs_of(nodes.sender("a1.h3"))]
    assert inputs == ["a1.h3<q>", "a1.h1<k>", "a1.h1<v>"]
    assert [nodes.receivers[number].name for number in nodes.inputs_of(nodes.sender("m2"))] == ["m2"]
    assert nodes.inputs_of(0) == []


def test_edges_are_found_by_name():
    nodes = Nodes(shape())
    sender, receiver = nodes.edge("a0.h1 -> a2.h3<k>")
    assert nodes.edge_name(sender, receiver) == "a0.h1->a2.h3<k>"
    for name in ("L0H1->L2H3.k", "0.1->2.3.k", "l0h1 -> a2.h3<k>"):
        assert nodes.edge(name) == (sender, receiver)
    assert nodes.edge("m0->logits") == (nodes.sender("m0"), len(nodes.receivers) - 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a0.h1", "An edge is written sender->receiver"),
        ("a0.h9->logits", "no sender 'a0.h9'; senders are input, L0H0 to L2H3 and m0 to m2. Did you mean L0H"),
        ("L0H9->logits", "no sender 'L0H9'; senders are input, L0H0 to L2H3 and m0 to m2. Did you mean L0H"),
        ("a0.h1->a2.h3", "no receiver 'a2.h3'; receivers are L0H0.q to L2H3.q, L0H0.k to L2H3.k, L0H0.v to L2H3.v, "),
        ("a0.h1->L2H3", "m0 to m2 and logits. Did you mean L2H3."),
        ("0,1->logits", "no sender '0,1'; senders are"),
        ("a0.h->logits", "no sender 'a0.h'; senders are"),
        ("nothing->logits", "no sender 'nothing'"),
        ("a2.h1->a2.h0<k>", "a2.h0<k> is computed before a2.h1"),
        ("m2->a0.h0<q>", "does not come after its sender"),
    ],
)
def test_unknown_edges_are_named(name: str, words: str):
    with pytest.raises(InputError, match=words.replace("<", "\\<").replace(".", "\\.")):
        Nodes(shape()).edge(name)
