"""Exact patching of many cells at once.

A cell replaces parts of one site (a layer's queries at a position, say) and leaves the rest of the model to follow. Run
by itself it repeats the base run up to its layer, and, because attention is causal, at all positions before its first
changed one. Here nothing of that is repeated:

1. The base run is done once; its residual stream before every layer, its keys and its values are kept.
2. A row (one cell on one prompt) joins the batch at its own layer, with the base run's residual stream from its first
   changed position on. Before that position it attends to the base run's keys and values.
3. The layers run on all rows that have joined, packed into one axis: a token's norm, projections and MLP do not depend
   on where it stands. Only attention looks at rows, in groups that begin and end at the same positions.
4. At the site the replaced parts are written over what the row computed; this is the patch, and the only one.
5. Nothing after the last position that the metric reads is computed, and in the last layer only the positions that it
   reads go beyond the keys and values.

So a row computes what a whole forward pass with a hook computes, in another order of additions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.models.layers import Layers, Touch

ATTENTION_SITES = ("attn_scores", "pattern")


@dataclass(frozen=True)
class Parts:
    """What cells replace: one entry for each part; -1 stands for all positions or all heads."""

    cell: Int[Tensor, " part"]
    layer: Int[Tensor, " part"]
    position: Int[Tensor, " part"]
    head: Int[Tensor, " part"]
    n_cells: int

    @cached_property
    def first_layer(self) -> Int[Tensor, " cell"]:
        """Layer at which a cell's row joins."""
        return _least(self.cell, self.layer, self.n_cells)

    @cached_property
    def first_position(self) -> Int[Tensor, " cell"]:
        """First position that a cell changes."""
        return _least(self.cell, self.position.clamp(min=0), self.n_cells)


@dataclass(frozen=True)
class Trace:
    """One run of some prompts: what rows take from it. Lists hold one tensor a layer."""

    residual: list[Float[Tensor, "prompt position d_model"]]
    """Before each layer."""
    keys: list[Float[Tensor, "prompt position kv_head d_head"]]
    """As the scores take them."""
    values: list[Float[Tensor, "prompt position kv_head d_head"]]
    site: list[Tensor]
    """The activations at the site: [prompt position ...], or [prompt head query key]."""
    final: Float[Tensor, "prompt position d_model"]
    """After the last norm."""


@dataclass(frozen=True)
class _Group:
    """Rows that begin and end at the same positions and are read at the same ones, by the layer at which they join."""

    rows: Int[Tensor, " row"]
    layers: list[int]
    start: int
    stop: int
    read: Int[Tensor, " n"]

    def joined(self, layer: int) -> int:
        """Rows that are there in this layer."""
        return sum(own <= layer for own in self.layers)


def trace(layers: Layers, residual: Float[Tensor, "prompt position d_model"], site: str | None) -> Trace:
    """Run every layer on whole prompts, from the residual stream before the first, and keep what rows need."""
    prompts, length = residual.shape[:2]
    positions = torch.arange(length, device=residual.device)
    made = Trace([], [], [], [], residual)
    x = residual.flatten(0, 1)

    def touch(name: str, activation: Tensor) -> Tensor:
        if name == site:
            whole = activation if name in ATTENTION_SITES else activation.view(prompts, length, *activation.shape[1:])
            made.site.append(whole)
        return activation

    for layer in range(layers.cfg.n_layers):
        made.residual.append(x.view(prompts, length, -1))
        x = touch("resid_pre", x)
        q, k, v = (touch(n, t) for n, t in zip("qkv", layers.project(layer, x), strict=True))
        q, k, v = (t.view(prompts, length, *t.shape[1:]) for t in (q, k, v))
        k = layers.place(layer, k, positions, "k")
        made.keys.append(k)
        made.values.append(v)
        z = layers.attend(layer, layers.place(layer, q, positions, "q"), k, v, positions, touch)
        x = layers.finish(layer, x, touch("z", z.reshape(prompts * length, *z.shape[2:])), touch)
    return Trace(made.residual, made.keys, made.values, made.site, layers.final(x).view(prompts, length, -1))


@dataclass(frozen=True)
class Sweep:
    """Rows of a patching sweep over one set of prompts; row r is cell r % n_cells on prompt r // n_cells."""

    layers: Layers
    site: str
    base: Trace
    source: list[Tensor]
    """The replacement at the site, by layer; prompts as in the base."""
    parts: Parts
    read: Int[Tensor, "prompt n"]
    """Positions that the metric reads."""

    def finals(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row n d_model"]:
        """The final, normalised residual stream of each row at the positions that the metric reads.

        Rows that change nothing before or at the last of them are the caller's to leave out.
        """
        groups = list(self._grouped(rows))
        streams: list[Tensor | None] = [None] * len(groups)
        for layer in range(min(g.layers[0] for g in groups), self.layers.cfg.n_layers):
            self._join(layer, groups, streams)
            self._advance(layer, groups, streams)
        out = self.base.final.new_empty((len(rows), self.read.shape[1], self.base.final.shape[-1]))
        place = {int(row): i for i, row in enumerate(rows)}
        for group, stream in zip(groups, streams, strict=True):
            assert stream is not None
            where = torch.tensor([place[int(row)] for row in group.rows], device=out.device)
            out[where] = self.layers.final(stream.flatten(0, 1)).view_as(stream)
            # What the metric reads before the first change is the base run's.
            for n, position in enumerate(group.read.tolist()):
                if position < group.start:
                    out[where, n] = self.base.final[(group.rows // self.parts.n_cells).to(out.device), position]
        return out

    def _grouped(self, rows: Int[Tensor, " row"]) -> Iterator[_Group]:
        cell, prompt = rows % self.parts.n_cells, rows // self.parts.n_cells
        start, layer = self.parts.first_position[cell], self.parts.first_layer[cell]
        keys: dict[tuple[int, ...], list[int]] = {}
        read = self.read.tolist()
        for i, (s, p) in enumerate(zip(start.tolist(), prompt.tolist(), strict=True)):
            keys.setdefault((s, *read[p]), []).append(i)
        for (first, *positions), members in sorted(keys.items()):
            order = sorted(members, key=lambda i: int(layer[i]))
            yield _Group(rows[order], layer[order].tolist(), first, max(positions) + 1, torch.tensor(positions))

    def _join(self, layer: int, groups: Sequence[_Group], streams: list[Tensor | None]) -> None:
        """Add the rows whose first change is in this layer, with the base run's residual stream."""
        for i, group in enumerate(groups):
            new = [n for n, own in enumerate(group.layers) if own == layer]
            if not new:
                continue
            prompts = (group.rows[new] // self.parts.n_cells).to(self.base.final.device)
            joining = self.base.residual[layer][prompts, group.start : group.stop]
            before = streams[i]
            streams[i] = joining if before is None else torch.cat([before, joining])

    def _advance(self, layer: int, groups: Sequence[_Group], streams: list[Tensor | None]) -> None:
        """Run one layer on every row that has joined."""
        live = [(i, group) for i, group in enumerate(groups) if streams[i] is not None]
        last = layer == self.layers.cfg.n_layers - 1
        packing = _Packing([(g.rows[: g.joined(layer)], g) for _, g in live], last)
        edit = _Editor(self.site, self.source[layer], self.parts, layer, packing)
        whole = [stream for i, _ in live if (stream := streams[i]) is not None]
        x = edit("resid_pre", torch.cat([stream.flatten(0, 1) for stream in whole]))
        normed = self.layers.normed(layer, x)
        k, v = (edit(name, t) for name, t in zip("kv", self.layers.keys_values(layer, normed), strict=True))
        if last:
            kept = packing.kept.to(x.device)
            x, normed = x[kept], normed[kept]
        q = edit("q", self.layers.queries(layer, normed))
        z = torch.cat(
            [
                self._attend(layer, rows, group, q[one], k[all_], v[all_], edit)
                for (rows, group), one, all_ in zip(packing.members, packing.queries, packing.tokens, strict=True)
            ]
        )
        x = self.layers.finish(layer, x, edit("z", z), edit)
        for (i, _), (rows, _), one in zip(live, packing.members, packing.queries, strict=True):
            streams[i] = x[one].view(len(rows), -1, x.shape[-1])

    def _attend(
        self, layer: int, rows: Tensor, group: _Group, q: Tensor, k: Tensor, v: Tensor, edit: "_Editor"
    ) -> Float[Tensor, "query head d_head"]:
        """Z of a group's rows, packed: their own keys and values come after the base run's."""
        n, device = len(rows), q.device
        prompts = (rows // self.parts.n_cells).to(device)
        own = torch.arange(group.start, group.stop, device=device)
        queries = edit.queries_of(group).to(device)
        q, k, v = (t.view(n, -1, *t.shape[1:]) for t in (q, k, v))
        k = self.layers.place(layer, k, own, "k")
        if group.start:
            k = torch.cat([self.base.keys[layer][prompts, : group.start], k], dim=1)
            v = torch.cat([self.base.values[layer][prompts, : group.start], v], dim=1)
        z = self.layers.attend(
            layer, self.layers.place(layer, q, queries, "q"), k, v, queries, edit.within(rows, group)
        )
        return z.reshape(-1, *z.shape[2:])


class _Packing:
    """Where the tokens of rows stand in the packed axis; in the last layer queries are the positions that are read."""

    def __init__(self, members: list[tuple[Tensor, _Group]], last: bool) -> None:
        self.members, self.last = members, last
        self.tokens, self.queries, kept = [], [], []
        self.offset: dict[int, tuple[int, int, _Group]] = {}
        token = query = 0
        for rows, group in members:
            width = group.stop - group.start
            wide = len(group.read) if last else width
            for n, row in enumerate(rows.tolist()):
                self.offset[row] = (token + n * width, query + n * wide, group)
            if last:
                place = torch.arange(len(rows))[:, None] * width + (group.read - group.start).clamp(min=0)
                kept.append(token + place.flatten())
            self.tokens.append(slice(token, token + len(rows) * width))
            self.queries.append(slice(query, query + len(rows) * wide))
            token, query = token + len(rows) * width, query + len(rows) * wide
        self.kept = torch.cat(kept) if kept else torch.empty(0, dtype=torch.long)


class _Editor:
    """Writes the replaced parts over what rows computed at the site, and nothing else."""

    def __init__(self, site: str, source: Tensor, parts: Parts, layer: int, packing: _Packing) -> None:
        self._site, self._source, self._packing = site, source, packing
        self._parts, self._layer = parts, layer

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """The activation at `name`, edited if that is the site."""
        if name != self._site or name in ATTENTION_SITES:
            return x
        before_queries = name in ("resid_pre", "k", "v")
        prompts, positions, heads, places = [], [], [], []
        for row, position, head, (token, query, group) in self._entries(self._packing.offset):
            place = token + position - group.start if before_queries else self._query(query, position, group)
            if place is not None:
                prompts.append(row // self._parts.n_cells)
                positions.append(position)
                heads.append(head)
                places.append(place)
        if not places:
            return x
        at = [torch.tensor(values, device=x.device) for values in (places, prompts, positions, heads)]
        return _write(x, at[0], at[1], at[2], at[3], self._source)

    def within(self, rows: Tensor, group: _Group) -> Touch:
        """The same for scores and patterns of one group: [row head query key]."""

        def touch(name: str, x: Tensor) -> Tensor:
            if name != self._site:
                return x
            local = {row: n for n, row in enumerate(rows.tolist())}
            keys = x.shape[-1]
            for row, position, head, _ in self._entries({r: self._packing.offset[r] for r in local}):
                place = self._query(0, position, group)
                if place is not None:
                    heads = slice(None) if head < 0 else head
                    x[local[row], heads, place] = self._source[row // self._parts.n_cells, heads, position, :keys]
            return x

        return touch

    def queries_of(self, group: _Group) -> Int[Tensor, " query"]:
        """Positions of the queries of a group's rows."""
        return group.read if self._packing.last else torch.arange(group.start, group.stop)

    def _query(self, offset: int, position: int, group: _Group) -> int | None:
        """Place of a position among the queries; None where nothing is computed there."""
        if not self._packing.last:
            return offset + position - group.start
        found = (group.read == position).nonzero()
        return offset + int(found[0]) if len(found) else None

    def _entries(
        self, offsets: dict[int, tuple[int, int, _Group]]
    ) -> Iterator[tuple[int, int, int, tuple[int, int, _Group]]]:
        """Row, position and head of every part that is replaced in this layer."""
        for row, where in offsets.items():
            group = where[2]
            for position, head in self._parts_here.get(row % self._parts.n_cells, ()):
                span = range(group.start, group.stop) if position < 0 else (position,)
                yield from ((row, p, head, where) for p in span if group.start <= p < group.stop)

    @cached_property
    def _parts_here(self) -> dict[int, list[tuple[int, int]]]:
        """Position and head of the parts in this layer, by cell."""
        here = (self._parts.layer == self._layer).nonzero()[:, 0]
        found: dict[int, list[tuple[int, int]]] = {}
        for cell, position, head in zip(
            self._parts.cell[here].tolist(),
            self._parts.position[here].tolist(),
            self._parts.head[here].tolist(),
            strict=True,
        ):
            found.setdefault(cell, []).append((position, head))
        return found


def _write(x: Tensor, places: Tensor, prompts: Tensor, positions: Tensor, heads: Tensor, source: Tensor) -> Tensor:
    """Entries of the packed activation `x` replaced by those of the source run; a head of -1 is all of them."""
    whole = heads < 0
    if whole.any():
        x[places[whole]] = source[prompts[whole], positions[whole]]
    if not whole.all():
        one = ~whole
        x[places[one], heads[one]] = source[prompts[one], positions[one], heads[one]]
    return x


def _least(index: Int[Tensor, " part"], value: Int[Tensor, " part"], size: int) -> Int[Tensor, " cell"]:
    out = torch.full((size,), torch.iinfo(torch.long).max)
    return out.scatter_reduce(0, index, value, "amin")
