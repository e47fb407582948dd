"""Runs what `patch_grid` asks: layer by layer where the model allows it, else by whole forward passes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from mechlist.errors import InputError
from mechlist.metrics.measure import Measure
from mechlist.models.language_model import LanguageModel
from mechlist.models.layers.layers import PIECE, Layers
from mechlist.models.sites import ATTENTION_SITES, HEAD_SITES
from mechlist.patching.replacements import Ready
from mechlist.patching.sweep.cells import heads_of, hook_name
from mechlist.patching.sweep.cost import RowCosts, Sizes
from mechlist.patching.sweep.hooked import hooked_rows
from mechlist.patching.sweep.packing import SourceEditor, packed
from mechlist.patching.sweep.parts import Parts
from mechlist.patching.sweep.readout import Readout
from mechlist.patching.sweep.sweep import Replacing, Sweep, Trace, Watch, differs, trace
from mechlist.runner import Runner
from mechlist.runner.forward import Cost
from mechlist.runner.memory import captured_bytes, packed_tokens, padded_tokens

CPU_GRAIN, GPU_GRAIN = 1, 16
"""Rows begin at multiples of it: on a GPU a group of rows costs launches, and a few more tokens cost nothing."""


@dataclass(frozen=True)
class Values:
    """The metric of every prompt and cell, and of the runs themselves."""

    patched: Float[Tensor, "prompt cell"]
    base: Float[Tensor, " prompt"]
    source: Float[Tensor, " prompt"] | None
    """None where there is no source run."""
    path: str
    """How it was computed."""


@dataclass(frozen=True)
class Task:
    """What is asked, checked."""

    runner: Runner
    base: Int[Tensor, "prompt position"]
    source: Int[Tensor, "prompt position"] | None
    """Tokens of the source runs, if replacements come from such."""
    lengths: Int[Tensor, " prompt"]
    site: str
    parts: Parts
    labels: Mapping[str, Sequence[Any]]
    """Of the cells, along each of their axes."""
    measure: Measure
    replacement: Ready
    """What is put in."""
    source_positions: Int[Tensor, "prompt position"] | None = None
    """Of each base position the source run's that is put in there; -1 for none. None where they are the same."""
    batch_share: float = 1.0
    """Share of the usual packed tokens of a batch; less than 1 makes smaller batches, to see what rounding does."""

    @cached_property
    def last_read(self) -> Int[Tensor, " prompt"]:
        """The last position that the metric reads."""
        return self.measure.read.max(dim=1).values

    @property
    def source_read(self) -> Int[Tensor, "prompt n"]:
        """Where in the source runs what the metric reads stands."""
        read = self.measure.read
        return read if self.source_positions is None else self.source_positions.gather(1, read)

    @property
    def source_lengths(self) -> Int[Tensor, " prompt"]:
        """Tokens of each source run up to the last that is put in."""
        return self.lengths if self.source_positions is None else self.source_positions.max(dim=1).values + 1

    @cached_property
    def outside(self) -> Bool[Tensor, "prompt cell"]:
        """Whether the prompt lacks the cell: it names a position beyond its end, or none."""
        there = self.parts.first_layer.view(len(self.base), -1) < self.runner.shape.n_layers
        beyond = self.parts.last_position.view(len(self.base), -1) >= self.lengths[:, None]
        return beyond | ~there

    @cached_property
    def blind(self) -> Bool[Tensor, "prompt cell"]:
        """Whether all that the cell changes comes after what the metric reads."""
        return self.parts.first_position.view(len(self.base), -1) > self.last_read[:, None]

    @cached_property
    def reason(self) -> str | None:
        """Why whole forward passes are needed; None where they are not."""
        return whole_passes(self.runner, self.site)

    @property
    def sizes(self) -> Sizes:
        """What costs follow from."""
        model = self.runner.language_model
        piece = PIECE if model.device.type == "cpu" else None
        return Sizes(self.runner.shape, model.dtype.itemsize, piece)

    @property
    def grain(self) -> int:
        """Rows begin at multiples of it."""
        return CPU_GRAIN if self.model.device.type == "cpu" else GPU_GRAIN

    @cached_property
    def most_tokens(self) -> int:
        """Packed tokens of a batch of rows, at most."""
        fit = max(1, self.runner.shares.rows // self.sizes.token_bytes(self.base.shape[1]))
        return packed_tokens(self.model.device, fit)

    @property
    def kind(self) -> str:
        """Of the cells and what is done in them, whatever the prompts and however many."""
        prompts, length = self.base.shape
        of = (self.site, self.parts.n_cells, len(self.parts.row) // prompts, length, self.source is None, self.reason)
        return f"{of} {self.measure.read.shape[1]} {self.measure.columns is None}"

    @property
    def hooks(self) -> list[str]:
        """The site's hook point of each layer."""
        return [hook_name(self.site, layer) for layer in range(self.runner.shape.n_layers)]

    def of_cells(self, values: Float[Tensor, "prompt cell"] | Float[np.ndarray, "prompt cell"]) -> xr.DataArray:
        """Values by prompt and by the axes of the cells, with their labels; in float64."""
        whole = np.asarray(values, dtype=np.float64)
        shape = [len(of_axis) for of_axis in self.labels.values()]
        coords = {name: list(of_axis) for name, of_axis in self.labels.items()}
        return xr.DataArray(whole.reshape(len(whole), *shape), dims=("prompt", *self.labels), coords=coords)

    @property
    def path(self) -> str:
        """How it is computed."""
        return "layer by layer" if self.reason is None else f"whole forward passes, because {self.reason}"

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self.runner.language_model

    @property
    def prompts(self) -> Sequence[Tensor]:
        """Base tokens of each prompt."""
        return self.base.unbind()

    def values(self) -> Values:
        """Run it."""
        found = self.runner.in_blocks(self, self.blocks())
        patched = found["patched"].masked_fill(self.outside, torch.nan)
        return Values(patched, found["base"], found.get("source"), self.path)

    def blocks(self, beside: int = 0) -> list[list[int]]:
        """Prompts whose traces fit together, with so many bytes `beside` each; one at least.

        All of them where whole forward passes are needed.
        """
        each = self.sizes.trace_peak(self.site, 1, self.base.shape[1], source=self.source is not None) + beside
        size = max(1, self.runner.shares.traces // each) if self.reason is None else len(self.base)
        return [list(range(i, min(i + size, len(self.base)))) for i in range(0, len(self.base), size)]

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """Patched, base and source metric of the prompts `members`, which follow one another."""
        prompts = slice(members[0], members[-1] + 1)
        patched, base, source = self.block(prompts) if self.reason is None else self._only(prompts)._hooked()
        found = {"patched": patched, "base": base}
        return found if source is None else found | {"source": source}

    def cost(self, members: list[int]) -> Cost:
        """Of a block of prompts, beside the calls that are made for its rows."""
        prompts, length = slice(members[0], members[-1] + 1), self.base.shape[1]
        cells, wanted = int((~self.outside[prompts]).sum()), ~(self.blind | self.outside)[prompts].flatten()
        source, layered, once = self.source is not None, self.reason is None, self.batch_share == 1
        if layered:
            rows = wanted.nonzero()[:, 0]
            peak = self.row_costs(prompts).peak(rows, len(members), length, self.most_tokens, source=source)
        else:
            runs, each = int(wanted.sum()) + (1 + source) * len(members), self.runner.forward_bytes(length)
            most = max(1, min(runs, padded_tokens(self.model.device) // length, self.runner.shares.batch // each))
            kept = captured_bytes(self.runner.shape, self.hooks, length, length, self.sizes.element)
            peak = (2 + source) * len(members) * kept + most * each
        whole = self.sizes.forward_flops(1, length) + self.sizes.unembed_flops(length, None)
        # In smaller batches the same cells are run once more.
        return Cost(
            peak_bytes=peak,
            cells=cells * once,
            runs=0 if layered else int(wanted.sum()) * once,
            loop_flops=cells * whole,
        )

    def row_costs(self, prompts: slice) -> RowCosts:
        """What rows of a block of prompts take."""
        parts, measure = self.parts.block(prompts.start, prompts.stop), self.measure.block(prompts)
        return RowCosts(self.sizes, self.site, parts, measure, self.grain, self.runner.shares.metric_logits)

    def block(self, prompts: slice) -> tuple[Tensor, Tensor, Tensor | None]:
        """Patched, base and source metric of a block of prompts."""
        work = self.work(prompts)
        base, source = work.readout.base, work.readout.source
        patched = base[:, None].repeat(1, self.parts.n_cells)
        if len(work.rows):
            patched.view(-1)[work.rows] = self.runner.execute(work, *work.plan(), "Patching")["value"]
        return patched, base, source

    def work(self, prompts: slice) -> "Work":
        """The rows of a block of prompts, ready to run."""
        layers = self.runner.language_model.require_layers("Patching layer by layer")
        with torch.no_grad():
            made = self.trace(layers, prompts)
        parts = self.parts.block(prompts.start, prompts.stop)
        wanted = ~(self.blind | self.outside)[prompts].flatten() & _replaces(parts, made.differs)
        return Work(self, layers, prompts, made, parts, wanted.nonzero()[:, 0])

    def replacing(self, prompts: slice) -> Replacing:
        """What is put in, for a block of prompts."""
        return partial(self.replacement.put, prompts=prompts)

    def trace(self, layers: Layers, prompts: slice, watch: Watch | None = None) -> Trace:
        """The runs of a block of prompts; `watch` as in `mechlist.patching.sweep.sweep.trace`."""
        model = self.runner.language_model
        tokens = self.base[prompts]
        runs = tokens if self.source is None else torch.cat([tokens, self.source[prompts]])
        residual = layers.embed(runs.to(model.device))
        made = trace(layers, residual, len(tokens), self.site, self.replacing(prompts), watch)
        first = slice(0, int(self.lengths[prompts.start]))
        model.compare(tokens[:1, first], made.final[:1, first])
        return made

    def _only(self, prompts: slice) -> "Task":
        """The task of these prompts alone."""
        if prompts == slice(0, len(self.base)):
            return self
        return replace(
            self,
            base=self.base[prompts],
            source=None if self.source is None else self.source[prompts],
            lengths=self.lengths[prompts],
            parts=self.parts.block(prompts.start, prompts.stop),
            measure=self.measure.block(prompts),
            replacement=_From(self.replacement, prompts.start),
            source_positions=None if self.source_positions is None else self.source_positions[prompts],
        )

    def _hooked(self) -> tuple[Tensor, Tensor, Tensor | None]:
        with self.runner.smaller_batches(self.batch_share):
            return self._with_hooks(self.runner, self.hooks)

    def _with_hooks(self, runner: Runner, hooks: list[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        base = _unpadded(self.base, self.lengths)
        sources = None if self.source is None else _unpadded(self.source, self.source_lengths)
        there = runner.capture(base, *hooks)
        _check_axes(self.site, there[hooks[0]], runner)
        source = None if sources is None else runner.capture(sources, *hooks)
        replacing = self.replacing(slice(0, len(self.base)))
        put = [
            replacing(layer, there[hook], None if source is None else source[hook]) for layer, hook in enumerate(hooks)
        ]
        # Padding is NaN, and the longest prompt may be shorter than the padding.
        missing = self.base.shape[1] - int(self.lengths.max())
        changes = [
            differs(self.site, value.nan_to_num(nan=0.0), there[hook].nan_to_num(nan=0.0))
            for value, hook in zip(put, hooks, strict=True)
        ]
        padded = [pad(change, (0, missing) if change.ndim == 2 else (0, 0, 0, missing)) for change in changes]
        wanted = ~(self.blind | self.outside).flatten() & _replaces(self.parts, padded)
        rows = wanted.nonzero()[:, 0]
        return hooked_rows(
            runner, base, sources, hooks, put, self.parts, self.measure, rows, source_read=self.source_read
        )


@dataclass(frozen=True)
class Work:
    """Rows of one block of prompts; row r is cell r % n_cells on the block's prompt r // n_cells."""

    task: Task
    layers: Layers
    block: slice
    made: Trace
    parts: Parts
    rows: Int[Tensor, " row"]

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self.task.runner.language_model

    @property
    def prompts(self) -> Sequence[Tensor]:
        """Tokens of each row."""
        return self._prompts

    @cached_property
    def _prompts(self) -> list[Tensor]:
        tokens = self.task.base[self.block].unbind()
        return [tokens[row // self.parts.n_cells] for row in self.rows.tolist()]

    @cached_property
    def _read(self) -> Int[Tensor, "prompt n"]:
        return self.task.measure.read[self.block]

    @cached_property
    def readout(self) -> Readout:
        """What is measured."""
        source_read = self.task.source_read[self.block]
        return Readout(self.task.runner, self.task.measure.block(self.block), self.made, source_read)

    @cached_property
    def sweep(self) -> Sweep:
        """The engine."""
        editor = partial(SourceEditor, self.task.site, self.made.source)
        return Sweep(self.layers, self.task.site, self.made, self.parts, self._read, editor, self.task.grain)

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """The metric of the rows that `members` number."""
        rows = self.rows[members]
        with torch.no_grad():
            finals, where = self.sweep.finals(rows)
        return {"value": self.readout.changed(finals, where, rows // self.parts.n_cells)}

    @property
    def kind(self) -> str:
        """Of the task."""
        return self.task.kind

    @property
    def path(self) -> str:
        """Of the task."""
        return self.task.path

    def cost(self, members: list[int]) -> Cost:
        """Of the rows that `members` number, as one batch."""
        return self._costs.of(self.rows[members])

    @cached_property
    def _costs(self) -> RowCosts:
        return self.task.row_costs(self.block)

    @cached_property
    def widths(self) -> Int[Tensor, " row"]:
        """Tokens that each row carries."""
        return self._read.max(dim=1).values[self.rows // self.parts.n_cells] + 1 - self.parts.first_position[self.rows]

    def plan(self) -> tuple[list[list[int]], str]:
        """Batches of rows by packed tokens, rows that begin at the same position together; and what is asked."""
        task = self.task
        most = max(1, int(task.batch_share * min(task.most_tokens, int(self.widths.sum()))))
        plan = packed(self.parts.first_position[self.rows], self.widths, most)
        if task.runner.journal is None:
            return plan, ""
        return plan, f"{task.site} {self._digest()} {task.measure.columns} {task.measure.of.__qualname__} {plan}"

    def _digest(self) -> str:
        """Of what is replaced, by what, and of what is read."""
        digest = hashlib.sha256()
        parts = (self.parts.row, self.parts.layer, self.parts.position, self.parts.head)
        for tensor in (*parts, self._read, *self.made.source):
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class _From:
    """What is put into the prompts from number `start` on, which are counted from 0."""

    replacement: Ready
    start: int

    def put(self, layer: int, there: Tensor, source: Tensor | None, prompts: slice) -> Tensor:
        """See Ready."""
        block = slice(prompts.start + self.start, prompts.stop + self.start)
        return self.replacement.put(layer, there, source, block)


def _unpadded(tokens: Int[Tensor, "prompt position"], lengths: Int[Tensor, " prompt"]) -> list[Int[Tensor, " _"]]:
    return [row[:length] for row, length in zip(tokens, lengths.tolist(), strict=True)]


def whole_passes(runner: Runner, site: str | None = None) -> str | None:
    """Why the runner's model must be run by whole forward passes; None where its layers can be run one by one.

    With a site: also where the layers, run one by one, show something else there than the model's own hooks.
    """
    if runner.interventions:
        return "interventions are in place"
    model = runner.language_model
    if model.one_by_one().because is not None:
        return model.one_by_one().because
    if any(point.fwd_hooks for point in runner.model.hook_dict.values()):
        return "the model has hooks of its own"
    if site is not None and site not in model.one_by_one().sites:
        return f"its {site} is not what its layers, run one by one, show there"
    return None


def _check_axes(site: str, activation: Tensor, runner: Runner) -> None:
    """Heads are chosen by their number along an axis, which must be the axis of heads.

    Raises:
        InputError: an activation of another shape.
    """
    shape = runner.shape
    if site not in HEAD_SITES:
        expected = (shape.d_model,)
    elif site in ATTENTION_SITES:
        expected = (shape.n_heads, activation.shape[-1], activation.shape[-1])
    else:
        expected = (heads_of(site, shape), shape.d_head)
    own = tuple(activation.shape[-len(expected) :])
    if own != expected or activation.ndim != (4 if site in HEAD_SITES else 3):
        raise InputError(
            f"{site} cannot be patched in this model: for one token it is {list(activation.shape[2:])}, and not "
            f"{list(expected)} ({'heads by the size of a head' if site in HEAD_SITES else 'the residual stream'})."
        )


def _replaces(parts: Parts, differs: Sequence[Bool[Tensor, "prompt ..."]]) -> Bool[Tensor, " row"]:
    """Whether a row puts in anything but what is there already, bit for bit; where not, it needs no run."""
    stacked = torch.stack(list(differs))
    stacked = stacked[..., None] if stacked.ndim == 3 else stacked
    # Layer, prompt, position, head, each of the last two with one entry more for "all".
    stacked = torch.cat([stacked, stacked.any(2, keepdim=True)], dim=2)
    stacked = torch.cat([stacked, stacked.any(3, keepdim=True)], dim=3)
    by_part = stacked[parts.layer, parts.row // parts.n_cells, parts.position, parts.head]
    return torch.zeros(parts.n_rows, dtype=torch.long).scatter_reduce(0, parts.row, by_part.long(), "amax") > 0
