"""Circuits in EAP-IG's JSON: what is written, read again, and refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mechlist.errors import InputError
from mechlist.patching.circuits.eap_ig import read_eap_ig, sizes_of, to_eap_ig
from mechlist.patching.circuits.nodes import Nodes
from mechlist.types import ModelShape


def nodes(**changes: Any) -> Nodes:
    sizes: dict[str, Any] = {
        "n_layers": 2,
        "n_heads": 2,
        "n_key_value_heads": 2,
        "d_model": 8,
        "d_head": 4,
        "d_mlp": 16,
    }
    return Nodes(ModelShape(**(sizes | {"d_vocab": 5, "n_ctx": 9, "attn_only": False} | changes)))


CIRCUIT = ["input->a0.h1<v>", "a0.h1->a1.h0<k>", "a1.h0->logits"]


def graph(own: Nodes) -> dict[str, Any]:
    scores = torch.linspace(-1, 1, len(own.edges)).tolist()
    return to_eap_ig(sizes_of(own), own.edge_names, scores, [name in CIRCUIT for name in own.edge_names])


def test_every_node_and_edge_is_written_as_eap_ig_has_it():
    own = nodes()
    value = graph(own)
    assert value["cfg"] == {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
    # In EAP-IG: input, then each layer's heads and MLP, then the logits.
    assert list(value["nodes"]) == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"]
    inside = [name for name, node in value["nodes"].items() if node["in_graph"]]
    assert inside == ["input", "a0.h1", "a1.h0", "logits"]
    # 6 + 3 into the first layer, 4 x 6 + 6 into the second, 7 into the logits.
    assert len(value["edges"]) == 6 + 3 + 24 + 6 + 7
    assert {"input->a0.h0<q>", "m0->a1.h1<k>", "a1.h1->m1", "m1->logits"} <= set(value["edges"])
    assert [name for name, edge in value["edges"].items() if edge["in_graph"]] == CIRCUIT
    # There a score is what patching the edge takes from the metric: the first lowers it by 1.
    assert value["edges"]["input->a0.h0<q>"] == {"score": 1.0, "in_graph": False}


def test_what_is_written_is_read_again(tmp_path: Path):
    own = nodes()
    file = tmp_path / "circuit.json"
    file.write_text(json.dumps(graph(own)))
    scores, inside = read_eap_ig(file, own)
    assert [own.edge_name(s, r) for s, r in inside.nonzero().tolist()] == CIRCUIT
    sender, receiver = own.edges.T
    torch.testing.assert_close(scores[sender, receiver], torch.linspace(-1, 1, len(own.edges)).double())


def changed(**changes: Any) -> Any:
    return lambda value: value | changes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: [value], "must hold cfg, nodes and edges, as EAP-IG writes a circuit"),
        (lambda value: {"cfg": {}, "edges": {}}, "must hold cfg, nodes and edges"),
        (changed(cfg={"n_layers": 12, "n_heads": 12}), "circuit of another model: its n_layers is 12, and here 2"),
        (changed(cfg={"parallel_attn_mlp": True}), "its parallel_attn_mlp is True, and here False"),
        (
            changed(edges={"a0.h7->logits": {"in_graph": True}}),
            r"holds the edge a0\.h7->logits, which this model has not",
        ),
        (changed(edges={"a1.h0->a0.h0<k>": {"in_graph": True}}), "does not come after its sender"),
        (changed(edges={"input->logits": True}), "whether it is in_graph, true or false, not True"),
        (changed(edges={"input->logits": {"in_graph": True, "score": "a"}}), "must hold a number as score"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, change: Any, words: str):
    own = nodes()
    file = tmp_path / "circuit.json"
    file.write_text(json.dumps(change(graph(own))))
    with pytest.raises(InputError, match=words):
        read_eap_ig(file, own)


def test_what_is_no_json(tmp_path: Path):
    file = tmp_path / "circuit.json"
    file.write_text('{"cfg": {')
    with pytest.raises(InputError, match=r"circuit\.json is not JSON"):
        read_eap_ig(file, nodes())
    with pytest.raises(InputError, match="cannot be read"):
        read_eap_ig(tmp_path / "missing.json", nodes())
    file.write_text('{"cfg": {}, "nodes": {}, "edges": {"input->logits": {}, "input->logits": {}}}')
    with pytest.raises(InputError, match="stands twice"):
        read_eap_ig(file, nodes())
