"""Batch after batch: one computes while the one before it is copied down and written away."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mechlist.runner.forward import Work, by_halves
from mechlist.runner.journal import Journal
from mechlist.runner.progress import Bar
from mechlist.runner.transfer import HostCopy


def run_batches(
    work: Work,
    plan: Sequence[list[int]],
    call: str,
    journal: Journal | None,
    stream: torch.cuda.Stream | None,
    bar: Bar,
) -> Iterator[dict[str, Tensor]]:
    """Results batch by batch, in the order of the plan; what the journal holds is not computed again."""
    waiting: tuple[int, HostCopy] | None = None
    try:
        for number, members in enumerate(plan):
            done = journal.load(call, number) if journal else None
            with bar.batch(sum(len(work.prompts[i]) for i in members)):
                copy = HostCopy(by_halves(work, members), stream) if done is None else None
            if waiting is not None:
                yield _finish(journal, call, *waiting)
            waiting = None if copy is None else (number, copy)
            if done is not None:
                yield done
        if waiting is not None:
            yield _finish(journal, call, *waiting)
            waiting = None
    finally:
        if journal:
            if waiting is not None:
                _finish(journal, call, *waiting)
            journal.flush()


def _finish(journal: Journal | None, call: str, number: int, copy: HostCopy) -> dict[str, Tensor]:
    done = copy.wait()
    if journal:
        journal.store(call, number, done)
    return done
