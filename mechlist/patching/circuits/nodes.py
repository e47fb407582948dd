"""Nodes and edges of a transformer: who writes into the residual stream, who reads from it, and who reads whom.

A *sender* adds to the residual stream: the embedding (`input`), a head (`a3.h5`) or an MLP (`m3`). A *receiver* reads
it: the queries, keys or values of a head (`a3.h5<q>`, `a3.h5<k>`, `a3.h5<v>`), an MLP (`m3`) or the unembedding
(`logits`). An edge joins a sender to a receiver that reads after it: `a3.h5->a4.h1<k>`. A receiver reads the sum
of what all its senders wrote (Elhage et al. 2021). The names are those of EAP-IG (Hanna et al. 2024) and MIB.

Where key/value heads are shared, k and v have as many receivers as there are key/value heads, and carry their numbers.
"""

import difflib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.types import ModelShape

ARROW = "->"
INPUT, LOGITS = "input", "logits"
QKV = ("q", "k", "v")
T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Sender:
    """Something that adds to the residual stream."""

    name: str
    layer: int
    """-1 for the embedding."""
    head: int | None
    """None for the embedding and MLPs."""
    stage: int
    """Senders and receivers are in the order of their stages; a receiver reads what came at its own stage or before."""


@dataclass(frozen=True)
class Receiver:
    """Something that reads the residual stream."""

    name: str
    kind: str
    """`q`, `k`, `v`, `mlp` or `logits`."""
    layer: int
    """The number of layers, for the logits."""
    head: int | None
    """For k and v that of the key/value head."""
    stage: int


@dataclass(frozen=True)
class Nodes:
    """All senders and receivers of a model, in the order in which it computes them."""

    shape: ModelShape
    parallel: bool = False
    """Whether MLPs read what attention reads, as in Pythia, and not what attention has added to."""

    @cached_property
    def senders(self) -> tuple[Sender, ...]:
        """The embedding, then each layer's heads and its MLP."""
        out = [Sender(INPUT, -1, None, 0)]
        for layer in range(self.shape.n_layers):
            out += [Sender(f"a{layer}.h{head}", layer, head, 2 * layer + 1) for head in range(self.shape.n_heads)]
            if not self.shape.attn_only:
                out.append(Sender(f"m{layer}", layer, None, 2 * layer + 2))
        return tuple(out)

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """Each layer's queries, keys, values and MLP, then the logits."""
        out = []
        heads = {"q": self.shape.n_heads, "k": self.shape.n_key_value_heads, "v": self.shape.n_key_value_heads}
        for layer in range(self.shape.n_layers):
            for kind, count in heads.items():
                out += [Receiver(f"a{layer}.h{head}<{kind}>", kind, layer, head, 2 * layer) for head in range(count)]
            if not self.shape.attn_only:
                out.append(Receiver(f"m{layer}", "mlp", layer, None, 2 * layer + (not self.parallel)))
        n_layers = self.shape.n_layers
        return (*out, Receiver(LOGITS, LOGITS, n_layers, None, 2 * n_layers))

    @cached_property
    def reads(self) -> Bool[Tensor, "sender receiver"]:
        """Which edges there are."""
        wrote = torch.tensor([sender.stage for sender in self.senders])
        return wrote[:, None] <= torch.tensor([receiver.stage for receiver in self.receivers])

    @cached_property
    def edges(self) -> Int[Tensor, "edge 2"]:
        """Numbers of the sender and the receiver of each edge."""
        return self.reads.nonzero()

    @cached_property
    def edge_names(self) -> list[str]:
        """Of each edge, as in `a3.h5->a4.h1<k>`."""
        return [self.edge_name(sender, receiver) for sender, receiver in self.edges.tolist()]

    @cached_property
    def reading(self) -> dict[tuple[str, int], slice]:
        """Where the receivers of a kind and layer stand; they follow one another."""
        return _ranges([(one.kind, one.layer) for one in self.receivers])

    @cached_property
    def writing(self) -> dict[tuple[int, bool], slice]:
        """Where a layer's heads (True), or its MLP or the embedding (False), stand among the senders."""
        return _ranges([(one.layer, one.head is not None) for one in self.senders])

    def written_before(self, receiver: int) -> int:
        """Senders that a receiver reads: the first so many."""
        return int(self.reads[:, receiver].sum())

    def edge_name(self, sender: int, receiver: int) -> str:
        """Of the edge between two numbers."""
        return f"{self.senders[sender].name}{ARROW}{self.receivers[receiver].name}"

    def sender(self, name: str) -> int:
        """Number of the sender of this name.

        Raises:
            InputError: there is none.
        """
        return _number(name, "sender", self._sender_numbers)

    def receiver(self, name: str) -> int:
        """Number of the receiver of this name.

        Raises:
            InputError: there is none.
        """
        return _number(name, "receiver", self._receiver_numbers)

    def edge(self, name: str) -> tuple[int, int]:
        """Numbers of an edge's sender and receiver.

        Raises:
            InputError: an end that there is not; a receiver that does not come after its sender.
        """
        ends = name.split(ARROW)
        if len(ends) != 2:
            raise InputError(f"An edge is written sender{ARROW}receiver, such as input{ARROW}logits, not {name!r}.")
        sender, receiver = self.sender(ends[0].strip()), self.receiver(ends[1].strip())
        if not self.reads[sender, receiver]:
            raise InputError(
                f"The receiver of {name} does not come after its sender: {ends[1].strip()} is computed before "
                f"{ends[0].strip()}."
            )
        return sender, receiver

    def inputs_of(self, sender: int) -> list[int]:
        """The receivers whose node the sender is: a head's q, k and v, an MLP's own; none for the embedding."""
        return [number for number, one in enumerate(self.receivers) if self._is_node(self.senders[sender], one)]

    def _is_node(self, sender: Sender, receiver: Receiver) -> bool:
        if sender.layer != receiver.layer or receiver.kind == LOGITS:
            return False
        if sender.head is None:
            return receiver.kind == "mlp"
        group = self.shape.n_heads // self.shape.n_key_value_heads
        own = {"q": sender.head, "k": sender.head // group, "v": sender.head // group}
        return own.get(receiver.kind, -1) == receiver.head

    @cached_property
    def _sender_numbers(self) -> dict[str, int]:
        return {one.name: number for number, one in enumerate(self.senders)}

    @cached_property
    def _receiver_numbers(self) -> dict[str, int]:
        return {one.name: number for number, one in enumerate(self.receivers)}


def _ranges(keys: Sequence[T]) -> dict[T, slice]:
    """Where equal keys, which follow one another, begin and end."""
    return {key: slice(keys.index(key), keys.index(key) + keys.count(key)) for key in dict.fromkeys(keys)}


def _number(name: str, what: str, numbers: dict[str, int]) -> int:
    if name not in numbers:
        near = difflib.get_close_matches(name, numbers, n=1)
        hint = f" Did you mean {near[0]}?" if near else f" They are named like {_examples(list(numbers))}."
        raise InputError(f"The model has no {what} {name!r}.{hint}")
    return numbers[name]


def _examples(names: Sequence[str]) -> str:
    return f"{names[0]}, {names[len(names) // 2]} and {names[-1]}"
