"""What a patching sweep takes: bytes and floating-point operations, counted from the model's sizes.

Operations are those of matrix products, two for each multiplication and addition; bytes are those of tensors that are
alive at the same time, beyond the model's weights. Both follow the code of `mechlist.patching.sweep.sweep` line by
line.
"""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from mechlist.metrics.measure import Measure
from mechlist.patching.sweep.packing import ATTENTION_SITES, Batch, Packing, packed, single_tokens
from mechlist.patching.sweep.parts import Parts
from mechlist.patching.sweep.sweep import AFTER_ATTENTION
from mechlist.runner.forward import Cost
from mechlist.types import ModelShape

WIDE = 4
"""Bytes of a number in a norm, whatever the model's own type."""
LOOKED_AT = 8
"""Batches of a sweep whose bytes are worked out."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model from which costs follow."""

    shape: ModelShape
    element: int
    """Bytes of a number."""
    mlp_piece: int | None = None
    """Tokens that go through an MLP at a time; None for all."""

    @property
    def heads(self) -> int:
        """Width of all queries."""
        return self.shape.n_heads * self.shape.d_head

    @property
    def key_values(self) -> int:
        """Width of all keys."""
        return self.shape.n_key_value_heads * self.shape.d_head

    @property
    def mlp_matrices(self) -> int:
        """Matrices of an MLP."""
        return 0 if self.shape.attn_only else 3 if self.shape.gated_mlp else 2

    def project_flops(self, queries: int, tokens: int) -> int:
        """Of queries, and of keys and values."""
        return 2 * self.shape.d_model * (queries * self.heads + 2 * tokens * self.key_values)

    def attend_flops(self, pairs: int) -> int:
        """Of scores and of what is read, for so many pairs of a query and a key."""
        return 4 * pairs * self.heads

    def finish_flops(self, tokens: int) -> int:
        """From z to the residual stream after the layer."""
        shape = self.shape
        return 2 * tokens * shape.d_model * (self.heads + self.mlp_matrices * shape.d_mlp)

    def unembed_flops(self, tokens: int, columns: int | None) -> int:
        """Of logits."""
        return 2 * tokens * self.shape.d_model * (self.shape.d_vocab_out if columns is None else columns)

    def forward_flops(self, prompts: int, length: int) -> int:
        """A plain forward pass through the layers."""
        tokens = prompts * length
        each = self.project_flops(tokens, tokens) + self.finish_flops(tokens)
        return self.shape.n_layers * (each + self.attend_flops(prompts * length * length))

    def trace_bytes(self, site: str, length: int, *, source: bool) -> int:
        """What stays of the trace of one prompt: streams, keys and values of the base run, and what is put in."""
        shape = self.shape
        after = self.heads if site in AFTER_ATTENTION else 0
        layer = shape.d_model + 2 * self.key_values + after + self.site_width(site, length)
        return self.element * length * (shape.n_layers * layer + shape.d_model * (2 + source))

    def trace_peak(self, site: str, prompts: int, length: int, *, source: bool) -> int:
        """The most that is alive while prompts are traced."""
        runs = prompts * (1 + source)
        passing = self._attention_bytes(runs * length, runs * length, runs * length * length, 0)
        return prompts * self.trace_bytes(site, length, source=source) + max(
            passing, self._finish_bytes(runs * length, runs * length, 0)
        )

    def site_width(self, site: str, length: int) -> int:
        """Numbers that a site holds for one token."""
        if site in ATTENTION_SITES:
            return self.shape.n_heads * length
        if site in ("q", "z"):
            return self.heads
        return self.key_values if site in ("k", "v") else self.shape.d_model

    def token_bytes(self, length: int) -> int:
        """Peak bytes of one packed token of a large batch, at most."""
        one = self._attention_bytes(1, 1, length, length)
        return max(one, self._finish_bytes(1, 1, 0))

    def batch(self, batch: Batch, site: str) -> Cost:
        """One batch of rows through the layers."""
        late = site in AFTER_ATTENTION
        flops = peak = held = 0
        for layer in range(int(batch.join.min()), self.shape.n_layers):
            last = layer == self.shape.n_layers - 1
            packing = Packing(batch, batch.joined(layer - 1 if late else layer), last)
            tokens, queries = (sum(s.stop - s.start for s in which) for which in (packing.tokens, packing.queries))
            groups = [(rows, batch.groups[number]) for number, rows in packing.live]
            pairs = [rows * len(packing.query_positions(g)) * g.stop for rows, g in groups]
            prefixed = max((rows * g.stop for rows, g in groups if g.start), default=0)
            joining = self._joining(layer, batch, last) if late else 0
            flops += self.project_flops(queries, tokens) + self.attend_flops(sum(pairs))
            flops += self.finish_flops(queries + joining)
            joined = int(batch.joined(layer).sum()) and int((batch.joined(layer) * (batch.stop - batch.start)).sum())
            attention = self._attention_bytes(tokens, queries, max(pairs, default=0), prefixed)
            finish = self._finish_bytes(tokens, queries + joining, joining)
            after = self.element * self.shape.d_model * (queries + joined) if late else 0
            peak = max(peak, attention, finish, held + after)
            held = self.element * self.shape.d_model * joined
        return Cost(flops=flops, peak_bytes=peak)

    @staticmethod
    def _joining(layer: int, batch: Batch, last: bool) -> int:
        entries = batch.entries(layer)
        entries = entries[batch.join[entries.row] == layer]
        if last:
            entries = entries[batch.slots(entries, last)[0].unique()]
        return len(single_tokens(entries)[0].row)

    def _attention_bytes(self, tokens: int, queries: int, pairs: int, prefixed: int) -> int:
        """Streams, their packed copy and norm; projections, z twice, and the scores of one group with their copies."""
        normed = self.element * 3 * tokens * self.shape.d_model
        copies = 2 * WIDE * tokens * self.shape.d_model if self.element < WIDE else 0
        made = self.element * (2 * tokens * self.key_values + queries * self.heads)
        scores = self.element * (3 * pairs * self.shape.n_heads + 2 * prefixed * self.key_values)
        z = self.element * queries * self.heads
        return normed + max(copies, made + z + max(scores, z))

    def _finish_bytes(self, tokens: int, queries: int, joining: int) -> int:
        """Streams, the residual stream before and after attention, z, and the MLP with what it makes on the way."""
        width = self.shape.d_model
        piece = queries if self.mlp_piece is None else min(self.mlp_piece, queries)
        held = self.element * (tokens * width + queries * (4 * width + self.heads))
        inner = self.element * piece * (2 * self.shape.d_mlp + width)
        return held + max(inner, self.element * queries * width) + self.element * joining * (width + self.heads)


@dataclass(frozen=True)
class RowCosts:
    """What rows of a block of prompts take, with the logits that are read of them."""

    sizes: Sizes
    site: str
    parts: Parts
    """Of the block."""
    measure: Measure
    """Of the block."""
    grain: int
    most_bytes: int
    """A piece of logits takes so many at most."""

    def of(self, rows: Int[Tensor, " row"]) -> Cost:
        """Of one batch of rows."""
        shape, element = self.sizes.shape, self.sizes.element
        batch = Batch(rows, self.parts, self.measure.read, self.grain, shape.n_layers)
        cost = self.sizes.batch(batch, self.site)
        tokens = int((batch.is_read.sum(dim=1) * batch.joined(shape.n_layers)).sum())
        # The streams, their copy and its norm.
        finals = 2 * element * tokens * shape.d_model
        held = finals + self.measure.piece_bytes(tokens, shape.d_vocab_out, self.most_bytes)
        columns = None if self.measure.columns is None else len(self.measure.columns)
        flops = cost.flops + self.sizes.unembed_flops(tokens, columns)
        return Cost(flops=flops, peak_bytes=max(cost.peak_bytes + finals, held))

    def peak(self, rows: Int[Tensor, " row"], prompts: int, length: int, most: int, *, source: bool) -> int:
        """Bytes of the runs of the block, and of the largest batch of `most` packed tokens besides."""
        start = self.parts.first_position[rows]
        width = self.measure.read.max(dim=1).values[rows // self.parts.n_cells] + 1 - start
        batches = packed(start, width, most)
        # Few are looked at, the first among them: its rows begin earliest and are the widest.
        chosen = batches[:: -(-len(batches) // LOOKED_AT)] if batches else []
        kept = prompts * self.sizes.trace_bytes(self.site, length, source=source)
        traced = self.sizes.trace_peak(self.site, prompts, length, source=source)
        return max([traced, *(kept + self.of(rows[batch]).peak_bytes for batch in chosen)])
