"""What a run will take, added up while a part of it is done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field

import torch

from mechlist.engine.counting import Counter


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What some work takes."""

    seconds: float | int = 0.0
    tokens: float | int = 0
    """That go through all layers."""
    flops: float | int = 0
    cells: float | int = 0
    runs: float | int = 0
    loop_flops: float | int = 0

    def plus(self, other: "Taken", times: float | int = 1) -> "Taken":
        """With so many times the other."""
        names = self.__dataclass_fields__
        return Taken(**{n: a + times * b for n, a, b in zip(names, astuple(self), astuple(other), strict=True)})

    def times(self, factor: float | int) -> "Taken":
        """So many times as much."""
        return Taken().plus(self, factor)


@dataclass(frozen=True)
class Call:
    """One call of the Runner."""

    label: str
    rows: float | int
    batches: float | int
    of_sweep: bool = False
    """Made by a sweep of patching, whose path says more."""


@dataclass
class Meter:
    """Time, operations and memory of a run of which samples are done; see `mechlist.effort.Meter`.

    What is done inside `apart` is not counted; whoever does it adds what it stands for.
    """

    device: torch.device
    counter: Counter = field(init=False)
    calls: list[Call] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    """Of sweeps."""
    loops: dict[str, float] = field(default_factory=dict)
    """Seconds of the loops that are named."""
    embedded: int = 0
    """Tokens that were embedded outside of calls."""
    _added: Taken = Taken()

    def __post_init__(self) -> None:
        self.counter = Counter(self.device.type)

    def now(self) -> Taken:
        """What has been taken so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - self.counter.own_seconds
        return self._added.plus(Taken(seconds=seconds, tokens=self.embedded, flops=self.counter.flops))

    def since(self, before: Taken) -> Taken:
        """What has been taken since then."""
        return self.now().plus(before, -1)

    def seconds_since(self, before: Taken) -> float | int:
        """See `mechlist.effort.Meter`."""
        return self.since(before).seconds

    def stretch(self, before: Taken, factor: float | int, label: str = "") -> None:
        """See `mechlist.effort.Meter`."""
        taken = self.since(before)
        self.add(taken.times(factor - 1))
        if label:
            self.loops[label] = self.loops.get(label, 0.0) + factor * taken.seconds

    def add(self, taken: Taken) -> None:
        """Count what is not done."""
        self._added = self._added.plus(taken)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, nothing is counted: neither what is done, nor what it stands for."""
        before, calls, paths, loops = self.now(), len(self.calls), len(self.paths), dict(self.loops)
        try:
            yield
        finally:
            self.add(self.since(before).times(-1))
            del self.calls[calls:], self.paths[paths:]
            self.loops = loops
