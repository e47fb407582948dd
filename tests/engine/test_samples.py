"""Samples of calls: what is timed, and what looks alike and is not timed again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from mechlist.engine import samples
from mechlist.engine.samples import Samples
from mechlist.models.language_model import LanguageModel
from mechlist.runner import Batch, Runner
from mechlist.runner.forward import Cost, Pass
from tests.runner.conftest import BuildModel


@pytest.fixture
def runner(build: BuildModel) -> Runner:
    return Runner(build(), progress=False)


@dataclass
class Rows:
    """Work that counts itself: row r takes r + 1 operations."""

    model: LanguageModel
    prompts: Sequence[Tensor]
    kind: str = "rows"
    path: str = "row by row"
    computed: list[list[int]] = field(default_factory=list)

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        self.computed.append(members)
        return {"value": torch.tensor(members).float()}

    def cost(self, members: list[int]) -> Cost:
        return Cost(flops=sum(member + 1 for member in members), peak_bytes=10 * len(members))


def passes(runner: Runner, lengths: list[int], width: int = 3) -> Pass:
    prompts = [torch.arange(n) for n in lengths]

    def function(batch: Batch) -> dict[str, Tensor]:
        return {"x": batch.normalized.mean(1)[:, :width]}

    return Pass(runner.language_model, prompts, [], None, (), function, 10**6)


def test_work_that_counts_itself_goes_by_its_own_count(runner: Runner):
    rows = Rows(runner.language_model, [torch.arange(4)] * 20)
    plan = [list(range(i, i + 5)) for i in range(0, 20, 5)]
    found = Samples(runner.shape, 10**9).take(rows, plan, "Rows")
    assert found.taken.flops == pytest.approx(sum(range(1, 21)))
    assert (found.taken.runs, found.peak_bytes) == (20, 50)
    assert len(found.results["value"]) == 20
    # The batch in the middle stands for all.
    assert all(set(members) <= set(plan[2]) for members in rows.computed)


def test_only_some_of_many_batches_are_looked_at(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "LOOKED_AT", 4)
    rows = Rows(runner.language_model, [torch.arange(4)] * 100)
    found = Samples(runner.shape, 10**9).take(rows, [[i] for i in range(100)], "Rows")
    # Batches 0, 25, 50 and 75 stand for a hundred.
    assert found.taken.flops == pytest.approx(25 * (1 + 26 + 51 + 76))


def test_calls_that_look_alike_are_timed_once(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    timed: list[int] = []
    own = samples.timed

    def noted(model: LanguageModel, function: object) -> object:
        timed.append(1)
        return own(model, function)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(samples, "timed", noted)
    taking, plan = Samples(runner.shape, 10**9), [[0, 1], [2]]
    first = taking.take(passes(runner, [5, 4, 3]), plan, "Reading")
    once = len(timed)
    again = taking.take(passes(runner, [5, 5, 2]), plan, "Reading")
    assert len(timed) == once
    # By the padded tokens of each: 2 x 5 + 3, and 2 x 5 + 2.
    assert again.taken.seconds == pytest.approx(first.taken.seconds * 12 / 13)
    assert (first.taken.tokens, again.taken.tokens) == (13, 12)
    for other in (passes(runner, [5, 4, 3], width=2), passes(runner, [9, 4, 3])):
        before = len(timed)
        taking.take(other, plan, "Reading")
        assert len(timed) > before, "results of another form, or longer prompts, are other calls"


def test_a_slow_call_is_done_once(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "SAMPLE_SECONDS", 0.0)
    rows = Rows(runner.language_model, [torch.arange(4)] * 20)
    Samples(runner.shape, 10**9).take(rows, [list(range(20))], "Rows")
    assert rows.computed == [[0]]
