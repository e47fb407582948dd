"""Circuits in the JSON of EAP-IG (Hanna et al. 2024) and of MIB (Mueller et al. 2025), written and read.

`cfg` holds the model's sizes, `nodes` whether each is in the circuit, and `edges` of *all* edges the score and whether
they are in it. Keys and values are of every head there, shared or not (`nodes_of(runner, ungrouped=True)`). A score is
how much patching the edge takes from the metric: what is called a score here, with the other sign.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.patching.circuits.nodes import ARROW, LOGITS, Nodes
from mechlist.text import joined
from mechlist.text_files import TwiceError, parse_json, read_file

MOST_BYTES = 2**30
"""Of a file that is read; the 1.6 million edges of Llama 3.1 8B take a tenth of it."""


def sizes_of(nodes: Nodes) -> dict[str, int | bool]:
    """What EAP-IG needs to know of a model to make its graph."""
    shape = nodes.shape
    return {
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "parallel_attn_mlp": nodes.parallel,
        "d_model": shape.d_model,
    }


def to_eap_ig(
    sizes: Mapping[str, int | bool], edges: Sequence[str], scores: Sequence[float], inside: Sequence[bool]
) -> dict[str, Any]:
    """The graph of a model with a circuit in it, to be written as JSON.

    Args:
        sizes: of `sizes_of`.
        edges: names of all edges of the graph with every head's own keys and values.
        scores: effects of patching each on the metric; negative where the edge holds it up.
        inside: whether each is in the circuit.
    """
    nodes = dict.fromkeys([name.split(ARROW)[0] for name in edges], False)
    nodes |= {name.split(ARROW)[0]: True for name, is_in in zip(edges, inside, strict=True) if is_in}
    return {
        "cfg": dict(sizes),
        "nodes": {name: {"in_graph": is_in} for name, is_in in (nodes | {LOGITS: True}).items()},
        "edges": {
            name: {"score": -score, "in_graph": is_in} for name, score, is_in in zip(edges, scores, inside, strict=True)
        },
    }


def read_eap_ig(file: Path, nodes: Nodes) -> tuple[Float[Tensor, "sender receiver"], Bool[Tensor, "sender receiver"]]:
    """Effects on the metric of patching each edge, 0 where the file has no score, and whether it is in the circuit.

    Raises:
        InputError: a file that is no such graph, that is one of a model of other sizes, or that names an edge which the
            model has not.
    """
    value = _graph(file)
    own = sizes_of(nodes)
    for name, size in own.items():
        if name in value["cfg"] and value["cfg"][name] != size:
            other = value["cfg"][name]
            raise InputError(f"{file} holds a circuit of another model: its {name} is {other!r}, and here {size!r}.")
    scores = torch.zeros(nodes.reads.shape, dtype=torch.float64)
    inside = torch.zeros(nodes.reads.shape, dtype=torch.bool)
    for name, entry in value["edges"].items():
        if not isinstance(entry, dict) or not isinstance(entry.get("in_graph"), bool):
            raise InputError(
                f"{file} must say of the edge {name} whether it is in_graph, true or false, not {entry!r}."
            )
        score = entry.get("score", 0.0)
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise InputError(f"{file} must hold a number as score of the edge {name}, not {score!r}.")
        try:
            edge = nodes.edge(name)
        except InputError as error:
            raise InputError(f"{file} holds the edge {name}, which this model has not. {error}") from None
        scores[edge], inside[edge] = -score, entry["in_graph"]
    return scores, inside


def _graph(file: Path) -> dict[str, Any]:
    try:
        value = parse_json(read_file(file.expanduser(), MOST_BYTES, "a circuit"))
    except TwiceError as error:
        raise InputError(f"{file}: {error}.") from error
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}.") from error
    parts = ("cfg", "nodes", "edges")
    if not isinstance(value, dict) or not all(isinstance(value.get(part), dict) for part in parts):
        raise InputError(f"{file} must hold {joined(parts)}, as EAP-IG writes a circuit.")
    return value
