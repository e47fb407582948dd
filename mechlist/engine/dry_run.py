"""What work through a Runner will take: it is done with a Runner whose executor computes a sample of every call.

Prompts, batches and the order of calls are those of the real run, so that what is counted follows what runs. Of each
call a part of one batch is computed and timed; its results stand for those of all other prompts, and the work goes on
with them. Of loops and of draws of a bootstrap a few are done (see `mechlist.effort`). All else is done as always, and
counted.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import xarray as xr
from torch import Tensor

from mechlist import effort
from mechlist.decode.generation import Generation
from mechlist.engine.dry_generation import Writing
from mechlist.engine.local import Load, complete, load_runner, runner_for, write_results
from mechlist.engine.meter import Call, Meter, Taken
from mechlist.engine.samples import SAMPLE_SECONDS, Samples, as_rows, grown, timed
from mechlist.experiment import Experiment, needs_model
from mechlist.runner import Runner
from mechlist.runner.forward import Counted, Work
from mechlist.runner.journal import Journal
from mechlist.runs import Job
from mechlist.text import time_text
from mechlist.types import Plan

LONG = 60.0
"""Seconds from which on a loop is named."""

T = TypeVar("T")


@dataclass(frozen=True)
class DryRun(Generic[T]):
    """What a run will take, and results of the form that it gives."""

    plan: Plan
    results: T


def plan_experiment(experiment: Experiment, runner: Runner) -> DryRun[xr.Dataset]:
    """What a run of the experiment will take.

    Raises:
        InputError: as its `run`.
    """
    return dry_run(runner, experiment.run, example=partial(experiment.example_completion, runner))


def plan_job(job: Job, load: Load = load_runner, made: Path | None = None) -> Plan | None:
    """What a run of a job will take; None where it needs no model.

    Args:
        job: as its run has it.
        load: gives the Runner.
        made: where files are written in place of those that the run would write, for other jobs that read them.

    Raises:
        MechlistError: as the run.
    """
    job = complete(job)
    if not needs_model(job.experiment):
        if made is not None:
            # Without a model there is nothing to sample: the job itself is quick.
            write_results(job, job.experiment.run(None), made)
        return None
    found = plan_experiment(job.experiment, runner_for(job, load))
    if made is not None:
        write_results(job, found.results, made)
    return found.plan


def dry_run(
    runner: Runner, function: Callable[[Runner], T], *, example: Callable[[], Sequence[int]] = tuple
) -> DryRun[T]:
    """What `function` will take, given a Runner; nothing is stored, and no progress is shown.

    Args:
        runner: with the model.
        function: the work. It is called with a Runner like this one, most of whose results are those of a few prompts.
        example: makes tokens that stand for what the model writes, cut at its limit, where a sample takes too long.
    """
    meter = Meter(runner.language_model.device)
    executor = DryExecutor(runner, meter, example)
    with warnings.catch_warnings(), np.errstate(all="ignore"), _embedded(runner, meter), effort.measured_by(meter):
        # Results that are all alike make for statistics that are not a number.
        warnings.simplefilter("ignore")
        with meter.counter:
            before = meter.now()
            other = runner.with_executor(executor)
            other.progress = False
            results = function(other)
            taken = meter.since(before)
    long = [f"about {time_text(s)} of it for {label}" for label, s in meter.loops.items() if s >= LONG]
    plan = Plan(
        path=_path(meter),
        forward_tokens=taken.tokens,
        flops=round(taken.flops),
        peak_bytes=meter.counter.peak,
        model_bytes=model_bytes(runner),
        seconds=taken.seconds,
        cells=round(taken.cells),
        runs=round(taken.runs),
        loop_flops=round(taken.loop_flops),
        notes=tuple(note for note in (executor.note, *long) if note),
    )
    return DryRun(plan, results)


class DryExecutor:
    """Computes a sample of every call; see `mechlist.runner.executor.Executor`."""

    def __init__(self, runner: Runner, meter: Meter, example: Callable[[], Sequence[int]]) -> None:
        self.journal: Journal | None = None
        self._meter = meter
        self._samples = Samples(runner.shape, runner.memory)
        self._writing = Writing(runner.shape, runner.memory, example)
        self._blocks: dict[str, _Block] = {}

    @property
    def note(self) -> str:
        """How long what is written was taken to be."""
        return self._writing.note

    def execute(self, work: Work, plan: Sequence[list[int]], asked: str, label: str) -> dict[str, Tensor]:  # noqa: ARG002
        """See Executor."""
        meter = self._meter
        with meter.apart(), meter.counter.paused():
            generates = isinstance(work, Generation)
            found = self._writing.take(work, plan) if generates else self._samples.take(work, plan, label)
        meter.counter.held(int(found.peak_bytes))
        meter.add(found.taken)
        meter.calls.append(Call(label, sum(map(len, plan)), len(plan)))
        # A copy, so that the results count among what is alive.
        return {name: value.clone() for name, value in found.results.items()}

    def in_blocks(self, work: Counted, plan: Sequence[list[int]]) -> dict[str, Tensor]:
        """See Executor."""
        meter, prompts = self._meter, [i for block in plan for i in block]
        with meter.apart():
            if work.kind not in self._blocks:
                self._blocks[work.kind] = self._block(work, max(plan, key=len))
            block = self._blocks[work.kind]
            with meter.counter.paused():
                costs = [work.cost(members) for members in plan]
        times = len(prompts) / block.prompts
        cells = sum(cost.cells for cost in costs)
        # Cells that are run once more are no further cells.
        runs = times * block.taken.runs if cells else 0
        meter.add(replace(block.taken.times(times), cells=cells, runs=runs))
        meter.add(Taken(runs=sum(cost.runs for cost in costs), loop_flops=sum(cost.loop_flops for cost in costs)))
        meter.counter.held(max(cost.peak_bytes for cost in costs))
        meter.paths.append(work.path)
        meter.calls += [Call(c.label, times * c.rows, times * c.batches, of_sweep=True) for c in block.calls]
        members = range(block.prompts)
        return as_rows(block.results, members, members, prompts)

    def beside(self, name: str) -> "DryExecutor":  # noqa: ARG002 (what it does is counted with the rest)
        """See Executor."""
        return self

    def _block(self, work: Counted, prompts: list[int]) -> "_Block":
        """A few prompts; the first by itself before, because some things happen once."""
        block, seconds = self._part(work, prompts, 1)
        if seconds < SAMPLE_SECONDS:
            block, _ = grown(len(prompts), seconds, partial(self._part, work, prompts))
        return block

    def _part(self, work: Counted, prompts: list[int], count: int) -> "tuple[_Block, float | int]":
        meter, before, calls = self._meter, self._meter.now(), len(self._meter.calls)
        results, seconds = timed(work.model, lambda: work.compute(prompts[:count]))
        return _Block(count, results, meter.since(before), meter.calls[calls:]), seconds


@dataclass(frozen=True)
class _Block:
    """Some prompts of work that makes calls of its own."""

    prompts: int
    results: dict[str, Tensor]
    taken: Taken
    calls: list[Call]


def model_bytes(runner: Runner) -> int:
    """The weights."""
    return sum(weight.numel() * weight.element_size() for weight in runner.model.parameters())


@contextmanager
def _embedded(runner: Runner, meter: Meter) -> Iterator[None]:
    """Note the tokens of runs that are made without a call: base runs of patching go through the layers one by one."""

    def note(module: Any, given: tuple[Tensor, ...], out: Tensor) -> None:  # noqa: ARG001
        if meter.counter.counting:
            meter.embedded += given[0].numel()

    handle = runner.model.embed.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _path(meter: Meter) -> str:
    calls = [call for call in meter.calls if call.label != effort.ASIDE]
    if not calls and not meter.paths:
        return "no pass through the model"
    if all(call.of_sweep for call in calls):
        return ", ".join(dict.fromkeys(meter.paths))
    prompts, batches = sum(call.rows for call in calls), sum(call.batches for call in calls)
    labels = list(dict.fromkeys(call.label for call in calls))
    named = ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
    return f"{prompts:,.0f} rows in {batches:,.0f} batches: {named}"
