"""`run_edges`: the metric with any sets of edges patched; and what it shares with `edge_scores`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from mechlist.errors import InputError
from mechlist.metrics.measure import Measure, Metric
from mechlist.models.language_model import LanguageModel
from mechlist.models.layers.ungrouped import Ungrouped
from mechlist.patching.arguments import PatchArguments, prepare, read_runs
from mechlist.patching.circuits.nodes import Nodes
from mechlist.patching.circuits.runs import EdgeRuns
from mechlist.patching.replacements import Mean
from mechlist.patching.sweep.task import whole_passes
from mechlist.runner import Runner
from mechlist.runner.batching import Prompts
from mechlist.runner.progress import part_done

CPU_BYTES = 256 * 2**20
"""What a batch's differences may take on a CPU: a larger batch is no faster there."""


@dataclass(frozen=True)
class EdgeTask:
    """Prompts, what patched edges carry in them, and what is measured; checked."""

    runner: Runner
    base: Int[Tensor, "prompt position"]
    source: Int[Tensor, "prompt position"] | Mean
    lengths: Int[Tensor, " prompt"]
    measure: Measure
    ungrouped: bool = False
    """Whether shared keys and values count as each head's own."""

    @cached_property
    def nodes(self) -> Nodes:
        """Of the model."""
        return nodes_of(self.runner, ungrouped=self.ungrouped)

    @cached_property
    def runs(self) -> EdgeRuns:
        """The engine."""
        layers = self.model.require_layers("Patching edges")
        return EdgeRuns(Ungrouped(layers) if self.ungrouped else layers, self.nodes)

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self.runner.language_model

    @cached_property
    def prompts(self) -> list[Tensor]:
        """Tokens of each prompt."""
        return list(self.base)

    @property
    def prompt_bytes(self) -> int:
        """Of what all senders write in one run of one prompt."""
        return self.model.dtype.itemsize * len(self.nodes.senders) * self.base.shape[1] * self.runner.shape.d_model

    def carried(self, members: Sequence[int]) -> Float[Tensor, "all_or_one sender position d_model"]:
        """What patched edges carry in these prompts."""
        if isinstance(self.source, Mean):
            return self._means
        return self.runs.written(self.source[list(members)].to(self.model.device))

    @cached_property
    def _means(self) -> Float[Tensor, "one sender position d_model"]:
        """Mean over the prompts that reach a position, 0 beyond them all; or over all their positions."""
        assert isinstance(self.source, Mean)
        tokens, length = self.source.tokens, self.base.shape[1]
        lengths = self.source.real(self.runner, int(self.lengths.max()))
        there = (torch.arange(tokens.shape[1]) < lengths[:, None]).to(self.model.device)
        total: Tensor | float = 0.0
        with torch.no_grad():
            for of_run, real in zip(tokens.to(self.model.device), there, strict=True):
                total = total + (self.runs.written(of_run[None]).double() * real[:, None])
        assert isinstance(total, Tensor)
        counts = there.sum(0).double()
        if self.source.pooled:
            mean = (total.sum(2, keepdim=True) / counts.sum()).expand(-1, -1, length, -1)
        else:
            mean = (total / counts.clamp(min=1)[:, None])[:, :, :length]
            mean = pad(mean, (0, 0, 0, length - mean.shape[2]))
        return mean.to(self.model.dtype)

    def values(self, patched: Bool[Tensor, "variant sender receiver"]) -> Float[Tensor, "variant prompt"]:
        """The metric of every prompt with each set of edges patched; see `run_edges`."""
        return EdgeWork(self, patched).values()

    def batches(self, each: int, most: int | None = None) -> list[list[int]]:
        """Prompts of which each takes so many bytes, as many as fit; one at least."""
        room = self.runner.shares.traces
        if self.model.device.type == "cpu":
            room = min(room, CPU_BYTES)
        size = max(1, min(room // each, most or len(self.base)))
        return [list(range(i, min(i + size, len(self.base)))) for i in range(0, len(self.base), size)]

    def digest(self, what: str, *others: Tensor) -> str:
        """Of what the results depend on besides the prompts; names them in a run's journal."""
        if self.runner.journal is None:
            return what
        source = self.source if isinstance(self.source, Tensor) else self.source.tokens
        digest = hashlib.sha256(repr((what, type(self.source).__name__, self.measure.columns, self.ungrouped)).encode())
        for tensor in (source, self.lengths, self.measure.read, self.measure.weight, *others):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return f"{self.measure.of.__qualname__} {digest.hexdigest()}"

    def metric(
        self, finals: Float[Tensor, "row n d_model"], prompt: Sequence[int], base: Float[Tensor, "prompt n d_model"]
    ) -> Float[Tensor, " row"]:
        """The metric of rows; `base` are the runs without changes of the prompts that are numbered."""
        runner = self.runner
        block = slice(min(prompt), max(prompt) + 1)
        number = torch.tensor(prompt) - block.start
        return self.measure.block(block)(
            finals, number, base, self.model.unembed, runner.shape.d_vocab_out, runner.shares.metric_logits
        )


def nodes_of(runner: Runner, *, ungrouped: bool = False) -> Nodes:
    """Senders and receivers of the runner's model; with keys and values of every head's own if `ungrouped`.

    Raises:
        InputError: a model whose edges cannot be run by themselves, or that is changed by interventions or hooks.
    """
    reason = whole_passes(runner)
    if reason is not None:
        raise InputError(f"The edges of this model cannot be patched, because {reason}.")
    shape = runner.shape.ungrouped() if ungrouped else runner.shape
    return Nodes(shape, parallel=runner.language_model.require_layers("Patching edges").parallel)


def edge_task(
    runner: Runner,
    *,
    base: Prompts,
    source: Prompts | Mean,
    metric: Metric,
    lengths: Int[Tensor, "..."] | None = None,
    ungrouped: bool = False,
) -> EdgeTask:
    """What `run_edges` and `edge_scores` take, checked.

    Raises:
        InputError: as `patch_grid`, or as `nodes_of`.
        MechlistError: layers that do not give what the model's own forward pass gives.
    """
    nodes_of(runner)
    runs = PatchArguments(site="resid_post", per="position", **read_runs(runner, base, source, metric, lengths))
    tokens, given = runs.base, runs.source
    # The same prompts, put in at any site, have the same metric.
    checked = prepare(runner, runs.with_source(given if isinstance(given, Tensor) else tokens))
    if isinstance(given, Mean):
        given.real(runner, int(checked.lengths.max()))
    assert isinstance(given, Tensor | Mean)
    task = EdgeTask(runner, tokens, given, checked.lengths, checked.measure, ungrouped)
    first = tokens[:1, : checked.lengths[0]]
    with torch.no_grad():
        task.model.compare(first, task.runs.plain(first.to(task.model.device)))
    return task


def run_edges(
    runner: Runner,
    *,
    base: Prompts,
    source: Prompts | Mean,
    patched: Bool[Tensor, "variant sender receiver"],
    metric: Metric,
    lengths: Int[Tensor, "..."] | None = None,
    ungrouped: bool = False,
) -> Float[Tensor, "variant prompt"]:
    """The metric of every prompt with each set of edges patched, exactly.

    Args:
        runner: with the model.
        base: prompts that are run, as for `patch_grid`.
        source: prompts whose runs patched edges take their values from, position for position; or `Mean(...)`: the mean
            over some prompts by position.
        patched: sets of edges, over the senders and receivers of `nodes_of(runner)`; what is no edge is ignored.
        metric: what is measured.
        lengths: real tokens of prompts that are padded on the right.
        ungrouped: take keys and values that heads share as each head's own, as `nodes_of` then does.

    Raises:
        InputError: as `patch_grid`; a model whose layers cannot be run one by one; sets of another shape.
    """
    task = edge_task(runner, base=base, source=source, metric=metric, lengths=lengths, ungrouped=ungrouped)
    return task.values(patched)


class EdgeWork:
    """Sets of edges on all prompts of a task, batch by batch of prompts."""

    def __init__(self, task: EdgeTask, patched: Bool[Tensor, "variant sender receiver"]) -> None:
        shape = tuple(task.nodes.reads.shape)
        if patched.ndim != 3 or patched.shape[1:] != shape:
            raise InputError(
                f"patched must have the shape [variant, {shape[0]}, {shape[1]}], not {list(patched.shape)}."
            )
        self._task = task
        # The runs without changes come first: a metric may compare with them.
        self._patched = torch.cat([torch.zeros(1, *shape, dtype=torch.bool), patched & task.nodes.reads])
        self._variants = len(self._patched)
        self._plan = self._batches()

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self._task.model

    @property
    def prompts(self) -> Sequence[Tensor]:
        """Tokens of each prompt."""
        return self._task.prompts

    def values(self) -> Float[Tensor, "variant prompt"]:
        """Run it."""
        name = self._task.digest(f"edges {self._plan}", self._patched)
        return self._task.runner.execute(self, self._plan, name, "Patching edges")["value"].T[1:]

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """The metric of the prompts `members` with every set of edges."""
        task, out = self._task, []
        with torch.no_grad():
            carried = task.carried(members)
            base, read = task.base[members].to(self.model.device), task.measure.read[members]
            plain: Tensor | None = None
            for some in self._patched.split(self._at_once):
                finals = task.runs.finals(base, carried, some, read)
                plain = finals[0] if plain is None else plain
                out.append(task.metric(finals.flatten(0, 1), members * len(some), plain))
                part_done(sum(len(one) for one in out) / (self._variants * len(members)))
        return {"value": torch.cat(out).view(self._variants, len(members)).T}

    def _batches(self) -> list[list[int]]:
        """Batches of prompts, with as many variants at once as there is room for."""
        # The differences of each variant, a copy of a part of them on the way, and what the source wrote.
        each = self._task.prompt_bytes
        most = max(1, self._task.runner.shares.rows // (2 * each) - 1)
        self._at_once = min(self._variants, most)
        return self._task.batches(each * (2 * self._at_once + 2))
