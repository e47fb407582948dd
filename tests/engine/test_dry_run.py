"""The dry run: what it counts against what the Runner really does, and results of the same form."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from mechlist.engine import samples
from mechlist.engine.counting import Counter
from mechlist.engine.dry_run import dry_run
from mechlist.engine.samples import token_flops
from mechlist.errors import InputError
from mechlist.models.language_model import _Hooked
from mechlist.runner import Batch, Runner, replace
from tests.runner.conftest import BuildModel

LENGTHS = [3, 7, 7, 12, 5, 30, 9, 9, 2, 31, 8, 8]


@pytest.fixture
def prompts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 31, (n,), generator=generator) for n in LENGTHS]


@pytest.fixture
def runner(build: BuildModel) -> Runner:
    return Runner(build(), memory="400kB", progress=False)


@contextmanager
def spied() -> Iterator[list[int]]:
    """Tokens of every forward pass, with their padding."""
    seen: list[int] = []
    own = _Hooked.residual

    def residual(self: Any, tokens: Tensor, hooks: Any) -> Tensor:
        seen.append(tokens.numel())
        return own(self, tokens, hooks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Hooked, "residual", residual)
        yield seen


def work(prompts: list[Tensor]) -> Callable[[Runner], Any]:
    def run(runner: Runner) -> tuple[dict[str, Tensor], Tensor]:
        kept = runner.capture(prompts, "blocks.*.hook_resid_post")
        with runner.intervene(replace("blocks.0.attn.hook_z", 0.0, heads=[1])):
            return kept, runner.logits(prompts, positions=-1)

    return run


def test_tokens_are_those_that_the_runner_passes(runner: Runner, prompts: list[Tensor]):
    plan = dry_run(runner, work(prompts)).plan
    with spied() as seen:
        work(prompts)(runner)
    assert len(set(seen)) == len(seen) == 4  # Several batches of unequal width, or nothing is tested.
    assert plan.forward_tokens == sum(seen)
    assert plan.path == f"{2 * len(LENGTHS)} rows in {len(seen)} batches: Capturing activations, Running the model"


def test_a_sample_is_computed(runner: Runner, prompts: list[Tensor], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "SAMPLE_SECONDS", 0.0)
    runner.language_model.one_by_one()  # Looked at once a model.
    with spied() as seen:
        plan = dry_run(runner, work(prompts)).plan
    # The longest prompt, once for each of the two calls.
    assert seen == [31, 31]
    assert plan.forward_tokens > 200


def test_operations_are_those_of_the_real_run(build: BuildModel):
    runner = Runner(build(), memory="400kB", progress=False)
    equal = list(torch.randint(0, 31, (40, 16), generator=torch.Generator().manual_seed(1)))

    def run(runner: Runner) -> Tensor:
        return runner.logits(equal)

    plan = dry_run(runner, run).plan
    with Counter("cpu") as counter:
        run(runner)
    assert plan.flops == counter.flops
    by_hand = 40 * 16 * (token_flops(runner.shape, 16) + 2 * 16 * 31)
    assert plan.flops == by_hand


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma", "gemma2", "pythia", "qwen2"])
def test_operations_of_a_token(loaded: Callable[[str], Runner], architecture: str):
    runner = loaded(architecture)
    with torch.no_grad(), Counter("cpu") as counter:
        runner.language_model.residual(torch.randint(0, 97, (3, 10)), [])
    # Rotations are products of few numbers, and not counted by hand.
    assert 30 * token_flops(runner.shape, 10) <= counter.flops <= 1.02 * 30 * token_flops(runner.shape, 10)


def test_results_have_the_form_of_the_real_ones(runner: Runner, prompts: list[Tensor]):
    kept, logits = dry_run(runner, work(prompts)).results
    real, real_logits = work(prompts)(runner)
    assert {k: v.shape for k, v in kept.items()} == {k: v.shape for k, v in real.items()}
    assert logits.shape == real_logits.shape
    longest = LENGTHS.index(31)
    torch.testing.assert_close(logits[longest], real_logits[longest])
    # Whatever is read of another prompt is there.
    assert all(torch.isfinite(value[i, :n]).all() for value in kept.values() for i, n in enumerate(LENGTHS))


def test_the_peak_keeps_to_the_bound_and_grows_with_batches(build: BuildModel):
    equal = list(torch.randint(0, 31, (64, 16), generator=torch.Generator().manual_seed(1)))

    def run(runner: Runner) -> None:
        runner.map(equal, lambda batch: {"done": torch.ones(len(batch.tokens))})

    peaks = []
    for memory in ("60kB", "400kB"):
        runner = Runner(build(), memory=memory, progress=False)
        peaks.append(dry_run(runner, run).plan.peak_bytes)
        assert peaks[-1] <= runner.memory
    assert peaks[1] > 3 * peaks[0]


def test_the_runner_stays_as_it_was(runner: Runner, prompts: list[Tensor]):
    before = dict(vars(runner))
    dry_run(runner, work(prompts))
    assert vars(runner) == before


def test_interventions_in_place_act(runner: Runner, prompts: list[Tensor]):
    def run(runner: Runner) -> Tensor:
        return runner.logits(prompts[:1])

    with runner.intervene(replace("blocks.1.hook_resid_post", 0.0)):
        found = dry_run(runner, run).results
        torch.testing.assert_close(found, runner.logits(prompts[:1]))


def test_an_untrained_model_is_counted_with_the_trained_one(runner: Runner, prompts: list[Tensor]):
    def run(runner: Runner) -> None:
        runner.untrained(0).log_probs(prompts)
        runner.log_probs(prompts)

    one = dry_run(runner, lambda runner: runner.log_probs(prompts)).plan
    assert dry_run(runner, run).plan.forward_tokens == 2 * one.forward_tokens


def test_work_without_a_call_is_counted(runner: Runner):
    plan = dry_run(runner, lambda _: torch.randn(8, 8) @ torch.randn(8, 8)).plan
    assert (plan.flops, plan.path) == (2 * 8**3, "no pass through the model")


def test_runs_without_a_call_are_counted(runner: Runner):
    def run(runner: Runner) -> None:
        runner.language_model.residual(torch.zeros(2, 5, dtype=torch.long), [])
        runner.log_probs([[1, 2, 3]])

    assert dry_run(runner, run).plan.forward_tokens == 13
    assert not runner.model.embed._forward_hooks


def test_faults_are_those_of_the_run(runner: Runner):
    with pytest.raises(InputError, match="outside the vocabulary of 31"):
        dry_run(runner, lambda runner: runner.log_probs([[1, 99]]))


def test_integers_and_flags_have_examples(runner: Runner, prompts: list[Tensor]):
    def run(runner: Runner) -> dict[str, Tensor]:
        return runner.map(prompts, lambda batch: {"token": batch.tokens, "real": batch.real})

    found = dry_run(runner, run).results
    assert found["token"].shape == found["real"].shape == (len(LENGTHS), 31)
    assert (found["token"].dtype, found["real"].dtype) == (torch.long, torch.bool)


def test_a_function_sees_batches(runner: Runner, prompts: list[Tensor]):
    def rows(batch: Batch) -> dict[str, Tensor]:
        return {"sum": batch.logits().sum((1, 2))}

    assert dry_run(runner, lambda runner: runner.map(prompts, rows)).results["sum"].shape == (len(LENGTHS),)
