"""How far long work is: a bar with an estimate on a terminal and in a notebook; elsewhere a line every ten seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

QUIET_SECONDS = 1.0
"""Nothing is said of what takes less."""
LINE_SECONDS = 10.0
"""Where lines stay (a log), one is written so often."""
NOTEBOOK_SECONDS = 0.5
CELLS = 24
"""Of a bar in a notebook."""


@dataclass(frozen=True)
class Stage:
    """Where in a study the work is."""

    name: str
    number: int
    """From 1."""
    total: int

    def __str__(self) -> str:
        return f"step {self.number} of {self.total} {self.name}"


_STAGE: ContextVar[Stage | None] = ContextVar("stage", default=None)
_BATCH: ContextVar["tuple[Bar, int] | None"] = ContextVar("batch", default=None)


@contextmanager
def stage(name: str, number: int, total: int) -> Iterator[None]:
    """Inside, what is shown says that it is of step `number` (from 1) of `total`; a log gets a line at its start."""
    entered = Stage(name, number, total)
    if isinstance(_view(), _Log):
        print(entered, file=sys.stderr, flush=True)
    token = _STAGE.set(entered)
    try:
        yield
    finally:
        _STAGE.reset(token)


def part_done(share: float | int) -> None:
    """Say that this share, 0 to 1, of the batch under way is done: a batch may hold all there is to do."""
    held = _BATCH.get()
    if held is not None:
        bar, amount = held
        bar.show(share * amount)


class Bar:
    """Shows itself on stderr after a second of work.

    Args:
        label: what is done.
        total: how much there is to do.
        shown: or it says nothing.
    """

    def __init__(self, label: str, total: int, shown: bool = True) -> None:
        self._label, self._total, self._done = label, max(total, 1), 0
        self._start = time.monotonic()
        self._stage = _STAGE.get()
        self._view: _View | None = _view() if shown else None

    def __enter__(self) -> "Bar":
        return self

    @contextmanager
    def batch(self, amount: int) -> Iterator[None]:
        """Inside, `amount` more of the total is done, of which `part_done` may tell."""
        token = _BATCH.set((self, amount))
        try:
            yield
        finally:
            _BATCH.reset(token)
        self.advance(amount)

    def advance(self, amount: int) -> None:
        """Report `amount` more of the total as done."""
        self._done += amount
        self.show()

    def show(self, more: float | int = 0) -> None:
        """Show what is done, and `more` of the total besides."""
        seconds = time.monotonic() - self._start
        if self._view is not None and seconds > QUIET_SECONDS:
            share = min(1.0, (self._done + more) / self._total)
            self._view.show(self._stage, self._label, share, told(share, seconds))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is not None:
            self._view.close()


def told(share: float | int, seconds: float | int) -> str:
    """`30 %, 1:10 left`, after so many seconds; without the estimate while nothing is done."""
    percent = f"{share:.0%}".replace("%", " %")
    return f"{percent}, {clock(seconds * (1 - share) / share)} left" if share > 0 else percent


def clock(seconds: float | int) -> str:
    """`1:10`, or `2:01:10` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@runtime_checkable
class _View(Protocol):
    """Where a bar is seen."""

    def show(self, stage: Stage | None, label: str, share: float | int, estimate: str) -> None: ...

    def close(self) -> None: ...


def _view() -> _View:
    console = Console(stderr=True)
    if console.is_jupyter:
        return _Notebook()
    return _Terminal(console) if console.is_terminal else _Log()


def _named(stage: Stage | None, label: str) -> str:
    return label if stage is None else f"{stage}: {label}"


class _Terminal:
    """Bars that go when the work is done: one of the work, and one of the study's steps."""

    def __init__(self, console: Console) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[estimate]}")
        self._progress = Progress(*columns, console=console, transient=True)

    def show(self, stage: Stage | None, label: str, share: float | int, estimate: str) -> None:
        if not self._progress.tasks:
            self._progress.start()
            name = _named(stage, label)
            self._progress.add_task(name, total=1.0, estimate="")
            if stage is not None:
                of = f"{stage.number - 1} of {stage.total} steps done"
                self._progress.add_task("study", total=stage.total, completed=stage.number - 1, estimate=of)
        self._progress.update(self._progress.task_ids[0], completed=share, estimate=estimate)

    def close(self) -> None:
        self._progress.stop()


class _Notebook:
    """One line that is written over, without codes that only terminals know."""

    def __init__(self) -> None:
        self._last, self._width = 0.0, 0

    def show(self, stage: Stage | None, label: str, share: float | int, estimate: str) -> None:
        now = time.monotonic()
        if now - self._last < NOTEBOOK_SECONDS:
            return
        self._last = now
        full = round(share * CELLS)
        name = _named(stage, label)
        self._write(f"{name} {'█' * full}{'░' * (CELLS - full)} {estimate}")

    def close(self) -> None:
        if self._width:
            self._write("")
            print(end="\r", file=sys.stderr, flush=True)

    def _write(self, line: str) -> None:
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = max(self._width, len(line))


class _Log:
    """A line every ten seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, stage: Stage | None, label: str, share: float | int, estimate: str) -> None:
        now = time.monotonic()
        # What is done needs no line: what comes next says so.
        if now - self._last >= LINE_SECONDS and share < 1:
            self._last = now
            name = _named(stage, label)
            print(f"{name}: {estimate}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing: lines stay."""
