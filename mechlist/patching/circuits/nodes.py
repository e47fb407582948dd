"""Nodes and edges of a transformer: who writes into the residual stream, who reads from it, and who reads whom.

A *sender* adds to the residual stream: the embedding (`input`), a head (`a3.h5`) or an MLP (`m3`). A *receiver* reads
it: the queries, keys or values of a head (`a3.h5<q>`, `a3.h5<k>`, `a3.h5<v>`), an MLP (`m3`) or the unembedding
(`logits`). An edge joins a sender to a receiver that reads after it: `a3.h5->a4.h1<k>`. A receiver reads the sum
of what all its senders wrote (Elhage et al. 2021). The names are those of EAP-IG (Hanna et al. 2024) and MIB; people
may write heads as everywhere (`L3H5`, `L3H5.q`).

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
from mechlist.text import joined
from mechlist.types import ModelShape, head_name, read_head, readable

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
        return self._number(name, "sender", self._sender_numbers)

    def receiver(self, name: str) -> int:
        """Number of the receiver of this name.

        Raises:
            InputError: there is none.
        """
        return self._number(name, "receiver", self._receiver_numbers)

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
        return self._inputs[sender]

    @cached_property
    def _inputs(self) -> list[list[int]]:
        return [[self._receiver_numbers[name] for name in self._own_receivers(one)] for one in self.senders]

    def _own_receivers(self, sender: Sender) -> list[str]:
        if sender.head is None:
            return [] if sender.layer < 0 else [sender.name]
        shared = sender.head // (self.shape.n_heads // self.shape.n_key_value_heads)
        own = {"q": sender.head, "k": shared, "v": shared}
        return [f"a{sender.layer}.h{head}<{kind}>" for kind, head in own.items()]

    @cached_property
    def _sender_numbers(self) -> dict[str, int]:
        return {one.name: number for number, one in enumerate(self.senders)}

    @cached_property
    def _receiver_numbers(self) -> dict[str, int]:
        return {one.name: number for number, one in enumerate(self.receivers)}

    def _number(self, name: str, what: str, numbers: dict[str, int]) -> int:
        label = node_label(name)
        if label in numbers:
            return numbers[label]
        near = difflib.get_close_matches(label, numbers, n=1)
        hint = f" Did you mean {readable(near[0])}?" if near else ""
        raise InputError(f"The model has no {what} {name!r}; {what}s are {self._described(what)}.{hint}")

    def _described(self, what: str) -> str:
        """All that there are, in a few words."""
        shape = self.shape
        last, shared = shape.n_layers - 1, shape.n_key_value_heads
        counts = {"": shape.n_heads} if what == "sender" else {"q": shape.n_heads, "k": shared, "v": shared}
        heads = [f"{head_name((0, 0), kind)} to {head_name((last, n - 1), kind)}" for kind, n in counts.items()]
        mlps = [] if shape.attn_only else [f"m0 to m{last}"]
        return joined([INPUT, *heads, *mlps] if what == "sender" else [*heads, *mlps, LOGITS])


def node_label(text: str) -> str:
    """The name of a node, its head in any notation: of `L3H5.q` it is `a3.h5<q>`."""
    found = read_head(text)
    if found is None:
        return text.strip()
    (layer, head), entry = found
    return f"a{layer}.h{head}{f'<{entry}>' if entry else ''}"


def _ranges(keys: Sequence[T]) -> dict[T, slice]:
    """Where equal keys, which follow one another, begin and end."""
    return {key: slice(keys.index(key), keys.index(key) + keys.count(key)) for key in dict.fromkeys(keys)}
