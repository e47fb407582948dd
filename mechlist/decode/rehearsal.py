"""What generation will take: prompts are read and a few tokens drawn; the others are counted.

How long completions get is not known before: they are taken to reach their limit of tokens.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from mechlist.decode.generation import _Generation
from mechlist.models.decoding import RecomputingDecoder
from mechlist.runner import Runner
from mechlist.runner import rehearsal as plain
from mechlist.runner.forward import Work
from mechlist.runner.rehearsal import SAMPLE_SECONDS, Rehearsed, Sample, timed, token_flops
from mechlist.types import ModelShape

STEPS = 4
"""Tokens that are drawn behind the first, to see what one more takes."""
FEW_ROWS = 4
"""Rows that are drawn where a single one already takes long."""

T = TypeVar("T")


class Rehearsal(plain.Rehearsal):
    """A stand-in Runner that also generates."""

    def __init__(self, runner: Runner, completion: Sequence[int] = ()) -> None:
        """`completion` stands for what is written; without, the first few tokens that are, over and over."""
        super().__init__(runner)
        self.completion = tuple(completion)
        self.wrote = 0
        """Limit of tokens of what was written, if anything was."""

    def sample(self, work: Work, plan: Sequence[list[int]]) -> Sample:
        """See the plain Rehearsal."""
        if not isinstance(work, _Generation):
            return super().sample(work, plan)
        self.wrote = max(self.wrote, work.max_new_tokens)
        drawn = self._drawn(work, max(plan, key=len))
        rows, steps = sum(len(batch) for batch in plan), work.max_new_tokens - 1
        prompts = _prompt_tokens(work, plan) / drawn.prompt_tokens
        growth = _growth(work, self.shape, steps - drawn.steps)
        return Sample(
            results=self._stand_in(work, drawn.results, rows),
            tokens=_tokens(work, plan),
            flops=prompts * drawn.read_flops + rows * steps * (drawn.step_flops / drawn.rows + growth),
            peak_bytes=self._peak(work, drawn, max(len(batch) for batch in plan)),
            seconds=prompts * drawn.read_seconds + steps * sum(drawn.step_seconds(len(batch)) for batch in plan),
        )

    def _drawn(self, work: _Generation, batch: list[int]) -> "_Drawn":
        """A few tokens of the whole batch, if that does not take long; or else of a few of its rows."""
        first = self._counted(work, batch[:1])
        quick = first.seconds < SAMPLE_SECONDS
        if quick:
            first = self._counted(work, batch[:1], timed_apart=True)
        several = self._counted(work, batch if quick else batch[:FEW_ROWS], timed_apart=quick)
        # Weights are read once a step, however many rows there are: what a row takes is what is added by it.
        return dataclasses.replace(several, single=first.all_steps / max(1, first.steps))

    def _counted(self, work: _Generation, members: list[int], *, timed_apart: bool = False) -> "_Drawn":
        """Some tokens of some rows; `timed_apart` times them without what counting takes."""
        few = dataclasses.replace(work, max_new_tokens=min(work.max_new_tokens, 1 + STEPS), stop_tokens=())
        one = dataclasses.replace(few, max_new_tokens=1)
        read, both = (self.counted(work.model, partial(w.compute, members)) for w in (one, few))
        seconds = [read.seconds, both.seconds]
        if timed_apart:
            seconds = [timed(work.model, partial(w.compute, members))[1] for w in (one, few)]
        steps = few.max_new_tokens - 1
        return _Drawn(
            results=both.results,
            rows=len(members),
            steps=steps,
            prompt_tokens=_prompt_tokens(work, [members]),
            read_flops=read.flops,
            step_flops=(both.flops - read.flops) / max(1, steps),
            read_seconds=seconds[0],
            all_steps=max(0.0, seconds[1] - seconds[0]),
            peak_bytes=both.peak_bytes,
        )

    def _stand_in(self, work: _Generation, found: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        limit = work.max_new_tokens
        turn = torch.arange(rows) % len(found["tokens"])
        times = -(-limit // found["tokens"].shape[1])
        out = {name: value.repeat(1, times)[turn, :limit] for name, value in found.items()}
        if self.completion:
            known = self.completion[:limit]
            out["tokens"][:] = -1
            out["tokens"][:, : len(known)] = torch.tensor(known)
            out["log_prob"][:, len(known) :] = torch.nan
        return out

    def _peak(self, work: _Generation, drawn: "_Drawn", rows: int) -> float | int:
        """With the keys and values of the tokens that were not drawn, which are there twice while rows leave."""
        shape, element = self.shape, work.model.dtype.itemsize
        each = 4 * element * shape.n_layers * shape.n_key_value_heads * shape.d_head * _parts(work)
        found = drawn.peak_bytes * rows / drawn.rows + rows * each * (work.max_new_tokens - 1 - drawn.steps)
        return min(found, max(self.memory, drawn.peak_bytes))


@dataclass(frozen=True)
class _Drawn:
    """What some rows took: the prompts and the first token, and a few steps behind it."""

    results: dict[str, Tensor]
    rows: int
    steps: int
    prompt_tokens: int
    read_flops: float | int
    step_flops: float | int
    """Of one step of all rows."""
    read_seconds: float
    all_steps: float
    """Seconds of the steps."""
    peak_bytes: float | int
    single: float | None = None
    """Seconds of a step of one row, where that is known."""

    @property
    def seconds(self) -> float:
        """Of all."""
        return self.read_seconds + self.all_steps

    def step_seconds(self, rows: int) -> float:
        """Of one step of so many rows."""
        step = self.all_steps / max(1, self.steps)
        if self.single is None or self.rows == 1:
            return step * rows / self.rows
        added = max(0.0, (step - self.single) / (self.rows - 1))
        return self.single + added * (rows - 1)


def rehearse(runner: Runner, function: Callable[[Runner], T], *, completion: Sequence[int] = ()) -> Rehearsed[T]:
    """What `function` will take, given a Runner; nothing is written, and a sample of each call is computed.

    Args:
        runner: with the model.
        function: the work. It is called with a stand-in Runner, whose results are of a few prompts.
        completion: stands for everything that the model writes, cut at the limit of tokens.
    """
    stand_in = Rehearsal(runner, completion)
    found = plain.rehearse(stand_in, function)
    if not stand_in.wrote:
        return found
    note = f"what is written is counted with as many tokens as it may have, {stand_in.wrote}: mostly it takes less"
    return dataclasses.replace(found, plan=dataclasses.replace(found.plan, notes=(note,)))


def _parts(work: _Generation) -> int:
    """Runs of each row: its own, and that of its donor."""
    return 1 if work.donors is None else 2


def _prompt_tokens(work: _Generation, plan: Sequence[list[int]]) -> int:
    """Samples of one prompt in one batch read it once."""
    total = 0
    for members in plan:
        unique = {tuple(work.prompts[i].tolist()): len(work.prompts[i]) for i in members}
        total += sum(unique.values())
    return total * _parts(work)


def _tokens(work: _Generation, plan: Sequence[list[int]]) -> int:
    """Of prompts, and every new one but the last, which nothing follows."""
    steps = work.max_new_tokens - 1
    lengths = [len(work.prompts[i]) for members in plan for i in members]
    # Without a cache, each step reads the prompt and all that was written again.
    later = sum(steps * length + steps * (steps + 1) // 2 for length in lengths) if _recomputes(work) else 0
    return _prompt_tokens(work, plan) + _parts(work) * (later or len(lengths) * steps)


def _growth(work: _Generation, shape: ModelShape, further: int) -> float | int:
    """Operations of a row's step on average, beyond those of the first few; it is `further` away by half on average."""
    if _recomputes(work):
        return _parts(work) * token_flops(shape, 1) * further / 2
    return _parts(work) * (token_flops(shape, 1 + further) - token_flops(shape, 1)) / 2


def _recomputes(work: _Generation) -> bool:
    return isinstance(work.model.decoder(1, 1), RecomputingDecoder)
