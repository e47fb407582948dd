"""Where the tokens of a sweep's rows stand in the packed axis, and the writing of what they replace."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechlist.models.sites import ATTENTION_SITES
from mechlist.patching.sweep.parts import ALL, Parts


@dataclass(frozen=True)
class Group:
    """Rows that begin and end at the same positions and are read at the same ones."""

    first: int
    """Its first row in the batch."""
    prompts: Int[Tensor, " row"]
    start: int
    stop: int
    read: Int[Tensor, " m"]
    """Positions from the start on that the metric reads, each once."""
    slots: Int[Tensor, " m"]
    """Their numbers among all that it reads."""


@dataclass(frozen=True)
class Entries:
    """Single positions that rows of a batch replace."""

    row: Int[Tensor, " entry"]
    """Number in the batch; ascending."""
    prompt: Int[Tensor, " entry"]
    position: Int[Tensor, " entry"]
    head: Int[Tensor, " entry"]
    """Or ALL."""
    part: Int[Tensor, " entry"]
    """Number of the part that it comes from."""

    def __getitem__(self, chosen: Tensor | slice) -> "Entries":
        columns = (self.row, self.prompt, self.position, self.head, self.part)
        return Entries(*(column[chosen] for column in columns))


class Batch:
    """Rows in groups; within a group in the order in which they join, so that those that have joined come first."""

    def __init__(
        self, rows: Int[Tensor, " row"], parts: Parts, read: Int[Tensor, "prompt n"], grain: int, n_layers: int
    ) -> None:
        prompt = rows // parts.n_cells
        start = parts.first_position[rows] // grain * grain
        join = parts.first_layer[rows]
        keys = torch.cat([start[:, None], read[prompt]], dim=1)
        distinct, group = keys.unique(dim=0, return_inverse=True)
        self.order = torch.argsort(group * (n_layers + 1) + join, stable=True)
        """Numbers of the given rows, as the batch has them."""
        self.prompt, self.join, self.group = prompt[self.order], join[self.order], group[self.order]
        sizes = torch.bincount(group, minlength=len(distinct))
        self.first = sizes.cumsum(0) - sizes
        self.start = distinct[:, 0]
        self.stop = distinct[:, 1:].max(dim=1).values + 1
        reads = distinct[:, 1:]
        again = (reads[:, :, None] == reads[:, None]).tril(-1).any(dim=2)
        self.is_read = (reads >= self.start[:, None]) & ~again
        self.read = torch.where(self.is_read, reads, -1)
        self.groups = [
            Group(first, self.prompt[first : first + size], begin, end, read[chosen], chosen.nonzero()[:, 0])
            for first, size, begin, end, read, chosen in zip(
                *(column.tolist() for column in (self.first, sizes, self.start, self.stop)),
                self.read,
                self.is_read,
                strict=True,
            )
        ]
        entries, layer = self._entries(rows[self.order], parts)
        self._by_layer = {n: entries[layer == n] for n in layer.unique().tolist()}
        self._none = entries[layer < 0]

    def joined(self, layer: int) -> Int[Tensor, " group"]:
        """Rows of each group that joined in this layer or before it."""
        return torch.bincount(self.group[self.join <= layer], minlength=len(self.groups))

    def entries(self, layer: int) -> Entries:
        """What is replaced in this layer."""
        return self._by_layer.get(layer, self._none)

    def slots(self, entries: Entries, last: bool) -> tuple[Int[Tensor, " slot"], Int[Tensor, " slot"]]:
        """Where entries stand among their row's positions: numbers of the entries, and the slot of each.

        In the last layer these are the positions that are read: an entry may be none of them.
        """
        group = self.group[entries.row]
        if not last:
            return torch.arange(len(entries.row)), entries.position - self.start[group]
        index, which = (self.read[group] == entries.position[:, None]).nonzero().T
        return index, (self.is_read.cumsum(dim=1) - 1)[group[index], which]

    def _entries(self, rows: Int[Tensor, " row"], parts: Parts) -> tuple[Entries, Int[Tensor, " entry"]]:
        """All positions become single ones; those beyond the last that is read are left out."""
        row, part = parts.of(rows)
        position = parts.position[part]
        begin, end = self.start[self.group[row]], self.stop[self.group[row]]
        counts = torch.where(position == ALL, end - begin, 1)
        which = torch.arange(len(row)).repeat_interleave(counts)
        within = torch.arange(len(which)) - (counts.cumsum(0) - counts)[which]
        single = torch.where(position[which] == ALL, begin[which] + within, position[which])
        kept = single < end[which]
        which, single = which[kept], single[kept]
        chosen = part[which]
        entries = Entries(row[which], self.prompt[row[which]], single, parts.head[chosen], chosen)
        return entries, parts.layer[chosen]


class Packing:
    """The rows of a batch that have joined, in one layer; in the last, queries are the positions that are read."""

    def __init__(self, batch: Batch, joined: Int[Tensor, " group"], last: bool) -> None:
        self._batch, self.last = batch, last
        self._width = batch.stop - batch.start
        self._wide = batch.is_read.sum(dim=1) if last else self._width
        self._token, self._query = ((joined * w).cumsum(0) - joined * w for w in (self._width, self._wide))
        live = joined.nonzero()[:, 0]
        self.live = list(zip(live.tolist(), joined[live].tolist(), strict=True))
        """Groups that have rows, and how many."""
        self.tokens, self.queries = (
            [
                slice(start, start + n)
                for start, n in zip(first[live].tolist(), (joined * w)[live].tolist(), strict=True)
            ]
            for first, w in ((self._token, self._width), (self._query, self._wide))
        )

    @cached_property
    def kept(self) -> Int[Tensor, " query"]:
        """Tokens that are queries in the last layer."""
        places = []
        for number, rows in self.live:
            group = self._batch.groups[number]
            first = self._token[number] + torch.arange(rows) * self._width[number]
            places.append((first[:, None] + group.read - group.start).flatten())
        return torch.cat(places)

    def query_positions(self, group: Group) -> Int[Tensor, " query"]:
        """Positions of the queries of each of a group's rows."""
        return group.read if self.last else torch.arange(group.start, group.stop)

    def slots(self, entries: Entries) -> tuple[Entries, Int[Tensor, " entry"]]:
        """Entries that are queries, and the number of each among the queries of its row."""
        index, slot = self._batch.slots(entries, self.last)
        return entries[index], slot

    def places(self, site: str, entries: Entries) -> tuple[Entries, Int[Tensor, " entry"]]:
        """Entries that a site has, and where they stand among its packed tokens or queries."""
        if site in ("resid_pre", "k", "v"):
            return entries, self.token_places(entries)
        entries, slot = self.slots(entries)
        return entries, self.query_places(entries, slot)

    def token_places(self, entries: Entries) -> Int[Tensor, " entry"]:
        """Of each entry among the packed tokens."""
        group = self._batch.group[entries.row]
        row = entries.row - self._batch.first[group]
        return self._token[group] + row * self._width[group] + entries.position - self._batch.start[group]

    def query_places(self, entries: Entries, slot: Int[Tensor, " entry"]) -> Int[Tensor, " entry"]:
        """Of each entry among the packed queries."""
        group = self._batch.group[entries.row]
        return self._query[group] + (entries.row - self._batch.first[group]) * self._wide[group] + slot


@runtime_checkable
class Editor(Protocol):
    """Writes what rows replace in one layer over what they computed, and nothing else."""

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """The packed activation at the site `name`, with what is replaced there."""
        ...

    def within(self, group: Group, rows: int, name: str, x: Tensor) -> Tensor:
        """The scores or the pattern of a group's rows, [row head query key], with what is replaced there."""
        ...


class SourceEditor:
    """Writes the source's parts at the site; see Editor.

    `joining` are entries of rows that are in their own layer with the replaced tokens alone, and where these stand,
    behind the packed queries.
    """

    def __init__(
        self,
        site: str,
        sources: Sequence[Tensor],
        layer: int,
        packing: Packing,
        entries: Entries,
        joining: tuple[Entries, Tensor],
    ) -> None:
        self._site, self._source, self._packing = site, sources[layer], packing
        self._entries, self._joining = entries, joining

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """The packed activation at `name`, edited if that is the site."""
        if name != self._site or name in ATTENTION_SITES:
            return x
        entries, places = self._packing.places(name, self._entries)
        self._write(x, places, entries)
        joining, behind = self._joining
        self._write(x, behind, joining)
        return x

    def within(self, group: Group, rows: int, name: str, x: Tensor) -> Tensor:
        """The scores or the pattern of a group's rows, [row head query key], edited if that is the site."""
        if name != self._site:
            return x
        ends = torch.tensor([group.first, group.first + rows])
        first, last = torch.searchsorted(self._entries.row, ends).tolist()
        entries, slot = self._packing.slots(self._entries[slice(first, last)])
        keys = x.shape[-1]
        for whole in (True, False):
            chosen = (entries.head == ALL) == whole
            if not chosen.any():
                continue
            row, prompt, position, head, place = _on(x, chosen, entries, slot)
            if whole:
                x[row - group.first, :, place] = self._source[prompt, :, position, :keys]
            else:
                x[row - group.first, head, place] = self._source[prompt, head, position, :keys]
        return x

    def _write(self, x: Tensor, places: Int[Tensor, " entry"], entries: Entries) -> None:
        for whole in (True, False):
            chosen = (entries.head == ALL) == whole
            if not chosen.any():
                continue
            _, prompt, position, head, place = _on(x, chosen, entries, places)
            if whole:
                x[place] = self._source[prompt, position]
            else:
                x[place, head] = self._source[prompt, position, head]


def _on(x: Tensor, chosen: Bool[Tensor, " entry"], entries: Entries, place: Tensor) -> Sequence[Int[Tensor, " entry"]]:
    """Row, prompt, position, head and place of the chosen entries, on the device of `x`."""
    columns = (entries.row, entries.prompt, entries.position, entries.head, place)
    return [column[chosen].to(x.device) for column in columns]


def packed(start: Int[Tensor, " row"], width: Int[Tensor, " same_row"], most: int) -> list[list[int]]:
    """Batches of rows with at most so many tokens together, rows that begin at the same position together."""
    order = torch.argsort(start, stable=True)
    plan: list[list[int]] = []
    used = most
    for row, tokens in zip(order.tolist(), width[order].tolist(), strict=True):
        if used + tokens > most:
            plan.append([])
            used = 0
        plan[-1].append(row)
        used += tokens
    return plan


def single_tokens(entries: Entries) -> tuple[Entries, Int[Tensor, " entry"]]:
    """The tokens of some entries, each once: an entry of each token, and the token of each entry."""
    key = entries.row * (int(entries.position.max()) + 1 if len(entries.row) else 1) + entries.position
    distinct, which = key.unique(return_inverse=True)
    first = torch.full((len(distinct),), len(which)).scatter_reduce(0, which, torch.arange(len(which)), "amin")
    return entries[first], which
