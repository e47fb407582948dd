"""A circuit as the graph JSON that Neuronpedia and circuit-tracer read (its schema: Neuronpedia's graph-schema.json).

Their nodes stand at a token of one prompt; an edge of a circuit is of all positions of all its prompts, so that all
nodes stand at one place here, which stands for the whole prompt. Their weights are what a source adds to its target;
here a weight is how much the metric falls when the edge alone is patched: minus the edge's score.
"""

import json
import re
from typing import Any

import xarray as xr

from mechlist.experiments.circuit.statistics import shares
from mechlist.experiments.circuit.view import Node, View, view_of
from mechlist.patching.circuits.nodes import ARROW, INPUT, LOGITS
from mechlist.text import number_of
from mechlist.types import read_head

FILE = "circuit-graph.json"
PLACE = "the whole prompt"
"""The only token of the graph."""
KINDS = {INPUT: "embedding", LOGITS: "logit", "head": "attention head", "mlp": "mlp"}
"""What a node's `feature_type` says; heads and MLPs are not known there, and are drawn as features are."""
PINNED = 20
"""Edges of the part whose nodes are pinned: the page's own graph of a few."""


def graph_file(results: xr.Dataset) -> dict[str, str]:
    """The circuit with its nodes, links and how it was found, as one file."""
    return {FILE: json.dumps(graph(results), indent=1, allow_nan=False) + "\n"}


def graph(results: xr.Dataset) -> dict[str, Any]:
    """The same as plain values."""
    view, attrs, prompts = view_of(results), results.attrs, results.sizes["prompt"]
    layers = _layers(results["edge"].values.tolist())
    nodes = {name: _node(node, layers, results) for name, node in view.nodes.items() if node.kind in KINDS}
    ids = {name: node["node_id"] for name, node in nodes.items()}
    edges, sizes = view.parts((PINNED,))
    first = edges[: sizes[0]]
    pinned = {ids[name] for edge in first for name in (edge.sender, *_readers(view, edge.receiver))}
    scan = re.sub(r"[^a-z0-9.-]+", "-", str(attrs["model"]).rstrip("/").rsplit("/", 1)[-1].lower())
    return {
        "metadata": {
            "slug": f"{scan}-{attrs['data']}-circuit",
            "scan": scan,
            "transcoder_list": [],
            "prompt_tokens": [PLACE],
            "prompt": f"{number_of(prompts, 'prompts')} of {attrs['data']}",
            "schema_version": 1,
            "info": {"description": _description(results), "generator": {"name": "mechlist circuit"}},
            "generation_settings": {name: attrs[name] for name in ("metric", "steps", "ablation", "select")},
        },
        "qParams": {
            "pinnedIds": [one for one in ids.values() if one in pinned],
            "supernodes": [],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": list(nodes.values()),
        "links": [
            {"source": ids[edge.sender], "target": ids[receiver], "weight": -edge.score, "entry": edge.entry}
            for edge in view.edges
            for receiver in _readers(view, edge.receiver)
        ],
    }


def _readers(view: View, receiver: str) -> list[str]:
    """The node itself; of keys and values that several heads share, the heads of the circuit that read them."""
    return [head for keys, head in view.joins if keys == receiver] or [receiver]


def _node(node: Node, layers: int, results: xr.Dataset) -> dict[str, Any]:
    """A node as circuit-tracer writes one: its id is of layer, number and token."""
    layer = {INPUT: "E", LOGITS: str(layers)}.get(node.kind, str(node.layer))
    number = -1 if node.kind == "mlp" else node.number
    share = _probability(results) if node.kind == LOGITS else 0.0
    # Neuronpedia reads the probability of an output out of its label.
    label = f'Output "the answer" (p={share:.3f})' if node.kind == LOGITS else node.name
    return {
        "node_id": f"{layer}_{number}_0",
        "feature": number,
        "layer": layer,
        "ctx_idx": 0,
        "feature_type": KINDS[node.kind],
        "token_prob": share,
        "is_target_logit": node.kind == LOGITS,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{number}-0",
        "clerp": label,
    }


def _layers(edges: list[str]) -> int:
    """Of the model, from the names of all its edges."""
    senders = {edge.split(ARROW)[0] for edge in edges} - {INPUT}
    return 1 + max(found[0][0] if (found := read_head(name)) else int(name[1:]) for name in senders)


def _probability(results: xr.Dataset) -> float:
    """Of the answer after the clean prompts, on average; 0 in results of a version that did not save it."""
    if "look_probability" not in results:
        return 0.0
    return float(results["look_probability"].sel(look_run="clean", look_token="answer").mean())


def _description(results: xr.Dataset) -> str:
    unit, attrs = results["base"].attrs.get("units", ""), results.attrs
    return (
        f"A circuit of {int(results['in_circuit'].sum())} edges between heads and MLPs, at all positions of "
        f"{number_of(results.sizes['prompt'], 'prompts')} together, with a faithfulness of "
        f"{float(shares(results, 'chosen')):.3f}. A link's weight is how much the {attrs['metric'].replace('_', ' ')} "
        f"({unit}) is estimated to fall when this edge alone is patched; a link into keys or values that heads share "
        "stands at each head of the circuit that reads them."
    )
