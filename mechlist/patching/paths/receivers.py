"""Rows in which receivers take values of their own: the second of path patching's two passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.patching.circuits.nodes import QKV, Receiver
from mechlist.patching.paths.inputs import BEFORE
from mechlist.patching.sweep.packing import Entries, Packing
from mechlist.patching.sweep.parts import ALL, Parts

SITES = (BEFORE, *QKV, "mlp_out")


@dataclass(frozen=True, eq=False)
class Put:
    """What rows put in: the value of a token of the first pass at each part."""

    parts: Parts
    site: Int[Tensor, " part"]
    """Number among `SITES`."""
    token: Int[Tensor, " part"]
    values: Mapping[tuple[str, int], Tensor]
    """By site and layer."""


class PathEditor:
    """Writes the values of a layer's parts, at whichever of the sites they are; see Editor.

    No row joins with its replaced tokens alone: its parts come before attention, or with the residual stream.
    """

    def __init__(
        self,
        put: Put,
        layer: int,
        packing: Packing,
        entries: Entries,
        joining: tuple[Entries, Tensor],  # noqa: ARG002 (an Editor's)
    ) -> None:
        self._put, self._layer, self._packing, self._entries = put, layer, packing, entries

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """The packed activation at `name`, with the parts at this site written over it."""
        value = self._put.values.get((name, self._layer))
        if value is None:
            return x
        chosen = self._put.site[self._entries.part] == SITES.index(name)
        entries, places = self._packing.places(name, self._entries[chosen])
        places, token, head = (column.to(x.device) for column in (places, self._put.token[entries.part], entries.head))
        if name in QKV:
            x[places, head] = value[token, head]
        else:
            x[places] = value[token]
        return x

    def within(self, group: object, rows: int, name: str, x: Tensor) -> Tensor:  # noqa: ARG002 (an Editor's)
        """Scores and patterns are no receivers."""
        return x


@dataclass(frozen=True, eq=False)
class Recipes:
    """Which parts of the model a set of receivers replaces, by the stage of the sender: those that come after it."""

    site: Int[Tensor, " part"]
    layer: Int[Tensor, " part"]
    head: Int[Tensor, " part"]
    """Or ALL."""
    pointer: Int[Tensor, " recipe_and_end"]
    """Where the parts of each stage and set begin, sets within stages, and the end of all."""
    n_sets: int

    def counts(self, stage: Int[Tensor, "..."], of_set: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """How many parts each stage and set has; the two broadcast."""
        recipe = stage * self.n_sets + of_set
        return self.pointer[recipe + 1] - self.pointer[recipe]


def recipes(sets: Sequence[Sequence[Receiver]], n_layers: int) -> Recipes:
    """Recipes of every stage and set; `logits` take no part."""
    table: list[tuple[int, int, int]] = []
    pointer = [0]
    for stage in range(2 * n_layers + 1):
        for receivers in sets:
            table += _recipe([one for one in receivers if one.stage >= stage and one.layer < n_layers], n_layers)
            pointer.append(len(table))
    columns = torch.tensor(table, dtype=torch.long).view(-1, 3).T
    return Recipes(columns[0], columns[1], columns[2], torch.tensor(pointer), len(sets))


def _recipe(receivers: Sequence[Receiver], n_layers: int) -> list[tuple[int, int, int]]:
    """Site, layer and head of each part.

    What changes first may be an MLP, and nothing with it in its layer: the row then joins before the next layer, with
    the changed residual stream.
    """
    first = min((one.layer for one in receivers), default=0)
    early = first < n_layers - 1 and all(one.kind == "mlp" for one in receivers if one.layer == first)
    parts = []
    for one in receivers:
        if one.kind != "mlp":
            assert one.head is not None
            parts.append((SITES.index(one.kind), one.layer, one.head))
        elif early and one.layer == first:
            parts.append((SITES.index(BEFORE), one.layer + 1, ALL))
        else:
            parts.append((SITES.index("mlp_out"), one.layer, ALL))
    return parts


def put(
    made: Recipes,
    values: Mapping[tuple[str, int], Tensor],
    prompts: int,
    *,
    prompt: Int[Tensor, " row"],
    stage: Int[Tensor, " row"],
    of_set: Int[Tensor, " row"],
    start: Int[Tensor, " row"],
    token: Int[Tensor, " row"],
    width: Int[Tensor, " row"],
) -> tuple[Put, Int[Tensor, " row"]]:
    """What rows put in, and their numbers as `Parts` has them.

    Args:
        made: which parts.
        values: of the first pass.
        prompts: how many there are.
        prompt: of each row; ascending.
        stage: of its sender.
        of_set: its set of receivers.
        start: its first changed position.
        token: the first pass's token there; the others follow it.
        width: how many.
    """
    counts = torch.bincount(prompt, minlength=prompts)
    n_cells = int(counts.max())
    number = prompt * n_cells + torch.arange(len(prompt)) - (counts.cumsum(0) - counts)[prompt]
    row, within = _spread(made.counts(stage, of_set))
    part = made.pointer[(stage * made.n_sets + of_set)[row]] + within
    which, offset = _spread(width[row])
    row, part = row[which], part[which]
    parts = Parts(number[row], made.layer[part], start[row] + offset, made.head[part], n_cells, prompts)
    return Put(parts, made.site[part], token[row] + offset, values), number


def _spread(counts: Int[Tensor, " row"]) -> tuple[Int[Tensor, " item"], Int[Tensor, " item"]]:
    """Row of each item, where rows have so many, and its number within the row."""
    row = torch.arange(len(counts)).repeat_interleave(counts)
    return row, torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
