"""What work through a Runner will take: it is done with a stand-in Runner that computes a sample of every call.

Prompts, batches and the order of calls are those of the real run, so that what is counted follows what runs. Of each
call a part of one batch is computed and timed; its results stand for those of all other prompts, and the work goes on
with them. What does not go through `Runner.map` or `Runner.execute` is done as always, and counted.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from mechlist.models.language_model import LanguageModel
from mechlist.runner.assembly import in_order
from mechlist.runner.counting import Counter
from mechlist.runner.forward import Pass, Work, by_halves
from mechlist.runner.runner import Runner
from mechlist.types import ModelShape, Plan

SAMPLE_SECONDS = 1.0
"""The sample of a call takes about so long, unless one prompt takes longer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """What a part of a call gave, and what all of the call will take."""

    results: dict[str, Tensor]
    """Of each prompt of the call, some of them stand-ins."""
    tokens: float | int
    """That go through all layers."""
    flops: float | int
    peak_bytes: float | int
    """Of the largest batch."""
    seconds: float | int


@dataclass(frozen=True)
class Call:
    """One call of `Runner.execute`."""

    label: str
    prompts: int
    batches: int
    tokens: float | int
    flops: float | int
    seconds: float | int


@dataclass
class _Tally:
    """Of all calls; one for the Runner and its twins."""

    counter: Counter
    calls: list[Call] = field(default_factory=list)
    sampling: float = 0.0
    """Seconds that samples took."""
    tokens: int = 0
    """That were embedded outside of calls."""


@dataclass(frozen=True)
class Rehearsed(Generic[T]):
    """What a run will take, and what it gave with the stand-in Runner."""

    plan: Plan
    results: T
    beside: float
    """Seconds of what is no call of the model; they are part of the plan's."""


class Rehearsal(Runner):
    """A Runner like another, whose calls compute a sample only. Nothing is stored, and no progress is shown."""

    def __init__(self, runner: Runner) -> None:
        self.__dict__.update(runner.__dict__)
        self._interventions = list(runner.interventions)
        self.store = None
        self.restart(None)
        self.tally = _Tally(Counter(runner.language_model.device.type))

    def execute(self, work: Work, plan: Sequence[list[int]], asked: str, label: str) -> dict[str, Tensor]:  # noqa: ARG002
        """See Runner."""
        started = time.perf_counter()
        with self.tally.counter.paused():
            found = self.sample(work, plan)
        self.tally.counter.held(int(found.peak_bytes))
        prompts = sum(len(members) for members in plan)
        self.tally.calls.append(Call(label, prompts, len(plan), found.tokens, found.flops, found.seconds))
        self.tally.sampling += time.perf_counter() - started
        # A copy, so that the results count among what is alive.
        return {name: value.clone() for name, value in found.results.items()}

    def sample(self, work: Work, plan: Sequence[list[int]]) -> Sample:
        """Compute a part of one batch."""
        plain = isinstance(work, Pass)
        # A plain pass begins with the longest prompt, as wide as the results must be; other work with the costliest.
        batch = plan[0] if plain else plan[len(plan) // 2]
        members, found = self._enough(work, batch)
        units = [_units(work, of_batch, padded=plain) for of_batch in plan]
        own = _units(work, members, padded=plain)
        flops = found.flops * sum(units) / own
        length = max(len(work.prompts[i]) for i in members)
        return Sample(
            results=_spread(found.results, work, members, plan),
            tokens=sum(units) if plain else flops / token_flops(self.shape, length),
            flops=flops,
            # Every batch keeps to the bound, but pieces of logits do not grow with the batch.
            peak_bytes=max(found.peak_bytes, min(found.peak_bytes * max(units) / own, self.memory)),
            seconds=found.seconds * sum(units) / own,
        )

    def _enough(self, work: Work, batch: list[int]) -> tuple[list[int], Sample]:
        """Members of a batch that take about as long as a sample may."""
        first = self.counted(work.model, lambda: by_halves(work, batch[:1]))
        wanted = SAMPLE_SECONDS / max(first.seconds, 1e-9)
        if wanted < 1:
            return batch[:1], first
        members = batch[: max(1, int(wanted))]
        found = self.counted(work.model, lambda: by_halves(work, members))
        seconds = timed(work.model, lambda: by_halves(work, members))[1]
        return members, Sample(found.results, 0, found.flops, found.peak_bytes, seconds)

    @staticmethod
    def counted(model: LanguageModel, function: Callable[[], dict[str, Tensor]]) -> Sample:
        """Results on the CPU, with what they took; counting takes time itself."""
        with Counter(model.device.type) as counter:
            results, seconds = timed(model, function)
        there = {name: value.detach().cpu() for name, value in results.items()}
        return Sample(there, 0, counter.flops, counter.peak, seconds)


def rehearse(stand_in: Rehearsal, function: Callable[[Runner], T]) -> Rehearsed[T]:
    """What `function` will take, given the Runner for which `stand_in` stands."""
    tally, started = stand_in.tally, time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"), _embedded(stand_in), tally.counter:
        # Results that are all alike make for statistics that are not a number.
        warnings.simplefilter("ignore")
        results = function(stand_in)
    beside = time.perf_counter() - started - tally.sampling
    calls, counter = tally.calls, tally.counter
    plan = Plan(
        path=_path(calls),
        forward_tokens=sum(call.tokens for call in calls) + tally.tokens,
        flops=int(sum(call.flops for call in calls) + counter.flops),
        peak_bytes=counter.peak,
        model_bytes=model_bytes(stand_in),
        seconds=sum(call.seconds for call in calls) + beside,
    )
    return Rehearsed(plan, results, beside)


def model_bytes(runner: Runner) -> int:
    """The weights."""
    return sum(weight.numel() * weight.element_size() for weight in runner.model.parameters())


def token_flops(shape: ModelShape, length: int) -> int:
    """Of one token's way through all layers among `length` tokens: matrix products, without the logits."""
    heads, key_values = shape.n_heads * shape.d_head, shape.n_key_value_heads * shape.d_head
    matrices = 0 if shape.attn_only else 3 if shape.gated_mlp else 2
    weights = shape.d_model * (2 * heads + 2 * key_values + matrices * shape.d_mlp)
    return shape.n_layers * (2 * weights + 4 * length * heads)


def timed(model: LanguageModel, function: Callable[[], T]) -> tuple[T, float]:
    """What a function gives, and how long it takes."""
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(model.device)
    started = time.perf_counter()
    result = function()
    if on_gpu:
        torch.cuda.synchronize(model.device)
    return result, time.perf_counter() - started


@contextmanager
def _embedded(stand_in: Rehearsal) -> Iterator[None]:
    """Note the tokens of runs that are made without a call: base runs of patching go through the layers one by one."""
    tally = stand_in.tally

    def note(module: Any, given: tuple[Tensor, ...], out: Tensor) -> None:  # noqa: ARG001
        if tally.counter.counting:
            tally.tokens += given[0].numel()

    handle = stand_in.model.embed.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _units(work: Work, members: Sequence[int], *, padded: bool) -> int:
    """Tokens of a batch, with the padding where it is computed."""
    lengths = [len(work.prompts[i]) for i in members]
    return len(lengths) * max(lengths) if padded else sum(lengths)


def _spread(results: dict[str, Tensor], work: Work, members: list[int], plan: Sequence[list[int]]) -> dict[str, Tensor]:
    """A row for each prompt: its own, or that of one of the longest prompts of the sample, in turn."""
    order = [i for batch in plan for i in batch]
    lengths = [len(work.prompts[i]) for i in members]
    longest = [row for row, length in enumerate(lengths) if length == max(lengths)]
    own = {prompt: row for row, prompt in enumerate(members)}
    rows = torch.tensor([own.get(prompt, longest[n % len(longest)]) for n, prompt in enumerate(order)])
    return in_order([{name: value[rows] for name, value in results.items()}], order)


def _path(calls: Sequence[Call]) -> str:
    if not calls:
        return "no pass through the model"
    prompts, batches = sum(call.prompts for call in calls), sum(call.batches for call in calls)
    labels = list(dict.fromkeys(call.label for call in calls))
    named = ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
    return f"{prompts:,} rows in {batches:,} batches: {named}"
