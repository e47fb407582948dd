"""Generation that is planned: tokens against those that a decoder is really fed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mechlist.decode import HeadEdit, Sampling, generate
from mechlist.engine import dry_generation
from mechlist.engine.counting import Counter
from mechlist.engine.dry_run import dry_run
from mechlist.models.decoding import CachedDecoder, RecomputingDecoder
from mechlist.runner import Runner

PROMPTS = [[5, 6, 7, 8], [5, 6, 7, 8, 9], [5, 6, 7, 9], [1, 2, 3, 4]]
NEW = 20


def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that go through all layers."""
    seen: list[int] = []
    cached, residual = CachedDecoder.feed, RecomputingDecoder.feed

    def feed(self: Any, tokens: Tensor) -> Tensor:
        seen.append(tokens.numel())
        return cached(self, tokens)

    def feed_again(self: Any, tokens: Tensor) -> Tensor:
        out = residual(self, tokens)
        seen.append(self._seen.numel())
        return out

    monkeypatch.setattr(CachedDecoder, "feed", feed)
    monkeypatch.setattr(RecomputingDecoder, "feed", feed_again)
    return seen


def written(runner: Runner, **changes: Any) -> Any:
    return generate(runner, PROMPTS, max_new_tokens=NEW, samples=3, sampling=Sampling(), **changes)


@pytest.mark.parametrize("architecture", ["gemma2", "stablelm"])
@pytest.mark.parametrize("swap", [False, True])
def test_tokens_are_those_that_are_fed(
    loaded: Callable[[str], Runner], architecture: str, swap: bool, monkeypatch: pytest.MonkeyPatch
):
    runner = loaded(architecture)
    edit = HeadEdit(heads=((1, 0),), mode="swap", donors=[row[::-1] for row in PROMPTS]) if swap else None
    plan = dry_run(runner, lambda runner: written(runner, edit=edit)).plan
    seen = fed(monkeypatch)
    written(runner, edit=edit)
    assert plan.forward_tokens == sum(seen)
    assert plan.notes == ("what is written is counted with as many tokens as it may have, 20: mostly it takes less",)


def test_few_tokens_are_drawn(loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch):
    seen = fed(monkeypatch)
    monkeypatch.setattr(dry_generation, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(dry_generation, "WRITE_SECONDS", 0.0)
    dry_run(loaded("gemma2"), written)
    assert sum(seen) < 100


def test_operations_are_those_of_the_real_run(loaded: Callable[[str], Runner]):
    runner = loaded("gemma2")
    plan = dry_run(runner, written).plan
    with Counter("cpu") as counter:
        written(runner)
    assert plan.flops == pytest.approx(counter.flops, rel=0.01)


def test_completions_are_the_given_one(loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dry_generation, "WRITE_SECONDS", 0.0)
    found = dry_run(
        loaded("gemma2"), lambda runner: written(runner, stop_tokens=[3]), example=lambda: (9, 8, 3)
    ).results
    assert [len(row) for row in found] == [3] * 4
    assert all(one.tokens == (9, 8, 3) and one.stopped and len(one.log_probs) == 3 for row in found for one in row)
    long = dry_run(loaded("gemma2"), written, example=lambda: tuple(range(50))).results[0][0]
    assert long.tokens == tuple(range(NEW))
    assert not long.stopped


def test_one_is_the_given_one_where_none_stopped(loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dry_generation, "WRITE_SECONDS", 1e6)
    monkeypatch.setattr(dry_generation, "LONGEST_SECONDS", 1e6)
    runner = loaded("gemma2")
    free = [one.tokens for row in generate(runner, PROMPTS, max_new_tokens=NEW) for one in row]
    stop = min(set(range(runner.shape.d_vocab)) - {token for tokens in free for token in tokens})
    planned = dry_run(
        runner,
        lambda runner: generate(runner, PROMPTS, max_new_tokens=NEW, stop_tokens=[stop]),
        example=lambda: (9, 8, stop),
    )
    assert sorted(len(one.tokens) for row in planned.results for one in row) == [3, NEW, NEW, NEW]
    assert planned.plan.notes[0].startswith("what is written is counted with as many tokens as it may have, 20")


def test_without_one_they_are_as_long_as_they_may_be(loaded: Callable[[str], Runner]):
    found = dry_run(loaded("gemma2"), written).results
    assert {len(one.tokens) for row in found for one in row} == {NEW}
    assert torch.tensor([one.log_probs for row in found for one in row]).lt(0).all()


def test_a_single_new_token(loaded: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch):
    runner = loaded("gemma2")

    def run(runner: Runner) -> Any:
        return generate(runner, PROMPTS, max_new_tokens=1)

    plan = dry_run(runner, run).plan
    seen = fed(monkeypatch)
    run(runner)
    assert plan.forward_tokens == sum(seen) == 17
