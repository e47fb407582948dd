"""How often something is done that is done many times alike: as often as asked, but while a run is planned a few times.

A plan does what a run does on a sample. Loops of equal steps and draws of a bootstrap would take as long in it as in
the run, so they ask here: under a `Meter` a few are done, and what these took is counted for all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

RESAMPLES = 200
"""Draws that stand for all: enough that what a draw takes is more than what happens once."""
PIECE, PIECES = 64, 32
"""Work that is cut into pieces is cut into so many, of so many entries at least."""
ASIDE = "Looking at the prompts"
"""Label of calls that a plan counts and does not name: they come before what a run is about."""
FEW, SECONDS = 2, 0.05
"""Steps that stand for all are so many at least, and go on for so long."""


@runtime_checkable
class Meter(Protocol):
    """Measures what a run will take, while a part of it is done."""

    def now(self) -> Any:
        """What has been taken so far; only `stretch` and `seconds_since` know what is in it."""
        ...

    def seconds_since(self, before: Any) -> float | int:
        """Seconds since then."""
        ...

    def stretch(self, before: Any, factor: float | int, label: str = "") -> None:
        """Count what has been taken since then `factor` times; `label` names what it is, in a plan."""
        ...


_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def measured_by(meter: Meter) -> Iterator[None]:
    """Inside, few repetitions stand for all."""
    token = _METER.set(meter)
    try:
        yield
    finally:
        _METER.reset(token)


def steps(total: int, label: str = "") -> Iterator[int]:
    """0 to `total` - 1, for steps that take equally long; under a meter the first few, which stand for all.

    The first step stands for itself alone, since things happen in it that happen once. Whoever collects a result from
    every step must make do with fewer.
    """
    meter = _METER.get()
    if meter is None:
        yield from range(total)
        return
    done = min(total, 1)
    yield from range(done)
    before = meter.now()
    while done < total and (done <= FEW or meter.seconds_since(before) < SECONDS):
        yield done
        done += 1
    meter.stretch(before, (total - 1) / (done - 1) if done > 1 else 1.0, label)


def sampled() -> bool:
    """Whether a meter is at work, so that most results are copies of a few: they cannot be held against each other."""
    return _METER.get() is not None


@contextmanager
def once() -> Iterator[None]:
    """Inside is looked at what is looked at once a model: under a meter it counts for nothing."""
    meter = _METER.get()
    before = None if meter is None else meter.now()
    try:
        yield
    finally:
        if meter is not None:
            meter.stretch(before, 0.0)


def slices(total: int, size: int, label: str = "") -> Iterator[slice]:
    """`total` entries that take equally long each, `size` at a time; under a meter in small pieces, the first few."""
    if sampled():
        size = min(size, max(PIECE, -(-total // PIECES)))
    for number in steps(-(-total // size), label):
        yield slice(number * size, min((number + 1) * size, total))


@contextmanager
def draws(total: int) -> Iterator[int]:
    """How many of `total` draws, or of what was drawn, to work with inside: all; under a meter few, counted for all."""
    meter = _METER.get()
    if meter is None or total <= RESAMPLES:
        yield total
        return
    before = meter.now()
    yield RESAMPLES
    meter.stretch(before, total / RESAMPLES)


def as_many(drawn: Shaped[np.ndarray, "draw *cell"], total: int) -> Shaped[np.ndarray, "total_draws *cell"]:
    """What was drawn; where that is fewer than `total`, over and over."""
    return drawn if len(drawn) == total else np.resize(drawn, (total, *drawn.shape[1:]))
