"""What generation will take: a few completions are really written, and the others are taken to be as long as these.

Where that takes too long, they are taken to be a given example, or to reach their limit of tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mechlist.decode.generation import KEPT, Generation
from mechlist.engine.meter import Taken
from mechlist.engine.samples import SAMPLE_SECONDS, SHARE, Counts, Sample, counted, timed, token_flops
from mechlist.models.decoding import RecomputingDecoder
from mechlist.types import ModelShape

STEPS = 4
"""Tokens that are drawn behind the first, to see what one more takes."""
FEW_ROWS = 4
"""Rows that are drawn where a single one already takes long."""
WRITE_SECONDS, WRITE_SHARE = 0.5, 0.03
"""For which completions of a call are written, at most; or a share of what the call would take if all were as long as
they may be, where that is longer, but no more than `LONGEST_SECONDS`."""
LONGEST_SECONDS = 5.0
WRITTEN_ROWS, WRITTEN_BATCHES = 8, 2
"""Completions of a batch that are written, and batches."""

Row = dict[str, Tensor]
"""Tokens and log-probabilities of one completion."""


@dataclass(frozen=True)
class Steps:
    """What some tokens of a batch take: the prompts and the first token, and a few steps behind it."""

    one: Counts
    """Of a single row: all of it, with its tokens."""
    read_flops: float | int
    """For each token of a prompt."""
    step_flops: float | int
    """Of a row's step."""
    read_seconds: float | int
    """For each token of the prompts of several rows."""
    rows: int
    """That were timed together."""
    together: float | int
    """Seconds of a step of these."""
    alone: float | int
    """Seconds of a step of one row."""

    def seconds(self, rows: int) -> float | int:
        """Of one step of so many rows."""
        if self.rows == 1:
            return self.together * rows
        # Weights are read once a step, however many rows there are: what a row takes is what is added by it.
        added = max(0.0, (self.together - self.alone) / (self.rows - 1))
        return self.alone + added * (rows - 1)


class Writing:
    """Samples of generation.

    Args:
        shape: of the model.
        memory: the Runner's bound, in bytes.
        example: makes what stands for what is written where that takes too long; where it makes nothing, the first few
            tokens stand for it, over and over.
    """

    def __init__(self, shape: ModelShape, memory: int, example: Callable[[], Sequence[int]]) -> None:
        self._shape, self._memory, self._given = shape, memory, functools.cache(example)
        self._steps: dict[object, Steps] = {}
        self._lengths: list[tuple[int, int]] = []
        """Of what was written, each with its limit."""
        self._limit = 0
        """Of what was not."""

    @property
    def note(self) -> str:
        """How long completions were taken to be; nothing where nothing was written."""
        if not self._lengths and not self._limit:
            return ""
        if self._limit or all(length == limit for length, limit in self._lengths):
            limit = max([self._limit, *(limit for _, limit in self._lengths)])
            return f"what is written is counted with as many tokens as it may have, {limit}: mostly it takes less"
        mean = sum(length for length, _ in self._lengths) / len(self._lengths)
        return (
            f"what is written is taken to be as long as {len(self._lengths)} completions that were written for this "
            f"plan, {mean:.0f} tokens on average"
        )

    def take(self, work: Generation, plan: Sequence[list[int]]) -> Sample:
        """What a call will take and give."""
        steps = self._few_steps(work, max(plan, key=len))
        known, correction = self._written(work, plan, steps)
        order = [member for batch in plan for member in batch]
        known = known or {0: self._example(work, steps)}
        results = _like_the_nearest(known, len(order))
        lengths = (results["tokens"] >= 0).sum(1)
        total, seconds = Taken(), _prompt_tokens(work, plan) * steps.read_seconds
        for batch in plan:
            fed = _fed(lengths[batch].tolist(), work.max_new_tokens)
            total = total.plus(self._counts(work, batch, fed, steps))
            seconds += sum(map(steps.seconds, fed))
        taken = dataclasses.replace(total, seconds=correction * seconds)
        peak = self._peak(work, plan, steps, int(lengths.max()))
        if self._given() and not any(_stopped(row, work.stop_tokens) for row in known.values()):
            # Among all that a run writes some will stop, and later steps may need what did.
            results = _like_the_nearest({**known, max(known): self._example(work, steps)}, len(order))
        return Sample(results, taken, peak)

    def _few_steps(self, work: Generation, batch: list[int]) -> Steps:
        """A few tokens of the whole batch, if that does not take long; or else of a few of its rows."""
        rules = work.sampling
        kind = (rules.greedy, rules.top_k is None, rules.top_p < 1, work.edit and work.edit.mode)
        key = (*kind, len(batch), len(work.prompts[batch[0]]), work.max_new_tokens)
        if key not in self._steps:
            self._steps[key] = _drawn(work, batch)
        return self._steps[key]

    def _written(self, work: Generation, plan: Sequence[list[int]], steps: Steps) -> tuple[dict[int, Row], float]:
        """Completions of some rows, and how much longer a step takes among them than the first few did."""
        known: dict[int, Row] = {}
        longest = WRITE_SHARE * work.max_new_tokens * sum(steps.seconds(len(batch)) for batch in plan)
        left, took, expected = max(WRITE_SECONDS, min(LONGEST_SECONDS, longest)), 0.0, 0.0
        for batch in sorted(plan, key=len, reverse=True)[:WRITTEN_BATCHES]:
            members = _spaced(batch, WRITTEN_ROWS)
            limit = min(work.max_new_tokens, int(left / max(steps.seconds(len(members)), 1e-9)))
            # A few tokens do not say how long completions get, and the first batch said more than a cut one would.
            if limit < (work.max_new_tokens if known else min(work.max_new_tokens, 2 * STEPS)):
                break
            few = dataclasses.replace(work, max_new_tokens=limit)
            found, seconds = timed(work.model, functools.partial(few.compute, members))
            lengths = (found["tokens"] >= 0).sum(1).tolist()
            known |= self._rows(work, members, found, lengths, steps)
            left, took = left - seconds, took + seconds
            expected += _prompt_tokens(work, [members]) * steps.read_seconds
            expected += sum(map(steps.seconds, _fed(lengths, limit)))
        return known, took / expected if expected > 0 else 1.0

    def _rows(
        self, work: Generation, members: list[int], found: Row, lengths: list[int], steps: Steps
    ) -> dict[int, Row]:
        """What was written; the example for a completion that was cut off before its own limit."""
        most, limit = work.max_new_tokens, found["tokens"].shape[1]
        rows: dict[int, Row] = {}
        for row, (member, length) in enumerate(zip(members, lengths, strict=True)):
            stopped = length < limit or int(found["tokens"][row, -1]) in work.stop_tokens
            if not stopped and limit < most:
                rows[member] = self._example(work, steps)
                continue
            self._lengths.append((length, most))
            rows[member] = {name: _widened(value[row], most) for name, value in found.items()}
        return rows

    def _example(self, work: Generation, steps: Steps) -> Row:
        """The given example, or the first few tokens over and over."""
        limit = work.max_new_tokens
        self._limit = max(self._limit, limit)
        found = steps.one.results
        times = -(-limit // found["tokens"].shape[1])
        row = {name: value[0].repeat(times)[:limit] for name, value in found.items()}
        known = list(self._given())[:limit]
        if known:
            row["tokens"][:] = -1
            row["tokens"][: len(known)] = torch.tensor(known)
            row["log_prob"][len(known) :] = torch.nan
        return row

    def _counts(self, work: Generation, batch: list[int], fed: Sequence[int], steps: Steps) -> Taken:
        """Tokens and operations of a batch of which so many rows are fed in each step."""
        parts, prompt = _parts(work), _prompt_tokens(work, [batch])
        tokens = prompt + parts * sum(fed)
        if _recomputes(work):
            # Each step reads the prompt and all that was written again.
            length = len(work.prompts[batch[0]])
            tokens = prompt + parts * sum(rows * (length + step) for step, rows in enumerate(fed, start=1))
        middle = (_few(work) + 1) / 2
        grown = [token_flops(self._shape, 1) * (step - middle) for step in range(1, len(fed) + 1)]
        if not _recomputes(work):
            grown = [token_flops(self._shape, s) - token_flops(self._shape, middle) for s in range(1, len(fed) + 1)]
        flops = prompt * steps.read_flops
        flops += sum(rows * (steps.step_flops + parts * more) for rows, more in zip(fed, grown, strict=True))
        return Taken(tokens=tokens, flops=flops)

    def _peak(self, work: Generation, plan: Sequence[list[int]], steps: Steps, longest: int) -> float | int:
        """With the keys and values of the tokens that were not drawn, which are there twice while rows leave."""
        shape, element, rows = self._shape, work.model.dtype.itemsize, max(map(len, plan))
        each = 4 * element * shape.n_layers * shape.n_key_value_heads * shape.d_head * _parts(work)
        one = steps.one.peak_bytes
        return min(rows * (one + each * max(0, longest - 1 - _few(work))), max(self._memory, one))


def _few(work: Generation) -> int:
    """Steps of a sample."""
    return min(work.max_new_tokens - 1, STEPS)


def _drawn(work: Generation, batch: list[int]) -> Steps:
    """Some tokens of the first row, counted; and timed, of the whole batch too, if that does not take long."""
    steps = _few(work)
    few = dataclasses.replace(work, max_new_tokens=1 + steps, stop_tokens=())
    first = dataclasses.replace(few, max_new_tokens=1)

    def seconds(members: list[int]) -> tuple[float | int, float | int]:
        """Of the prompts with the first token, and of a step."""
        read, both = (timed(work.model, functools.partial(w.compute, members))[1] for w in (first, few))
        return read, max(0.0, both - read) / max(1, steps)

    read, one = (counted(work.model, functools.partial(w.compute, batch[:1])) for w in (first, few))
    quick = one.seconds < SAMPLE_SECONDS
    alone = seconds(batch[:1])[1] if quick else max(0.0, one.seconds - read.seconds) / max(1, steps)
    rows = batch if quick and alone * steps < SHARE * SAMPLE_SECONDS else batch[:FEW_ROWS]
    together = seconds(rows)
    return Steps(
        one=one,
        read_flops=read.flops / _prompt_tokens(work, [batch[:1]]),
        step_flops=(one.flops - read.flops) / max(1, steps),
        read_seconds=together[0] / _prompt_tokens(work, [rows]),
        rows=len(rows),
        together=together[1],
        alone=alone,
    )


def _fed(lengths: Sequence[int], limit: int) -> list[int]:
    """Rows that are fed in each step of a batch whose completions have these lengths, as in `Generation.compute`."""
    fed, active = [], list(lengths)
    for step in range(1, limit):
        going = [length for length in active if length > step]
        if not going:
            break
        if len(going) <= KEPT * len(active):
            active = going
        fed.append(len(active))
    return fed


def _like_the_nearest(known: dict[int, Row], rows: int) -> dict[str, Tensor]:
    """Every row as the nearest one that is known."""
    of = torch.tensor(list(known))
    nearest = (torch.arange(rows)[:, None] - of).abs().argmin(1)
    return {name: torch.stack([row[name] for row in known.values()])[nearest] for name in ("tokens", "log_prob")}


def _stopped(row: Row, stop_tokens: Sequence[int]) -> bool:
    """Whether the last token of a completion is one that stops it."""
    return int(row["tokens"][row["tokens"] >= 0][-1]) in stop_tokens


def _spaced(batch: Sequence[int], count: int) -> list[int]:
    """So many members of a batch, from all of it."""
    return [batch[i * len(batch) // count] for i in range(count)] if count < len(batch) else list(batch)


def _widened(value: Tensor, width: int) -> Tensor:
    empty = torch.nan if value.dtype.is_floating_point else -1
    return torch.nn.functional.pad(value, (0, width - len(value)), value=empty)


def _parts(work: Generation) -> int:
    """Runs of each row: its own, and that of its donor."""
    return 1 if work.donors is None else 2


def _prompt_tokens(work: Generation, plan: Sequence[list[int]]) -> int:
    """Samples of one prompt in one batch read it once."""
    total = 0
    for members in plan:
        unique = {tuple(work.prompts[i].tolist()): len(work.prompts[i]) for i in members}
        total += sum(unique.values())
    return total * _parts(work)


def _recomputes(work: Generation) -> bool:
    return isinstance(work.model.decoder(1, 1), RecomputingDecoder)
