"""Circuits: sets of edges chosen by their scores, such that every node lies on a way from the input to the logits."""

import heapq
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.patching.circuits.nodes import Nodes

FIRST_WAYS, MANY_WAYS = 64, 4096
"""Random ways that are drawn at a time: few for a small circuit, and many for a large one."""


def connected(nodes: Nodes, kept: Bool[Tensor, "sender receiver"]) -> Bool[Tensor, "sender receiver"]:
    """The edges that lie on a way from the input to the logits; a head is entered by its queries, keys or values."""
    kept = kept & nodes.reads
    enters = [nodes.inputs_of(sender) for sender in range(len(nodes.senders))]
    alive = torch.zeros(len(nodes.senders), dtype=torch.bool)
    alive[0] = True
    for sender in range(1, len(alive)):
        alive[sender] = bool(kept[alive][:, enters[sender]].any())
    useful = torch.zeros(len(nodes.receivers), dtype=torch.bool)
    useful[-1] = True
    for sender in range(len(alive) - 1, 0, -1):
        if kept[sender, useful].any():
            useful[enters[sender]] = True
    return kept & alive[:, None] & useful


def above(
    nodes: Nodes, keys: Float[Tensor, "sender receiver"], threshold: float | int
) -> Bool[Tensor, "sender receiver"]:
    """The circuit of all edges whose key is at least `threshold`.

    Raises:
        InputError: none of them lie on a way from the input to the logits.
    """
    circuit = connected(nodes, keys >= threshold)
    if not circuit.any():
        largest = float(keys[nodes.reads].max())
        raise InputError(
            f"No edges with a score of {threshold:g} or more lie on a way from the input to the logits; the largest is "
            f"{largest:.4g}. Lower the threshold."
        )
    return circuit


def strongest(nodes: Nodes, keys: Float[Tensor, "sender receiver"], count: int) -> Bool[Tensor, "sender receiver"]:
    """What is connected of the `count` edges with the largest keys; may be empty."""
    sender, receiver = nodes.edges[torch.argsort(-keys[nodes.reads], stable=True)[:count]].T
    kept = torch.zeros_like(nodes.reads)
    kept[sender, receiver] = True
    return connected(nodes, kept)


def greedy(nodes: Nodes, keys: Float[Tensor, "sender receiver"], count: int) -> Bool[Tensor, "sender receiver"]:
    """Grown from the logits: again and again the edge with the largest key that leads into the circuit, `count` times.

    As in Hanna et al. 2024; what is not entered from the input is dropped in the end. May be empty.
    """
    kept = torch.zeros_like(nodes.reads)
    seen: set[int] = set()
    waiting: list[tuple[float, int, int]] = []

    def open_up(receiver: int) -> None:
        if receiver not in seen:
            seen.add(receiver)
            for sender in nodes.reads[:, receiver].nonzero()[:, 0].tolist():
                heapq.heappush(waiting, (-float(keys[sender, receiver]), sender, receiver))

    open_up(len(nodes.receivers) - 1)
    for _ in range(count):
        if not waiting:
            break
        _, sender, receiver = heapq.heappop(waiting)
        kept[sender, receiver] = True
        for entry in nodes.inputs_of(sender):
            open_up(entry)
    return connected(nodes, kept)


def random_circuit(nodes: Nodes, count: int, generator: np.random.Generator) -> Bool[Tensor, "sender receiver"]:
    """Random ways from the input to the logits, added up until there are `count` edges at least.

    A way ends in a random sender of the logits, goes back through a random one of that node's inputs to a random sender
    of it, and so on until the input. So a random circuit is connected as a found one is: a control that edges picked at
    random, most of them dead ends, would not be.
    """
    width = len(nodes.receivers)
    kept = np.zeros(len(nodes.senders) * width, dtype=bool)
    count, here, ways = min(count, int(nodes.reads.sum())), 0, FIRST_WAYS
    while here < count:
        # Ways are drawn many at a time, and those that follow the one that fills the circuit are left out.
        drawn = _random_ways(nodes, ways, generator)
        edges, first = np.unique(drawn, return_index=True)
        new = (edges >= 0) & ~kept[edges]
        edges, way = edges[new], first[new] // drawn.shape[1]
        sums = here + np.bincount(way, minlength=ways).cumsum()
        last = int(np.searchsorted(sums, count))
        kept[edges[way <= last]] = True
        here, ways = int(sums[min(last, ways - 1)]), MANY_WAYS
    return torch.from_numpy(kept.reshape(-1, width))


def _random_ways(nodes: Nodes, ways: int, generator: np.random.Generator) -> Int[np.ndarray, "way step"]:
    """Numbers (sender x receivers + receiver) of the edges of random ways, from the logits on; -1 behind their ends."""
    width = len(nodes.receivers)
    before = nodes.reads.sum(dim=0).numpy()
    entries = [nodes.inputs_of(sender) for sender in range(len(nodes.senders))]
    counts = np.array([len(of) for of in entries])
    table = np.array([[*of, *[-1] * (max(counts) - len(of))] for of in entries])
    receiver, going, out = np.full(ways, width - 1), np.arange(ways), []
    while len(going):
        sender = generator.integers(before[receiver])
        out.append(np.full(ways, -1))
        out[-1][going] = sender * width + receiver
        going, sender = going[sender > 0], sender[sender > 0]
        receiver = table[sender, generator.integers(counts[sender])]
    return np.stack(out, axis=1)


SELECTIONS: dict[str, Callable[[Nodes, Tensor, int], Tensor]] = {"greedy": greedy, "top": strongest}
"""Ways to choose a circuit of a number of edges."""


def heads_of(nodes: Nodes, circuit: Bool[Tensor, "sender receiver"]) -> list[str]:
    """Names of the nodes in a circuit, but for the input and the logits, in the model's order."""
    inside = circuit.any(dim=1)
    return [sender.name for sender, is_in in zip(nodes.senders, inside.tolist(), strict=True) if is_in and sender.stage]
