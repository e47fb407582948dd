"""Exact patching of many cells at once.

A cell replaces parts of one site (a layer's queries at a position, say) and leaves the rest of the model to follow. Run
by itself it repeats the base run up to its layer, and, because attention is causal, at all positions before its first
changed one. Here nothing of that is repeated:

1. The base run is done once; its residual stream before every layer, its keys and its values are kept.
2. A row (one cell on one prompt) joins the batch at its own layer, with the base run's residual stream from its first
   changed position on. Before that position it attends to the base run's keys and values.
3. If the site comes after attention, nothing but the replaced tokens can change in that layer, because the rest of it
   treats each token by itself: they alone go through it, and the row joins before the next.
4. The layers run on all rows that have joined, packed into one axis: a token's norm, projections and MLP do not depend
   on where it stands. Only attention looks at rows, in groups that begin and end at the same positions.
5. At the site the replaced parts are written over what the row computed; this is the patch, and the only one.
6. Nothing after the last position that the metric reads is computed, and in the last layer only the positions that it
   reads go beyond the keys and values.

So a row computes what a whole forward pass with a hook computes, in another order of additions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.models.layers.layers import Layers
from mechlist.patching.sweep.packing import (
    ATTENTION_SITES,
    Batch,
    Editor,
    Entries,
    Group,
    Packing,
    single_tokens,
)
from mechlist.patching.sweep.parts import Parts
from mechlist.runner.progress import part_done

AFTER_ATTENTION = ("z", "attn_out", "resid_mid", "mlp_out", "resid_post")

Replacing = Callable[[int, Tensor, Tensor | None], Tensor]
"""Of the layer, the base run's activation at the site, and the source's if there is a source run: what is put in."""
MakeEditor = Callable[[int, Packing, Entries, tuple[Entries, Tensor]], Editor]
"""Of the layer, its packing, what is replaced in it, and what rows replace that join with their tokens alone."""
Watch = Callable[[str, Tensor], None]
"""Called with every site's name and activation on the way through the layers, packed tokens first."""


@dataclass(frozen=True)
class Trace:
    """One run of some prompts: what rows take from it. Lists hold one tensor a layer."""

    residual: list[Float[Tensor, "prompt position d_model"]]
    """Before each layer, and after the last."""
    keys: list[Float[Tensor, "prompt position kv_head d_head"]]
    """As the scores take them."""
    values: list[Float[Tensor, "prompt position kv_head d_head"]]
    z: list[Float[Tensor, "prompt position head d_head"]]
    """Where the site comes after attention."""
    source: list[Tensor]
    """What is put in at the site: [prompt position ...], or [prompt head query key]."""
    differs: list[Bool[Tensor, "prompt ..."]]
    """Where that is not, bit for bit, what is there already: [prompt position] or [prompt position head]."""
    final: Float[Tensor, "prompt position d_model"]
    """After the last norm."""
    source_final: Float[Tensor, "prompt position d_model"] | None
    """Of the source run, if there is one."""


def trace(
    layers: Layers,
    residual: Float[Tensor, "run position d_model"],
    prompts: int,
    site: str,
    replacing: Replacing,
    watch: Watch | None = None,
) -> Trace:
    """Run every layer from the residual stream before the first, and keep what rows need.

    Args:
        layers: of the model.
        residual: of the `prompts` base runs, and after them, if replacements come from source runs, of these.
        prompts: number of base runs.
        site: where parts are replaced.
        replacing: gives what is put in.
        watch: is shown every activation.
    """
    length = residual.shape[1]
    positions = torch.arange(length, device=residual.device)
    made = Trace([], [], [], [], [], [], residual, None)
    late = site in AFTER_ATTENTION

    def base_of(x: Tensor) -> Tensor:
        # A copy, where there is more: a view would keep the source's half alive.
        return x if len(x) == prompts else x[:prompts].clone()

    def touch(name: str, activation: Tensor) -> Tensor:
        if watch is not None:
            watch(name, activation)
        if name == site:
            whole = activation if name in ATTENTION_SITES else activation.view(-1, length, *activation.shape[1:])
            base = whole[:prompts]
            put = replacing(len(made.source), base, whole[prompts:] if len(whole) > prompts else None)
            made.source.append(put.clone() if len(whole) > prompts else put)
            made.differs.append(differs(name, put, base))
        return activation

    x = residual.flatten(0, 1)
    for layer in range(layers.n_layers):
        made.residual.append(base_of(x.view(-1, length, x.shape[-1])))
        x = touch("resid_pre", x)
        q, k, v = (touch(n, t) for n, t in zip("qkv", layers.project(layer, x), strict=True))
        q, k, v = (t.view(-1, length, *t.shape[1:]) for t in (q, k, v))
        k = layers.place(layer, k, positions, "k")
        made.keys.append(base_of(k))
        made.values.append(base_of(v))
        z = layers.attend(layer, layers.place(layer, q, positions, "q"), k, v, positions, touch)
        if late:
            made.z.append(base_of(z))
        x = layers.finish(layer, x, touch("z", z.reshape(-1, *z.shape[2:])), touch)
    made.residual.append(base_of(x.view(-1, length, x.shape[-1])))
    final = layers.final(x).view(-1, length, x.shape[-1])
    after = final[prompts:] if len(final) > prompts else None
    return Trace(made.residual, made.keys, made.values, made.z, made.source, made.differs, final[:prompts], after)


def differs(site: str, put: Tensor, base: Tensor) -> Bool[Tensor, "prompt ..."]:
    """Where what is put in is not, bit for bit, what is there: [prompt position] or [prompt position head]."""
    different = (put != base).any(-1).cpu()
    return different.transpose(1, 2) if site in ATTENTION_SITES else different


@dataclass(frozen=True)
class Sweep:
    """Rows of a patching sweep over one set of prompts."""

    layers: Layers
    site: str
    base: Trace
    parts: Parts
    read: Int[Tensor, "prompt n"]
    """Positions that the metric reads."""
    editor: MakeEditor
    """Makes what writes a layer's replaced parts."""
    grain: int = 1
    """Rows begin at multiples of it: more tokens, in fewer groups."""

    def finals(self, rows: Int[Tensor, " row"]) -> tuple[Float[Tensor, "token d_model"], Int[Tensor, "row n"]]:
        """The final, normalised residual stream of each row at the positions that the metric reads.

        Where these are: the number of each position's token, or -1 before the row's first change, where the base run's
        own holds. Rows that change nothing before or at the last of them are the caller's to leave out.
        """
        n_layers = self.layers.n_layers
        batch = Batch(rows, self.parts, self.read, self.grain, n_layers)
        streams: list[Tensor | None] = [None] * len(batch.groups)
        for layer in range(int(batch.join.min()), n_layers):
            self._advance(layer, batch, streams)
            part_done((layer + 1) / n_layers)
        where = torch.full((len(rows), self.read.shape[1]), -1)
        whole: list[Tensor] = []
        token = 0
        for group, stream in zip(batch.groups, streams, strict=True):
            assert stream is not None
            whole.append(stream.flatten(0, 1))
            numbers = token + torch.arange(len(whole[-1])).view(stream.shape[:2])
            where[batch.order[group.first : group.first + len(stream), None], group.slots] = numbers
            token += len(whole[-1])
        return self.layers.final(torch.cat(whole)), where

    def _advance(self, layer: int, batch: Batch, streams: list[Tensor | None]) -> None:
        """Run one layer on every row that has joined, and let those join whose own layer it is."""
        late, last = self.site in AFTER_ATTENTION, layer == self.layers.n_layers - 1
        if not late:
            self._join(layer, batch, streams, self.base.residual[layer], every=True)
        packing = Packing(batch, batch.joined(layer - 1 if late else layer), last)
        entries = batch.entries(layer)
        own = batch.join[entries.row] == layer if late else torch.zeros(len(entries.row), dtype=torch.bool)
        joining = entries[own]
        if last:
            joining = joining[batch.slots(joining, last)[0].unique()]
        tokens, which = single_tokens(joining)
        width = packing.queries[-1].stop if packing.queries else 0
        edit = self.editor(layer, packing, entries[~own], (joining, width + which))
        x, z = self._attention(layer, batch, packing, streams, edit)
        if len(which):
            prompt, position = tokens.prompt.to(x.device), tokens.position.to(x.device)
            x = torch.cat([x, self.base.residual[layer][prompt, position]])
            z = torch.cat([z, self.base.z[layer][prompt, position]])
        if len(x):
            x = self.layers.finish(layer, x, edit("z", z), edit)
        for (number, rows), one in zip(packing.live, packing.queries, strict=True):
            streams[number] = x[one].view(rows, -1, x.shape[-1])
        if late:
            self._join(layer, batch, streams, self.base.residual[layer + 1], every=not last)
            self._put(batch, streams, tokens, x[width:], last)

    def _join(self, layer: int, batch: Batch, streams: list[Tensor | None], residual: Tensor, *, every: bool) -> None:
        """Add the rows whose own layer this is, with the base run's residual stream: `every` position or those read."""
        before, after = batch.joined(layer - 1).tolist(), batch.joined(layer).tolist()
        for number, group in enumerate(batch.groups):
            if after[number] == before[number]:
                continue
            prompts = group.prompts[before[number] : after[number]].to(residual.device)
            here = torch.arange(group.start, group.stop) if every else group.read
            joining = residual[prompts[:, None], here.to(residual.device)]
            stream = streams[number]
            streams[number] = joining if stream is None else torch.cat([stream, joining])

    @staticmethod
    def _put(
        batch: Batch,
        streams: list[Tensor | None],
        tokens: Entries,
        values: Float[Tensor, "token d_model"],
        last: bool,
    ) -> None:
        """Write what rows made of their replaced tokens into their streams."""
        index, slot = batch.slots(tokens, last)
        row = tokens.row[index]
        for number, count in enumerate(torch.bincount(batch.group[row], minlength=len(batch.groups)).tolist()):
            stream = streams[number]
            if not count or stream is None:
                continue
            here = (batch.group[row] == number).nonzero()[:, 0]
            places = (row[here] - batch.groups[number].first, slot[here])
            stream[tuple(p.to(stream.device) for p in places)] = values[index[here].to(values.device)]

    def _attention(
        self, layer: int, batch: Batch, packing: Packing, streams: list[Tensor | None], edit: Editor
    ) -> tuple[Float[Tensor, "query d_model"], Float[Tensor, "query head d_head"]]:
        """The residual stream of the rows' queries, and what their heads read."""
        whole = [stream for number, _ in packing.live if (stream := streams[number]) is not None]
        if not whole:
            return self.base.residual[layer][0, :0], self.base.z[layer][0, :0]
        x = edit("resid_pre", torch.cat([stream.flatten(0, 1) for stream in whole]))
        normed = self.layers.normed(layer, x)
        k, v = (edit(name, t) for name, t in zip("kv", self.layers.keys_values(layer, normed), strict=True))
        if packing.last:
            kept = packing.kept.to(x.device)
            x, normed = x[kept], normed[kept]
        q = edit("q", self.layers.queries(layer, normed))
        z = [
            self._attend(layer, batch.groups[number], rows, packing, q[one], k[all_], v[all_], edit)
            for (number, rows), one, all_ in zip(packing.live, packing.queries, packing.tokens, strict=True)
        ]
        return x, torch.cat(z)

    def _attend(
        self, layer: int, group: Group, rows: int, packing: Packing, q: Tensor, k: Tensor, v: Tensor, edit: Editor
    ) -> Float[Tensor, "query head d_head"]:
        """Z of a group's rows, packed: their own keys and values come after the base run's."""
        device = q.device
        prompts = group.prompts[:rows].to(device)
        own = torch.arange(group.start, group.stop, device=device)
        queries = packing.query_positions(group).to(device)
        q, k, v = (t.view(rows, -1, *t.shape[1:]) for t in (q, k, v))
        k = self.layers.place(layer, k, own, "k")
        if group.start:
            k = torch.cat([self.base.keys[layer][prompts, : group.start], k], dim=1)
            v = torch.cat([self.base.values[layer][prompts, : group.start], v], dim=1)
        q = self.layers.place(layer, q, queries, "q")
        z = self.layers.attend(layer, q, k, v, queries, partial(edit.within, group, rows))
        return z.reshape(-1, *z.shape[2:])
