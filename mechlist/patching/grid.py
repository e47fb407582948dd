"""`patch_grid`: the metric with one part of the model replaced at a time, exactly and all cells at once."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError, MechlistError
from mechlist.metrics.answers import Measure, Metric
from mechlist.models.language_model import LanguageModel
from mechlist.models.layers import Layers, unsupported
from mechlist.patching.cells import check_site, grid, hook_name, named
from mechlist.patching.hooked import hooked_values
from mechlist.patching.sweep import ATTENTION_SITES, Parts, Sweep, Trace, trace
from mechlist.runner import Runner
from mechlist.runner.batching import check_prompts

CPU_TOKENS = 4096
"""Packed tokens of a batch beyond which a larger one is no faster on a CPU."""
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 2e-2}
"""How far the final residual stream may be from TransformerLens's own, as a share of its largest entry."""


def patch_grid(
    runner: Runner,
    *,
    base: Int[Tensor, "..."],
    source: Int[Tensor, "..."],
    site: str,
    per: str,
    metric: Metric,
    lengths: Int[Tensor, "..."] | None = None,
    cells: Mapping[str, Iterable[Any]] | None = None,
) -> xr.Dataset:
    """Replace parts of the base run by those of the source run, one cell at a time, and measure.

    Each value equals one full forward pass of the base prompt with a hook at the site, up to float rounding (1e-4 in
    float32 on every architecture in the tests). Models that cannot be run layer by layer go through such passes,
    batched.

    Args:
        runner: with the model.
        base: prompts that are run and changed.
        source: prompts that the replacements come from; position for position.
        site: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v, pattern or attn_scores.
        per: position, head or head_position; for patterns and scores the position is the query's.
        metric: what is measured; `LogitDifference` or another `Metric`.
        lengths: real tokens of prompts that are padded on the right; cells beyond them are NaN.
        cells: named sets of (layer, position), (layer, head) or (layer, head, position), each replaced together, in
            place of the whole grid.

    Returns:
        `patched(prompt, layer, head, position)` with the axes that `per` names, or `patched(prompt, cell)`;
        `base(prompt)`, `source(prompt)`, and `recovered` = (patched - base) / (source - base), which is NaN where
        source and base measure the same.

    Raises:
        InputError: shapes that differ, tokens, positions, heads or a site that the model does not have.
    """
    shape = runner.shape
    check_site(site, per, shape, runner.language_model.hook_names)
    sizes = _lengths(base, source, lengths)
    for tokens in (base, source):
        check_prompts(tokens, shape.n_ctx, shape.d_vocab)
    measure = metric.prepare(sizes, shape.d_vocab)
    length = base.shape[1]
    if cells is None:
        parts, axes = grid(site, per, shape, length)
    else:
        parts, axes = named(cells, site, per, shape, length), {"cell": len(cells)}
    task = _Task(runner, base, source, sizes, site, parts, measure)
    values = task.values()
    _warn(values, task, cells)
    return _dataset(values, axes, None if cells is None else list(cells), metric.unit, site)


@dataclass(frozen=True)
class _Values:
    """The metric of every prompt and cell, and of the two runs themselves."""

    patched: Float[Tensor, "prompt cell"]
    base: Float[Tensor, " prompt"]
    source: Float[Tensor, " prompt"]
    path: str
    """How it was computed."""


@dataclass(frozen=True)
class _Task:
    """What is asked, checked."""

    runner: Runner
    base: Int[Tensor, "prompt position"]
    source: Int[Tensor, "prompt position"]
    lengths: Int[Tensor, " prompt"]
    site: str
    parts: Parts
    measure: Measure

    @cached_property
    def changed(self) -> Bool[Tensor, "prompt cell"]:
        """Whether the cell changes anything that the metric can see."""
        return self.parts.first_position[None] <= self.measure.read.max(dim=1).values[:, None]

    @cached_property
    def outside(self) -> Bool[Tensor, "prompt cell"]:
        """Whether the cell changes a position beyond the prompt's end; "all positions" are those of the prompt."""
        single = self.parts.position >= 0
        last = torch.full((self.parts.n_cells,), -1).scatter_reduce(
            0, self.parts.cell[single], self.parts.position[single], "amax"
        )
        return last[None] >= self.lengths[:, None]

    def values(self) -> _Values:
        """Layer by layer where the model allows it, else by whole forward passes."""
        reason = unsupported(self.runner.model)
        if reason is None:
            return self._fast()
        patched, base, source = hooked_values(
            self.runner,
            self.base,
            self.source,
            self.lengths,
            [hook_name(self.site, layer) for layer in range(self.runner.shape.n_layers)],
            self.parts,
            self.measure,
            self.changed & ~self.outside,
        )
        return _Values(self._filled(patched, base), base, source, f"whole forward passes, because {reason}")

    def _fast(self) -> _Values:
        runner, layers = self.runner, Layers(self.runner.model)
        blocks = []
        for prompts in self._prompt_blocks(layers):
            with torch.no_grad():
                traces = [self._trace(layers, tokens[prompts]) for tokens in (self.base, self.source)]
            wanted = (self.changed & ~self.outside)[prompts] & _replaces(
                self.site, self.parts, traces[1].site, traces[0].site
            )
            rows = wanted.flatten().nonzero()[:, 0]
            work = _Work(self, layers, prompts, traces[0], traces[1].site, rows)
            base, source = (work.measured(t.final) for t in traces)
            patched = base[:, None].repeat(1, self.parts.n_cells)
            if len(rows):
                plan, asked = work.plan()
                patched.view(-1)[rows] = runner.execute(work, plan, asked, "Patching")["value"]
            blocks.append((patched, base, source))
        patched, base, source = (torch.cat(column) for column in zip(*blocks, strict=True))
        return _Values(self._filled(patched, base), base, source, "layer by layer")

    def _filled(self, patched: Tensor, base: Tensor) -> Tensor:
        """Cells that change nothing the metric sees have the base's value, cells beyond a prompt's end NaN."""
        filled = torch.where(self.changed, patched, base[:, None])
        return filled.masked_fill(self.outside, torch.nan)

    def _prompt_blocks(self, layers: Layers) -> Sequence[Tensor]:
        """Prompts whose traces fit a third of the memory together; one at least."""
        shape, element = self.runner.shape, self.runner.language_model.dtype.itemsize
        length = self.base.shape[1]
        heads = layers.n_heads + 2 * layers.n_key_value_heads
        widths = shape.d_model + 2 * layers.n_key_value_heads * shape.d_head
        widths += max(shape.d_model, heads * shape.d_head, layers.n_heads * length)
        each = 2 * element * shape.n_layers * length * widths
        return torch.arange(len(self.base)).split(max(1, self.runner.memory // 3 // each))

    def _trace(self, layers: Layers, tokens: Int[Tensor, "prompt position"]) -> Trace:
        """Run through our layers, and compared with TransformerLens's own run."""
        model = self.runner.language_model
        first: list[Tensor] = []

        def keep(activation: Tensor, hook: Any) -> None:  # noqa: ARG001 (TransformerLens passes it by name)
            first.append(activation)

        final = model.residual(tokens.to(model.device), [("blocks.0.hook_resid_pre", keep)])
        made = trace(layers, first[0], self.site)
        largest = float((made.final - final).abs().max() / final.abs().max())
        if not largest <= ROUNDING[model.dtype]:
            raise MechlistError(
                f"The model's layers, run one by one, miss its own final residual stream by {largest:.2g} of its "
                "largest entry: patching cannot be trusted. Please report the architecture."
            )
        return made


@dataclass(frozen=True)
class _Work:
    """Rows of one block of prompts; row r is cell r % n_cells on the block's prompt r // n_cells."""

    task: _Task
    layers: Layers
    block: Int[Tensor, " prompt"]
    base: Trace
    source: list[Tensor]
    rows: Int[Tensor, " row"]

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self.task.runner.language_model

    @cached_property
    def prompts(self) -> list[Tensor]:
        """Tokens of each row."""
        tokens = self.task.base[self.block].unbind()
        return [tokens[row // self.task.parts.n_cells] for row in self.rows.tolist()]

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """The metric of the rows that `members` number."""
        rows = self.rows[members]
        read = self.task.measure.read[self.block]
        sweep = Sweep(self.layers, self.task.site, self.base, self.source, self.task.parts, read)
        with torch.no_grad():
            finals = sweep.finals(rows)
            return {"value": self._measure(finals, self.block[rows // self.task.parts.n_cells])}

    def measured(self, final: Float[Tensor, "prompt position d_model"]) -> Float[Tensor, " prompt"]:
        """The metric of whole runs of the block's prompts."""
        read = self.task.measure.read[self.block].to(final.device)
        with torch.no_grad():
            return self._measure(final[torch.arange(len(final), device=final.device)[:, None], read], self.block)

    def plan(self) -> tuple[list[list[int]], str]:
        """Batches of rows by packed tokens, rows that begin at the same position together; and what is asked."""
        rows, parts, read = self.rows, self.task.parts, self.task.measure.read[self.block]
        start = parts.first_position[rows % parts.n_cells]
        widths = (read.max(dim=1).values[rows // parts.n_cells] + 1 - start).tolist()
        order = sorted(range(len(rows)), key=lambda i: (int(start[i]), int(rows[i])))
        most = self._most_tokens()
        plan: list[list[int]] = []
        used = most
        for i in order:
            if used + widths[i] > most:
                plan.append([])
                used = 0
            plan[-1].append(i)
            used += widths[i]
        cells = [t.tolist() for t in (parts.cell, parts.layer, parts.position, parts.head)]
        sources = self.task.source[self.block].tolist()
        return plan, f"{self.task.site} {cells} {sources} {read.tolist()} {self.task.measure.columns} {plan}"

    def _most_tokens(self) -> int:
        """Packed tokens that a third of the memory holds, with keys and values over whole prompts."""
        shape, element = self.task.runner.shape, self.model.dtype.itemsize
        heads = (self.layers.n_heads + 2 * self.layers.n_key_value_heads) * shape.d_head
        each = element * (4 * shape.d_model + 4 * heads + 3 * shape.n_heads * self.task.base.shape[1] + 3 * shape.d_mlp)
        fits = max(1, self.task.runner.memory // 3 // each)
        return min(fits, CPU_TOKENS) if self.model.device.type == "cpu" else fits

    def _measure(self, final: Float[Tensor, "row n d_model"], prompt: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        measure = self.task.measure
        columns = None if measure.columns is None else measure.columns.to(final.device)
        return measure.of(self.model.unembed(final, columns), prompt).cpu()


def _replaces(site: str, parts: Parts, source: Sequence[Tensor], base: Sequence[Tensor]) -> Bool[Tensor, "prompt cell"]:
    """Whether a cell puts in anything but what is there already, bit for bit; where not, it needs no run."""
    differs = torch.stack([(s != b).any(-1) for s, b in zip(source, base, strict=True)]).cpu()
    if differs.ndim == 3:
        differs = differs[:, :, :, None]
    elif site in ATTENTION_SITES:
        differs = differs.transpose(2, 3)
    # Layer, prompt, position, head, each of the last two with one entry more for "all".
    differs = torch.cat([differs, differs.any(2, keepdim=True)], dim=2)
    differs = torch.cat([differs, differs.any(3, keepdim=True)], dim=3)
    by_part = differs[parts.layer, :, parts.position, parts.head].T
    cells = torch.zeros(by_part.shape[0], parts.n_cells, dtype=torch.long)
    return cells.scatter_reduce(1, parts.cell.expand_as(by_part), by_part.long(), "amax") > 0


def _lengths(base: Tensor, source: Tensor, lengths: Tensor | None) -> Int[Tensor, " prompt"]:
    if base.ndim != 2 or base.shape != source.shape:
        raise InputError(
            f"base and source must have one shape [prompt, position]; received {list(base.shape)} and "
            f"{list(source.shape)}. Align prompts of unequal length first (mechlist.prompts.align)."
        )
    whole = torch.full((len(base),), base.shape[1])
    if lengths is None:
        return whole
    chosen = torch.as_tensor(lengths, dtype=torch.long)
    if chosen.shape != whole.shape or ((chosen < 1) | (chosen > whole)).any():
        raise InputError(
            f"lengths must be from 1 to {base.shape[1]}, one for each of the {len(base)} prompts, not "
            f"{chosen.tolist()}."
        )
    return chosen


def _warn(values: _Values, task: _Task, cells: Mapping[str, Any] | None) -> None:
    same = (values.base == values.source).nonzero()[:, 0].tolist()
    if same:
        warnings.warn(
            f"recovered is NaN for the prompts {same}: base and source measure the same there, so there is nothing to "
            "recover.",
            stacklevel=3,
        )
    blind = (~task.changed).all(dim=0).nonzero()[:, 0].tolist() if cells is not None else []
    if blind:
        names = [list(cells or {})[i] for i in blind]
        warnings.warn(
            f"The cells {names} change only what comes after every position that the metric reads: they cannot have an "
            "effect.",
            stacklevel=3,
        )


def _dataset(values: _Values, axes: dict[str, int], names: list[str] | None, unit: str, site: str) -> xr.Dataset:
    dims = ("prompt", *axes)
    patched = values.patched.double().numpy().reshape(len(values.base), *axes.values())
    base, source = values.base.double().numpy(), values.source.double().numpy()
    gap = np.where(base == source, np.nan, source - base).reshape(-1, *[1] * len(axes))
    recovered = (patched - base.reshape(gap.shape)) / gap
    coords = {name: np.arange(size) for name, size in axes.items()} if names is None else {"cell": names}
    return xr.Dataset(
        {
            "patched": (dims, patched, {"units": unit}),
            "base": ("prompt", base, {"units": unit}),
            "source": ("prompt", source, {"units": unit}),
            "recovered": (dims, recovered),
        },
        coords=coords,
        attrs={"site": site, "path": values.path},
    )
