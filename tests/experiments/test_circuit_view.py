"""Circuits as graphs to look at and to hand on: connected parts by hand, shared keys, and the file's schema."""

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.experiments.circuit.graph_json import FILE, PLACE, graph, graph_file
from mechlist.experiments.circuit.statistics import with_statistics
from mechlist.experiments.circuit.view import SIZES, view_of
from mechlist.figures.graph import GraphEdge
from mechlist.patching.circuits.nodes import Nodes
from mechlist.types import ModelShape

SHAPE: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 8,
    "d_head": 4,
    "d_mlp": 8,
    "d_vocab": 9,
    "n_ctx": 9,
    "attn_only": False,
}
CHAIN = {"input->a0.h1<v>": -3.0, "a0.h1->a1.h2<k>": -2.0, "a1.h2->logits": -4.0}
"""One way from the input to the logits."""
OTHER = {"input->m0": 1.0, "m0->m1": -0.5, "m1->logits": 0.25, "a0.h1->m1": -0.75}


def results_of(kept: dict[str, float], *, keys: int = 4, exact: dict[str, float] | None = None) -> xr.Dataset:
    """Results of a model of four heads whose circuit has these edges and scores."""
    nodes = Nodes(ModelShape(**SHAPE, n_heads=4, n_key_value_heads=keys))
    names, rng = nodes.edge_names, np.random.default_rng(0)
    score = np.array([[kept.get(name, 0.0) for name in names]] * 3) + rng.normal(0, 1e-6, (3, len(names)))
    measured = exact or {}
    base, units = np.full(3, 5.0), {"units": "logits"}
    variables: dict[str, Any] = {
        "base": ("prompt", base, units),
        "empty": ("prompt", np.zeros(3)),
        "chosen": ("prompt", base - 0.5),
        "without": ("prompt", np.ones(3)),
        "score": (("prompt", "edge"), score, units),
        "in_circuit": ("edge", np.array([name in kept for name in names])),
        "exact": (("prompt", "verified"), 5.0 + np.array([list(measured.values())] * 3).reshape(3, -1)),
        "random": (("prompt", "random"), np.zeros((3, 0))),
    }
    for name, dim in {"circuit_metric": "size", "complement_metric": "size"}.items():
        variables[name] = (("prompt", dim), np.ones((3, 2)))
    for name in ("mib_metric", "mib_complement"):
        variables[name] = (("prompt", "share"), np.ones((3, 2)))
    coords = {"edge": names, "verified": np.array(list(measured), dtype=object if not measured else None)}
    attrs = {"model": "org/Some Model", "data": "ioi", "metric": "logit_difference", "steps": 5}
    return with_statistics(xr.Dataset(variables, coords)).assign_attrs(
        attrs | {"ablation": "counterfactual", "select": "greedy"}
    )


def connected(edges: list[GraphEdge], joins: list[tuple[str, str]]) -> bool:
    """Whether every edge lies on a way from the input to the logits."""
    links = {(edge.sender, edge.receiver) for edge in edges} | set(joins)
    reached, useful = {"input"}, {"logits"}
    for _ in links:
        reached |= {b for a, b in links if a in reached}
        useful |= {a for a, b in links if b in useful}
    return all(edge.sender in reached and edge.receiver in useful for edge in edges)


def test_nodes_stand_by_depth_and_edges_by_strength():
    view = view_of(results_of(CHAIN | OTHER, exact={"a1.h2->logits": -4.5}))
    assert view.floors == [["input"], ["L0H1"], ["m0"], ["L1H2"], ["m1"], ["logits"]]
    assert [(edge.sender, edge.receiver, edge.entry) for edge in view.edges[:3]] == [
        ("L1H2", "logits", ""),
        ("input", "L0H1", "v"),
        ("L0H1", "L1H2", "k"),
    ]
    assert view.edges[0].exact == pytest.approx(-4.5)
    assert np.isnan(view.edges[1].exact)
    assert view.joins == []


def test_parts_are_nested_connected_and_begin_with_the_strongest_way():
    view = view_of(results_of(CHAIN | OTHER))
    edges, sizes = view.parts((1, 5, 6, 20))
    assert sizes == [3, 6, 7]
    assert {edge.sender for edge in edges[:3]} == {"input", "L0H1", "L1H2"}
    # The next strongest is input->m0, whose only way to the logits is through m1.
    assert [(e.sender, e.receiver) for e in edges[3:6]] == [("input", "m0"), ("m0", "m1"), ("m1", "logits")]
    assert (edges[6].sender, edges[6].receiver) == ("L0H1", "m1")
    assert all(connected(edges[:size], view.joins) for size in sizes)


def test_parts_of_a_large_circuit_keep_to_their_sizes():
    names, rng = Nodes(ModelShape(**SHAPE, n_heads=4, n_key_value_heads=4)).edge_names, np.random.default_rng(1)
    scores = rng.normal(size=len(names)).tolist()
    view = view_of(results_of(dict(zip(names, scores, strict=True))))
    edges, sizes = view.parts()
    assert len(view.edges) == len(names) < SIZES[-1]
    assert len(sizes) == len([size for size in SIZES if size < len(names)]) + 1
    assert all(size <= most for size, most in zip(sizes, SIZES, strict=False))
    assert all(connected(edges[:size], view.joins) for size in sizes)
    assert sorted(edges, key=lambda edge: -abs(edge.score)) == view.edges


def test_keys_that_heads_share_are_a_node_that_leads_to_each_of_them():
    kept = {"input->a0.h1<v>": -3.0, "a0.h2->a1.h0<k>": -2.0, "a1.h1->logits": -4.0, "a0.h3->logits": -1.0}
    view = view_of(results_of(kept, keys=2))
    assert view.floors == [["input"], ["L0KV1"], ["L0H2", "L0H3"], ["L1KV0"], ["L1H1"], ["logits"]]
    assert view.joins == [("L0KV1", "L0H2"), ("L0KV1", "L0H3"), ("L1KV0", "L1H1")]
    edges, sizes = view.parts()
    assert sizes[-1] == 4
    assert connected(edges[: sizes[0]], view.joins)
    links = graph(results_of(kept, keys=2))["links"]
    assert {(link["source"], link["target"], link["entry"]) for link in links} == {
        ("E_0_0", "0_2_0", "v"),
        ("E_0_0", "0_3_0", "v"),
        ("0_2_0", "1_1_0", "k"),
        ("1_1_0", "2_0_0", ""),
        ("0_3_0", "2_0_0", ""),
    }


def test_the_graph_file_keeps_to_the_schema():
    results = results_of(CHAIN | OTHER)
    dims = ("prompt", "look_run", "look_token")
    results["look_probability"] = (dims, np.array([[[0.5, 0.1], [0.2, 0.3]]] * 3))
    results = results.assign_coords(look_run=["clean", "corrupt"], look_token=["answer", "wrong"])
    (text,) = graph_file(results).values()
    assert list(graph_file(results)) == [FILE]
    value = json.loads(text)
    assert check(value, SCHEMA, "graph") == []
    assert {node["feature_type"] for node in value["nodes"]} == {"embedding", "attention head", "mlp", "logit"}
    nodes = {node["node_id"]: node for node in value["nodes"]}
    assert len(nodes) == len(value["nodes"]) == len({node["jsNodeId"] for node in value["nodes"]}) == 6
    assert all(link["source"] in nodes and link["target"] in nodes for link in value["links"])
    assert all(0 <= node["ctx_idx"] < len(value["metadata"]["prompt_tokens"]) for node in value["nodes"])
    assert set(value["qParams"]["pinnedIds"]) == set(nodes)
    weights = {(link["source"], link["target"]): link["weight"] for link in value["links"]}
    # Patching this edge lowers the metric by 4: it adds 4.
    assert weights["1_2_0", "2_0_0"] == pytest.approx(4, abs=1e-4)
    assert nodes["2_0_0"]["clerp"] == 'Output "the answer" (p=0.500)'
    assert nodes["2_0_0"]["token_prob"] == 0.5
    assert nodes["0_-1_0"]["clerp"] == "m0"
    assert value["metadata"]["scan"] == "some-model"
    assert value["metadata"]["prompt_tokens"] == [PLACE]
    assert "7 edges" in value["metadata"]["info"]["description"]


def test_the_check_of_the_schema_finds_what_is_wrong():
    value = json.loads(graph_file(results_of(CHAIN))[FILE])
    assert check(value, SCHEMA, "graph") == []
    del value["nodes"][0]["clerp"]
    value["links"][0]["weight"] = "4"
    value["metadata"]["prompt"] = None
    assert check(value, SCHEMA, "graph") == [
        "graph.metadata.prompt is no string",
        "graph.nodes.0.clerp is missing",
        "graph.links.0.weight is no number",
    ]


STRINGS = ["string"]
SCHEMA: dict[str, Any] = {
    "metadata": {"slug": "string", "scan": "string", "prompt_tokens": STRINGS, "prompt": "string"},
    "qParams": {
        "pinnedIds": STRINGS,
        "supernodes": [],
        "linkType": "string",
        "clickedId": "string",
        "sg_pos": "string",
    },
    "nodes": [
        {
            "node_id": "string",
            "feature": "integer",
            "layer": "string",
            "ctx_idx": "integer",
            "feature_type": "string",
            "token_prob": "number",
            "is_target_logit": "truth",
            "run_idx": "integer",
            "reverse_ctx_idx": "integer",
            "jsNodeId": "string",
            "clerp": "string",
        }
    ],
    "links": [{"source": "string", "target": "string", "weight": "number"}],
}
"""What Neuronpedia's graph-schema.json and circuit-tracer's graph_models.py require; more is allowed."""
KINDS = {"string": str, "integer": int, "number": (int, float), "truth": bool}


def check(value: Any, schema: Any, where: str) -> list[str]:
    """What is not as the schema has it, a sentence each."""
    if isinstance(schema, str):
        right = isinstance(value, KINDS[schema]) and (schema == "truth" or not isinstance(value, bool))
        return [] if right else [f"{where} is no {schema}"]
    if isinstance(schema, list):
        return [said for n, one in enumerate(value) for said in check(one, schema[0], f"{where}.{n}")] if schema else []
    return [
        said
        for name, part in schema.items()
        for said in (check(value[name], part, f"{where}.{name}") if name in value else [f"{where}.{name} is missing"])
    ]
