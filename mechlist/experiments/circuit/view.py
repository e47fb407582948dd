"""A circuit as a graph that one can look at: nodes by depth, edges by strength, connected parts of rising size."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from mechlist.experiments.circuit.findings import ends
from mechlist.experiments.circuit.statistics import scores, verified
from mechlist.figures.graph import GraphEdge
from mechlist.patching.circuits.nodes import ARROW, INPUT, LOGITS
from mechlist.types import head_name, read_head

SIZES = (5, 10, 20, 40, 80, 120)
"""Edges, at most, of the connected parts that are shown; more than the last are unreadable."""
LAST = 10**9
"""Layer of the logits: behind all others."""


@dataclass(frozen=True)
class Node:
    """A node of a graph."""

    name: str
    """As people read it: L3H5, m3, input, logits; L3KV0 for the keys and values that heads 0 and 1 of layer 3 share."""
    layer: int
    """-1 for the input, LAST for the logits."""
    kind: str
    """`input`, `keys and values`, `head`, `mlp` or `logits`."""
    number: int
    """Of the head, or of the key/value head; 0 otherwise."""

    @property
    def order(self) -> tuple[int, int, int]:
        """By depth: layer, what is computed first in it, and number."""
        return (self.layer, ("keys and values", "head", "mlp").index(self.kind) if self.inner else 0, self.number)

    @property
    def inner(self) -> bool:
        """Whether it is neither input nor logits."""
        return self.kind not in (INPUT, LOGITS)


@dataclass(frozen=True)
class View:
    """A circuit as a graph."""

    nodes: dict[str, Node]
    """By name, in the order of depth."""
    edges: list[GraphEdge]
    """The strongest first."""
    joins: list[tuple[str, str]]
    """Shared keys and values, and each head of the circuit that reads them: nothing is scored between the two."""

    @property
    def floors(self) -> list[list[str]]:
        """Names of the nodes by depth."""
        out: dict[tuple[int, int], list[str]] = {}
        for name, node in self.nodes.items():
            out.setdefault(node.order[:2], []).append(name)
        return list(out.values())

    def parts(self, sizes: Sequence[int] = SIZES) -> tuple[list[GraphEdge], list[int]]:
        """Edges in an order in which the first few are connected, and how many those are.

        Edge by edge, the strongest first, the whole way is added that leads from the input through it to the logits:
        of all such ways in the circuit the one whose weakest edge is strongest. A part is closed before it grows beyond
        its size; the first holds one way at least.

        Args:
            sizes: edges of the parts, at most; rising.
        """
        taken: dict[int, None] = {}
        closed: list[int] = []
        waiting = list(sizes)
        for number in range(len(self.edges)):
            new = [one for one in self._way(number) if one not in taken]
            while waiting and taken and len(taken) + len(new) > waiting[0]:
                waiting.pop(0)
                closed.append(len(taken))
            if not waiting:
                break
            taken |= dict.fromkeys(new)
        found = sorted({*closed, len(taken)} - {0})
        return [self.edges[number] for number in taken], found

    def _way(self, number: int) -> list[int]:
        """Numbers of the edges of the strongest way through an edge; it alone where it lies on no way."""
        edge = self.edges[number]
        before, after = self._back(edge.sender, INPUT, self._into), self._back(edge.receiver, LOGITS, self._from)
        return [*before, number, *after]

    def _back(self, name: str, end: str, links: dict[str, tuple[str, int | None]]) -> list[int]:
        out = []
        while name != end and name in links:
            name, number = links[name]
            out += [] if number is None else [number]
        return out

    @cached_property
    def _into(self) -> dict[str, tuple[str, int | None]]:
        """Of each node the last link of the strongest way that leads to it from the input: sender, number of edge."""
        return _strongest(INPUT, self.nodes, [(e.receiver, e.sender, abs(e.score), n) for e, n in self._all])

    @cached_property
    def _from(self) -> dict[str, tuple[str, int | None]]:
        """Of each node the first link of the strongest way from it to the logits."""
        turned = [(e.sender, e.receiver, abs(e.score), n) for e, n in self._all]
        return _strongest(LOGITS, list(reversed(self.nodes)), turned)

    @property
    def _all(self) -> list[tuple[GraphEdge, int | None]]:
        """Edges with their numbers; joins, which hold whatever comes."""
        joins = [(GraphEdge(a, b, "", math.inf), None) for a, b in self.joins]
        return [*((edge, number) for number, edge in enumerate(self.edges)), *joins]


def _strongest(
    start: str, order: Iterable[str], links: Sequence[tuple[str, str, float, int | None]]
) -> dict[str, tuple[str, int | None]]:
    """Of each node the link of the way to `start` whose weakest link is strongest.

    Args:
        start: where ways end.
        order: nodes, each behind all that its links lead to.
        links: node, the node it leads to, strength, number.
    """
    of: dict[str, list[tuple[str, float, int | None]]] = {}
    for name, to, strength, number in links:
        of.setdefault(name, []).append((to, strength, number))
    width, out = {start: math.inf}, {}
    for name in order:
        found = [(min(width[to], strength), to, number) for to, strength, number in of.get(name, []) if to in width]
        if found and name != start:
            best = max(found, key=lambda one: one[0])
            width[name], out[name] = best[0], (best[1], best[2])
    return out


def view_of(results: xr.Dataset) -> View:
    """The circuit of saved results as a graph."""
    names, kept = results["edge"].values.tolist(), np.flatnonzero(results["in_circuit"].values)
    mean = scores(results)["estimate"].values
    exact = dict(verified(results)[["edge", "exact"]].to_numpy().tolist())
    shared = _shared(names)
    nodes: dict[str, Node] = {}
    edges = []
    for i in kept[np.argsort(-np.abs(mean[kept]), kind="stable")]:
        sender, receiver, entry = ends(names[i])
        both = _node(sender), _node(receiver, entry if shared > 1 else "")
        nodes |= {node.name: node for node in both}
        edges.append(GraphEdge(both[0].name, both[1].name, entry, float(mean[i]), exact.get(names[i], math.nan)))
    there = sorted(nodes.values(), key=lambda node: node.order)
    joins = [
        (one.name, head.name)
        for one in there
        for head in there
        if (one.kind, head.kind, one.layer) == ("keys and values", "head", head.layer)
        and head.number // shared == one.number
    ]
    return View({node.name: node for node in there}, edges, joins)


def _node(name: str, entry: str = "") -> Node:
    """A node; with `k` or `v`, the shared keys and values of that number."""
    if name == INPUT:
        return Node(name, -1, INPUT, 0)
    if name == LOGITS:
        return Node(name, LAST, LOGITS, 0)
    found = read_head(name)
    if found is None:
        return Node(name, int(name[1:]), "mlp", 0)
    (layer, number), _ = found
    if entry in ("k", "v"):
        return Node(f"L{layer}KV{number}", layer, "keys and values", number)
    return Node(head_name((layer, number)), layer, "head", number)


def _shared(edges: Sequence[str]) -> int:
    """How many heads read the same keys, from the names of all edges of the model."""
    pairs = [edge.split(ARROW) for edge in edges]
    heads = [found[0][1] for name in {sender for sender, _ in pairs} if (found := read_head(name))]
    keys = [
        found[0][1] for name in {receiver for _, receiver in pairs} if (found := read_head(name)) and found[1] == "k"
    ]
    return (max(heads) + 1) // (max(keys) + 1) if heads and keys else 1
