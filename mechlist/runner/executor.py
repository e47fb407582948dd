"""Where the calls of a Runner are done: in this process, batch by batch, remembered in the run's journal."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mechlist.runner.assembly import in_order
from mechlist.runner.forward import Counted, Work
from mechlist.runner.journal import Journal, call_name
from mechlist.runner.pipeline import run_batches
from mechlist.runner.progress import Bar
from mechlist.runner.transfer import copy_stream


@runtime_checkable
class Executor(Protocol):
    """Does the calls of a Runner, one after another."""

    journal: Journal | None
    """Where finished batches are remembered, if anywhere."""

    def execute(self, work: Work, plan: Sequence[list[int]], asked: str, label: str) -> dict[str, Tensor]:
        """Results of all prompts of a work, in their order; see `Runner.execute`."""
        ...

    def in_blocks(self, work: Counted, plan: Sequence[list[int]]) -> dict[str, Tensor]:
        """The same of work that makes calls itself; see `Runner.in_blocks`."""
        ...

    def beside(self, name: str) -> "Executor":
        """One for another model of the same run, on the same device."""
        ...


class Local:
    """Does every batch here.

    Args:
        device: of the model.
        progress: show a progress bar on a terminal.
        journal: where finished batches are remembered.
    """

    def __init__(self, device: torch.device, progress: bool, journal: Journal | None = None) -> None:
        self.journal = journal
        self._device, self._progress = device, progress
        self._stream = copy_stream(device)
        self._calls = 0

    def execute(self, work: Work, plan: Sequence[list[int]], asked: str, label: str) -> dict[str, Tensor]:
        """See Executor."""
        call = call_name(self._calls, work.prompts, asked)
        self._calls += 1
        with Bar(label, sum(len(p) for p in work.prompts), self._progress) as bar:
            results = list(run_batches(work, plan, call, self.journal, self._stream, bar))
        return in_order(results, [i for members in plan for i in members])

    def in_blocks(self, work: Counted, plan: Sequence[list[int]]) -> dict[str, Tensor]:
        """See Executor."""
        return in_order([work.compute(members) for members in plan], [i for members in plan for i in members])

    def beside(self, name: str) -> "Local":
        """See Executor."""
        journal = None if self.journal is None else Journal(self.journal.directory / name)
        return Local(self._device, self._progress, journal)
