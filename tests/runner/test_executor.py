"""Where calls are done: here by default, or by another executor; journals, blocks and smaller batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mechlist.models.language_model import LanguageModel
from mechlist.runner import Batch, Runner, replace
from mechlist.runner.executor import Executor, Local
from mechlist.runner.forward import Cost, Work
from mechlist.runner.journal import Journal
from tests.runner.conftest import BuildModel


@dataclass
class Elsewhere:
    """Does every call with the last prompt alone, and notes it."""

    journal: Journal | None = None
    seen: list[str] = field(default_factory=list)

    def execute(self, work: Work, plan: Sequence[list[int]], asked: str, label: str) -> dict[str, Tensor]:
        self.seen.append(label)
        return work.compute([plan[-1][-1]])

    def in_blocks(self, work: Work, plan: Sequence[list[int]]) -> dict[str, Tensor]:
        return self.execute(work, plan, "", "blocks")

    def beside(self, name: str) -> "Elsewhere":
        self.seen.append(name)
        return self


@dataclass(frozen=True)
class Halves:
    """Work of two calls: the log-probabilities of a block's prompts, and of the same prompts backwards."""

    runner: Runner
    prompts: Sequence[Tensor]
    kind: str = "halves"
    path: str = "two by two"

    @property
    def model(self) -> LanguageModel:
        return self.runner.language_model

    def compute(self, members: list[int]) -> dict[str, Tensor]:
        rows = [self.prompts[i] for i in members]
        return {"one": self.runner.log_probs(rows), "other": self.runner.log_probs([row.flip(0) for row in rows])}

    def cost(self, members: list[int]) -> Cost:
        return Cost(runs=len(members))


def test_both_are_executors(tiny: Runner):
    assert isinstance(Elsewhere(), Executor)
    assert isinstance(Local(torch.device("cpu"), progress=False), Executor)


def test_calls_go_to_the_executor(tiny: Runner, prompts: Callable):
    rows, elsewhere = prompts(count=5), Elsewhere()
    other = tiny.with_executor(elsewhere)
    assert len(other.log_probs(rows)) == 1
    assert elsewhere.seen == ["Running the model"]
    assert len(tiny.log_probs(rows)) == 5
    assert (other.model, other.memory, other.seed) == (tiny.model, tiny.memory, tiny.seed)


def test_another_executor_sees_what_is_in_place_and_stores_nothing(tiny: Runner, prompts: Callable):
    rows = prompts(count=1)
    tiny.store = object()  # pyright: ignore[reportAttributeAccessIssue]
    with tiny.intervene(replace("blocks.1.hook_resid_post", 0.0)):
        other = tiny.with_executor(Local(torch.device("cpu"), progress=False))
        tiny.store = None
        expected = tiny.logits(rows)
    assert other.store is None
    assert torch.equal(other.logits(rows).nan_to_num(), expected.nan_to_num())
    assert len(tiny.interventions) == 0


def test_an_untrained_model_has_an_executor_beside(tiny_runner: Runner, tmp_path: Path):
    elsewhere = Elsewhere()
    tiny_runner.with_executor(elsewhere).untrained(3)
    assert elsewhere.seen == ["untrained-3"]
    beside = Local(torch.device("cpu"), progress=False, journal=Journal(tmp_path)).beside("untrained-3")
    assert beside.journal is not None
    assert beside.journal.directory == tmp_path / "untrained-3"
    assert Local(torch.device("cpu"), progress=False).beside("untrained-3").journal is None


def test_blocks_are_put_together_in_the_order_of_their_prompts(tiny: Runner, prompts: Callable, tmp_path: Path):
    rows = [p for p in prompts(count=6) if len(p) > 1]
    tiny.restart(Journal(tmp_path))
    found = tiny.in_blocks(Halves(tiny, rows), [[0, 1, 2], list(range(3, len(rows)))])
    tiny.restart(None)
    for i, row in enumerate(rows):
        torch.testing.assert_close(found["one"][i, : len(row) - 1], tiny.log_probs([row])[0], atol=1e-5, rtol=0)
    # The journal is that of the calls: two of each block.
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("memory", ["4GiB", "600KB"])
def test_smaller_batches_hold_one_prompt_at_least_and_change_nothing(build: BuildModel, prompts: Callable, memory: str):
    runner = Runner(build(n_ctx=64), memory=memory, progress=False)
    rows = prompts(count=40, longest=60)
    sizes: list[int] = []

    def size(batch: Batch) -> dict[str, Tensor]:
        sizes.append(batch.tokens.numel())
        return {"log_prob": batch.next_tokens().log_prob}

    usual, count = runner.map(rows, size)["log_prob"], len(sizes)
    with runner.smaller_batches(0.5):
        smaller = runner.map(rows, size)["log_prob"]
    with runner.smaller_batches(1e-6):
        runner.map(rows, size)
    few, one = sizes[count : len(sizes) - len(rows)], sizes[len(sizes) - len(rows) :]
    assert max(few) < max(sizes[:count])
    assert sorted(one) == sorted(len(row) for row in rows)
    torch.testing.assert_close(smaller, usual, atol=1e-4, rtol=0, equal_nan=True)
    sizes.clear()
    runner.map(rows, size)
    assert len(sizes) == count


def test_steps_are_all_done(tiny: Runner):
    assert list(tiny.steps("Training", 5)) == [0, 1, 2, 3, 4]


def test_the_fingerprint_is_worked_out_once(tiny: Runner, monkeypatch: pytest.MonkeyPatch):
    first = tiny.fingerprint()
    monkeypatch.setattr("mechlist.models.identity.fingerprint", lambda model: pytest.fail("worked out again"))
    assert tiny.fingerprint() == first
