"""Samples of the calls of a Runner: a part of a batch is computed, timed and counted, and stands for the rest."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from mechlist.engine.counting import Counter
from mechlist.engine.meter import Taken
from mechlist.models.language_model import LanguageModel
from mechlist.runner.assembly import in_order
from mechlist.runner.forward import Counted, Pass, Work, by_halves
from mechlist.types import ModelShape

SAMPLE_SECONDS = 1.0
"""What takes longer the first time it is done is not done again, though some things happen once in it."""
SHARE, AGAIN = 0.2, 0.05
"""Of that, which a sample takes when it is warm, and when it is only for its results."""
LOOKED_AT = 12
"""Batches of counted work whose cost is worked out; the others are as these."""

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """What a part of a call gave, and what all of the call will take."""

    results: dict[str, Tensor]
    """Of each prompt of the call, most of them those of another."""
    taken: Taken
    peak_bytes: float | int
    """Of the largest batch."""


@dataclass(frozen=True)
class Counts:
    """What some members of a batch took."""

    results: dict[str, Tensor]
    seconds: float | int
    flops: float | int
    peak_bytes: float | int


@dataclass(frozen=True)
class Rate:
    """What a call takes; see `_load`."""

    seconds: float | int
    """For each unit of its load."""
    flops: float | int
    """Likewise."""
    peak_bytes: float | int
    """Of a single member."""
    single: float | int
    """The load of that member."""
    form: object
    """Of its results."""


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


def counted(model: LanguageModel, function: Callable[[], dict[str, Tensor]]) -> Counts:
    """Results on the CPU, with what they took; the seconds are without those of counting."""
    with Counter(model.device.type) as counter:
        results, seconds = timed(model, function)
    there = {name: value.detach().cpu() for name, value in results.items()}
    return Counts(there, seconds - counter.own_seconds, counter.flops, counter.peak)


def token_flops(shape: ModelShape, length: float | int) -> float | int:
    """Of one token's way through all layers among `length` tokens: matrix products, without the logits."""
    heads, key_values = shape.n_heads * shape.d_head, shape.n_key_value_heads * shape.d_head
    matrices = 0 if shape.attn_only else 3 if shape.gated_mlp else 2
    weights = shape.d_model * (2 * heads + 2 * key_values + matrices * shape.d_mlp)
    return shape.n_layers * (2 * weights + 4 * length * heads)


def grown(most: int, first: float | int, part: Callable[[int], tuple[T, float | int]]) -> tuple[T, float | int]:
    """The largest part that a sample may be, with its seconds: twice as many and more while it takes too little.

    A few members say little of a batch, in which what happens once is shared by many.

    Args:
        most: members that there are.
        first: seconds of one of them, done for the first time.
        part: does so many.
    """
    wanted = SHARE * SAMPLE_SECONDS
    count = max(1, min(most, int(wanted / max(first, 1e-9))))
    found, seconds = part(count)
    while count < most and seconds < wanted / 2:
        count = min(most, max(2 * count, int(count * wanted / max(seconds, 1e-9))))
        found, seconds = part(count)
    return found, seconds


class Samples:
    """Of calls; those that look alike are timed once.

    Args:
        shape: of the model.
        memory: the Runner's bound, in bytes.
    """

    def __init__(self, shape: ModelShape, memory: int) -> None:
        self._shape, self._memory = shape, memory
        self._rates: dict[object, Rate] = {}

    def take(self, work: Work, plan: Sequence[list[int]], label: str) -> Sample:
        """Compute a part of one batch."""
        plain = isinstance(work, Pass)
        # A plain pass begins with the longest prompt, as wide as the results must be; other work with the costliest.
        batch = plan[0] if plain else plan[len(plan) // 2]
        members, results, rate = self._measured(work, batch, (label, len(batch), *_alike(work, batch)))
        looked_at = _some(plan) if isinstance(work, Counted) else plan
        loads = [_load(work, of_batch) for of_batch in looked_at]
        load = sum(loads) * sum(map(len, plan)) / sum(map(len, looked_at))
        flops = rate.flops * load
        taken = Taken(
            seconds=rate.seconds * load,
            flops=flops,
            tokens=load if plain else flops / token_flops(self._shape, max(len(work.prompts[i]) for i in members)),
            runs=sum(map(len, plan)) if isinstance(work, Counted) else 0,
        )
        return Sample(_spread(results, work, members, plan), taken, self._peak(work, rate, looked_at, max(loads)))

    def _measured(self, work: Work, batch: list[int], key: object) -> tuple[list[int], dict[str, Tensor], Rate]:
        """Members of the batch, their results, and the rate of the call."""
        rate = self._rates.get(key)
        if rate is not None:
            each = max(rate.seconds * _load(work, batch) / len(batch), 1e-9)
            count = max(1, min(len(batch), int(AGAIN * SAMPLE_SECONDS / each)))
            members = _few(work, batch, count)
            results = _results(work, members)
            if _form_of(results) == rate.form:
                return members, results, rate
        members = batch[:1]
        first = _counts(work, members)
        seconds, results, load = first.seconds, first.results, _load(work, members)
        of_one = (first.flops / load, first.peak_bytes, load, _form_of(results))
        if seconds < SAMPLE_SECONDS:
            (results, members), seconds = grown(len(batch), seconds, partial(self._part, work, batch))
        self._rates[key] = Rate(seconds / _load(work, members), *of_one)
        return members, results, self._rates[key]

    @staticmethod
    def _part(work: Work, batch: list[int], count: int) -> tuple[tuple[dict[str, Tensor], list[int]], float | int]:
        """So many members of a batch, with their results and what these took."""
        members = _few(work, batch, count)
        results, seconds = timed(work.model, lambda: _results(work, members))
        return (results, members), seconds

    def _peak(self, work: Work, rate: Rate, plan: Sequence[list[int]], largest: float | int) -> float | int:
        if isinstance(work, Counted):
            return max(work.cost(batch).peak_bytes for batch in plan)
        # Every batch keeps to the bound, unless a single prompt does not.
        return max(rate.peak_bytes, min(rate.peak_bytes * largest / rate.single, self._memory))


def _few(work: Work, batch: list[int], count: int) -> list[int]:
    """So many members of a batch: rows of a sweep from all of it, prompts from its beginning."""
    return batch[:: -(-len(batch) // count)] if isinstance(work, Counted) else batch[:count]


def _alike(work: Work, batch: list[int]) -> tuple[object, ...]:
    """What works have in common that take as long for their load, besides their label."""
    longest = max(len(work.prompts[i]) for i in batch)
    if isinstance(work, Counted):
        return (work.kind,)
    if not isinstance(work, Pass):
        return (type(work), longest)
    read = None if work.positions is None else work.positions.shape[1]
    return (id(work.model), tuple(work.hooks), read, len(work.interventions), longest)


def _form_of(results: dict[str, Tensor]) -> object:
    return [(name, value.dtype, value.shape[1:]) for name, value in results.items()]


def _counts(work: Work, members: list[int]) -> Counts:
    if not isinstance(work, Counted):
        return counted(work.model, lambda: by_halves(work, members))
    results, seconds = timed(work.model, lambda: _results(work, members))
    cost = work.cost(members)
    return Counts(results, seconds, cost.flops, cost.peak_bytes)


def _results(work: Work, members: list[int]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in by_halves(work, members).items()}


def _load(work: Work, members: list[int]) -> float | int:
    """What the time of work follows: operations where it counts them, else tokens with the padding that is computed."""
    if isinstance(work, Counted):
        return work.cost(members).flops
    lengths = [len(work.prompts[i]) for i in members]
    return len(lengths) * max(lengths) if isinstance(work, Pass) else sum(lengths)


def _some(plan: Sequence[list[int]]) -> Sequence[list[int]]:
    return plan if len(plan) <= LOOKED_AT else [plan[i * len(plan) // LOOKED_AT] for i in range(LOOKED_AT)]


def _spread(results: dict[str, Tensor], work: Work, members: list[int], plan: Sequence[list[int]]) -> dict[str, Tensor]:
    """A row for each prompt: its own, or that of one of the longest prompts of the sample, in turn."""
    lengths = [len(work.prompts[i]) for i in members]
    longest = [row for row, length in enumerate(lengths) if length == max(lengths)]
    return as_rows(results, members, longest, [i for batch in plan for i in batch])


def as_rows(
    results: dict[str, Tensor], members: Sequence[int], others: Sequence[int], order: Sequence[int]
) -> dict[str, Tensor]:
    """Results of all prompts, which `order` numbers, from those of `members`; other prompts have the rows `others`."""
    own = {prompt: row for row, prompt in enumerate(members)}
    rows = torch.tensor([own.get(prompt, others[n % len(others)]) for n, prompt in enumerate(order)])
    return in_order([{name: value[rows] for name, value in results.items()}], order)
