"""What `circuit` runs: scores, circuits of many sizes, their complements, single edges, and random circuits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from mechlist.errors import InputError
from mechlist.experiments.circuit.stability import held_out, selected
from mechlist.experiments.rules import by_rule
from mechlist.metrics.faithfulness import MIB_SHARES, faithfulness
from mechlist.patching.circuits.nodes import Nodes
from mechlist.patching.circuits.selection import SELECTIONS, above, random_circuit, strongest
from mechlist.patching.edge_attribution import score_edges
from mechlist.patching.edges import EdgeTask
from mechlist.patching.gradients.gradient import Rule
from mechlist.runner import Runner

GROWTH, EACH = 1.5, 12
"""Circuits of every size up to EACH edges, then of sizes that grow by GROWTH."""


@dataclass(frozen=True)
class Choice:
    """How the circuit is chosen; see the fields of `Circuit`."""

    select: str
    signed: bool
    edges: int | None
    threshold: float | None
    faithful: float
    given: Bool[Tensor, "sender receiver"] | None = None
    """A circuit that is not chosen here."""
    ranking: Float[Tensor, "sender receiver"] | None = None
    """Effects by which edges are ranked, in the place of their scores."""


def find_circuit(
    task: EdgeTask,
    *,
    rule: Rule = "gradient",
    steps: int,
    choice: Choice,
    random_circuits: int,
    verify_top: int,
    verify: Sequence[str] = (),
    clusters: Shaped[np.ndarray, " prompt"] | None = None,
    units: str,
) -> xr.Dataset:
    """Scores, the circuit, and the metric of everything that is compared.

    Args:
        task: the prompts, what patched edges carry in them, and the metric.
        rule: as for `edge_scores`.
        steps: likewise.
        choice: of the circuit.
        random_circuits: controls of the circuit's size.
        verify_top: edges that are patched exactly, each by itself, by their scores.
        verify: names of others that are.
        clusters: of prompts; None where each is one.
        units: of the metric.

    Raises:
        InputError: an edge that there is not; nothing to explain, or no circuit to be found; as `run_edges`.
    """
    nodes, others = task.nodes, _named(task.nodes, verify)
    scores = score_edges(task, steps, rule).scores
    mean = scores.double().mean(0)
    ranking = mean if choice.ranking is None else choice.ranking
    keys = _keys(ranking, signed=choice.signed)
    select = SELECTIONS[choice.select]
    total = len(nodes.edges)
    sizes = _sizes(total, choice.edges)
    circuits = torch.stack([select(nodes, keys, size) for size in sizes])
    # As in MIB: the strongest edges, and then what is connected; CPR goes by signed scores, and CMD by their sizes.
    signed, absolute = (
        torch.stack([strongest(nodes, _keys(ranking, signed=one), int(share * total)) for share in MIB_SHARES])
        for one in (True, False)
    )
    single = _single(nodes, mean, verify_top, others)
    whole = torch.zeros(1, *nodes.reads.shape, dtype=torch.bool)
    named = {
        "base": whole,
        "empty": whole | nodes.reads,
        "circuit_metric": nodes.reads & ~circuits,
        "complement_metric": circuits,
        "mib_metric": nodes.reads & ~signed,
        "mib_complement": signed,
        "mib_absolute": nodes.reads & ~absolute,
        "exact": single,
    }
    chosen = above(nodes, keys, choice.threshold) if choice.threshold is not None else choice.given
    found = _run(task, named)
    base, empty = found["base"][:, 0], found["empty"][:, 0]
    if base.mean() == empty.mean():
        raise InputError("The metric is the same with all edges patched as with none: there is nothing to explain.")
    asked = _asked(found, sizes, choice)
    chosen = circuits[sizes.index(asked)] if chosen is None else chosen
    if not chosen.any():
        raise InputError(
            f"The {choice.edges} strongest edges hold no way from the input to the logits: give more edges, or "
            "--select greedy."
        )
    controls = _controls(task.runner, nodes, int(chosen.sum()), random_circuits)
    found |= _run(
        task, {"chosen": nodes.reads & ~chosen[None], "without": chosen[None], "random": nodes.reads & ~controls}
    )
    results = _dataset(nodes, scores, found, chosen, sizes, circuits, single, units)
    if choice.given is None and choice.ranking is None:
        count = asked if choice.threshold is None else int(chosen.sum())
        labels = np.arange(len(base)) if clusters is None else clusters

        def again(of: Float[Tensor, "sender receiver"]) -> Bool[Tensor, "sender receiver"]:
            return select(nodes, _keys(of, signed=choice.signed), count)

        results = results.assign(held_out(task, scores, labels, again).data_vars)
        generator = task.runner.numpy_generator("resamples of the prompts")
        results["selected"] = ("edge", selected(nodes, scores, labels, again, generator))
    exact = (results["exact"] - results["base"]).mean("prompt").values
    results["correlation"] = by_rule(
        rule,
        _at(mean, single),
        exact,
        lambda other: _at(score_edges(task, 1, other).scores.double().mean(0), single),
    )
    return results


def _at(mean: Float[Tensor, "sender receiver"], single: Bool[Tensor, "edge sender receiver"]) -> np.ndarray:
    """Scores of single edges."""
    return (mean * single).sum(dim=(1, 2)).numpy()


def _named(nodes: Nodes, names: Sequence[str]) -> list[tuple[int, int]]:
    """Numbers of the edges that are to be verified."""
    try:
        return [nodes.edge(name) for name in names]
    except InputError as error:
        raise InputError(f"verify must hold edges of the model. {error}") from None


def _run(task: EdgeTask, named: dict[str, Tensor]) -> dict[str, Float[np.ndarray, "prompt variant"]]:
    """The metric with each named set of edges patched, all in one sweep."""
    values = task.values(torch.cat(list(named.values()))).double().numpy().T
    ends = np.cumsum([len(sets) for sets in named.values()])
    return dict(zip(named, np.split(values, ends[:-1], axis=1), strict=True))


def _keys(mean: Float[Tensor, "sender receiver"], *, signed: bool) -> Float[Tensor, "sender receiver"]:
    """What edges are ranked by: how much patching them lowers the metric, or moves it either way."""
    return -mean if signed else mean.abs()


def _sizes(total: int, wanted: int | None) -> list[int]:
    sizes = list(range(1, min(EACH, total) + 1))
    while sizes[-1] < total:
        sizes.append(min(total, int(np.ceil(sizes[-1] * GROWTH))))
    return sizes if wanted is None else sorted({*sizes, min(wanted, total)})


def _single(
    nodes: Nodes, mean: Float[Tensor, "sender receiver"], count: int, others: Sequence[tuple[int, int]]
) -> Bool[Tensor, "edge sender receiver"]:
    """The edges with the largest scores, none without a score, and others, each by itself."""
    order = torch.argsort(-mean[nodes.reads].abs(), stable=True)[:count]
    ends = [(s, r) for s, r in nodes.edges[order].tolist() if mean[s, r] != 0]
    ends = list(dict.fromkeys([*ends, *others]))
    out = torch.zeros(len(ends), *nodes.reads.shape, dtype=torch.bool)
    for number, (s, r) in enumerate(ends):
        out[number, s, r] = True
    return out


def _asked(found: dict[str, np.ndarray], sizes: list[int], choice: Choice) -> int:
    """The number of edges asked for, or that of the smallest circuit that is faithful enough; all edges are."""
    if choice.edges is not None:
        return min(choice.edges, sizes[-1])
    values = faithfulness(found["circuit_metric"], found["base"][:, 0], found["empty"][:, 0])
    return sizes[int(np.argmax(values >= min(choice.faithful, values[-1])))]


def _controls(runner: Runner, nodes: Nodes, count: int, controls: int) -> Bool[Tensor, "random sender receiver"]:
    generator = runner.numpy_generator("random circuits")
    drawn = [random_circuit(nodes, count, generator) for _ in range(controls)]
    return torch.stack(drawn) if drawn else torch.zeros(0, *nodes.reads.shape, dtype=torch.bool)


def _dataset(
    nodes: Nodes,
    scores: Float[Tensor, "prompt sender receiver"],
    found: dict[str, np.ndarray],
    chosen: Bool[Tensor, "sender receiver"],
    sizes: list[int],
    circuits: Bool[Tensor, "size sender receiver"],
    single: Bool[Tensor, "edge sender receiver"],
    units: str,
) -> xr.Dataset:
    dims = {
        "base": (),
        "empty": (),
        "chosen": (),
        "without": (),
        "circuit_metric": ("size",),
        "complement_metric": ("size",),
        "mib_metric": ("share",),
        "mib_complement": ("share",),
        "mib_absolute": ("share",),
        "exact": ("verified",),
        "random": ("random",),
    }
    variables: dict[str, Any] = {
        name: (("prompt", *of), found[name] if of else found[name][:, 0], {"units": units}) for name, of in dims.items()
    }
    sender, receiver = nodes.edges.T
    variables["score"] = (("prompt", "edge"), scores[:, sender, receiver].numpy(), {"units": units})
    variables["in_circuit"] = ("edge", chosen[sender, receiver].numpy())
    variables["n_edges"] = ("size", circuits.flatten(1).sum(1).numpy())
    ends = [tuple(one.nonzero()[0].tolist()) for one in single]
    coords = {
        "edge": np.array(nodes.edge_names),
        "size": sizes,
        "share": list(MIB_SHARES),
        "verified": np.array([nodes.edge_name(*end) for end in ends], dtype=object if not ends else None),
    }
    return xr.Dataset(variables, coords=coords)
