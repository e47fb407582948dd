"""What experiments say they would take: tokens against those that really go through the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from mechlist.datasets.lists.recorded import read_recorded
from mechlist.engine import dry_generation
from mechlist.engine.counting import Counter
from mechlist.engine.dry_run import plan_experiment
from mechlist.experiment import Experiment
from mechlist.experiments.attribution_patch.experiment import AttributionPatch
from mechlist.experiments.circuit.experiment import Circuit
from mechlist.experiments.direct_logit_attribution.experiment import DirectLogitAttribution
from mechlist.experiments.entropy.experiment import Entropy
from mechlist.experiments.generate_lists.experiment import GenerateLists
from mechlist.experiments.induction.experiment import Induction
from mechlist.experiments.list_hazard.experiment import ListHazard
from mechlist.experiments.list_heads.experiment import ListHeads
from mechlist.experiments.list_temperature.experiment import ListTemperature
from mechlist.experiments.logit_lens.experiment import LogitLens
from mechlist.experiments.path_patch.experiment import PathPatch
from mechlist.experiments.token_view.experiment import TokenView
from mechlist.experiments.written_lists.experiment import WrittenLists
from mechlist.models.decoding import CachedDecoder
from mechlist.models.language_model import _Hooked
from mechlist.results import write_text
from mechlist.runner import Runner
from tests.experiments.lists_for_tests import random_gemma2

TOPICS = ("Fruits", "Colors", "Ocean")
FEW: dict[str, Any] = {"topics": TOPICS, "lists": 1, "items": 3}
OWN: dict[str, Any] = {"topics": TOPICS[:2], "samples": 1, "max_new_tokens": 12, "resamples": 20}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A random Gemma 2 with the tokenizer of list-tiny: it hardly ever ends a list."""
    folder = random_gemma2(tmp_path_factory.mktemp("gemma"))
    return Runner.load(str(folder), device="cpu", progress=False)


@pytest.fixture(scope="module")
def recorded(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples of the lists of a run of generate-lists."""
    asked = GenerateLists(topics=TOPICS, samples=2, max_new_tokens=30)
    folder = tmp_path_factory.mktemp("generate")
    for name, text in asked.files(plan_experiment(asked, runner).results).items():
        write_text(folder / name, text)
    return folder / "lists"


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written for a plan is never cut off, however busy the machine is."""
    monkeypatch.setattr(dry_generation, "WRITE_SECONDS", 1e6)


@contextmanager
def spied() -> Iterator[list[int]]:
    """Tokens of every forward pass and every step, with their padding."""
    seen: list[int] = []
    residual, feed = _Hooked.residual, CachedDecoder.feed

    def passed(self: Any, tokens: Tensor, hooks: Any) -> Tensor:
        seen.append(tokens.numel())
        return residual(self, tokens, hooks)

    def fed(self: Any, tokens: Tensor) -> Tensor:
        seen.append(tokens.numel())
        return feed(self, tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Hooked, "residual", passed)
        patch.setattr(CachedDecoder, "feed", fed)
        yield seen


@pytest.mark.parametrize(
    "asked", [Entropy(**FEW), LogitLens(**FEW), DirectLogitAttribution(**FEW), LogitLens(**FEW, softcap=True)]
)
def test_tokens_of_plain_passes(runner: Runner, asked: Experiment):
    plan = plan_experiment(asked, runner).plan
    with spied() as seen, Counter("cpu") as counter:
        asked.run(runner)
    assert plan.forward_tokens == sum(seen) > 0
    # Prompts of other lengths than the sample's, and fewer positions that are read.
    assert plan.flops == pytest.approx(counter.flops, rel=0.1)
    assert plan.notes == ()


@pytest.mark.parametrize("kind", [ListHazard, ListTemperature, WrittenLists, TokenView, Entropy])
def test_tokens_on_recorded_lists(runner: Runner, recorded: Path, kind: Any):
    asked = kind(recorded=(recorded,))
    plan = plan_experiment(asked, runner).plan
    with spied() as seen:
        asked.run(runner)
    assert plan.forward_tokens == sum(seen) > 0


def test_written_lists_are_as_long_as_they_may_be(runner: Runner):
    asked = GenerateLists(topics=TOPICS, samples=2, temperatures=(0.5, 0.9), max_new_tokens=10)
    plan = plan_experiment(asked, runner).plan
    with spied() as seen:
        results = asked.run(runner)
    written = (results["tokens"].values >= 0).sum() - results["prompt_length"].values.sum()
    # Prompts are read once for both samples; a list that ends frees a row only when several do.
    assert written == results.sizes["list"] * 10, "the random model ended a list: choose another"
    assert plan.forward_tokens == sum(seen)
    assert "as many tokens as it may have, 10" in plan.notes[0]


@pytest.mark.parametrize(
    "asked",
    [
        ListHazard(**OWN, heads=("1.0",), controls=1),
        ListHazard(**OWN, heads=("1.0",), controls=0, intervention="swap"),
        ListHazard(**OWN, heads=("0.1", "1.0"), controls=1, intervention="mean"),
        ListTemperature(**OWN),
        WrittenLists(**OWN),
        TokenView(max_new_tokens=12),
        ListHeads(**FEW, verify_top=2),
        PathPatch(topics=TOPICS[:2]),
        Circuit(examples=2, period=6, steps=2, random_circuits=1, verify_top=2),
        AttributionPatch(topics=TOPICS[:2], verify_top=2),
    ],
    ids=lambda asked: f"{type(asked).__name__}-{getattr(asked, 'intervention', '')}",
)
def test_everything_else_is_planned(runner: Runner, asked: Experiment):
    plan = plan_experiment(asked, runner).plan
    assert min(plan.forward_tokens, plan.flops, plan.peak_bytes, plan.seconds) > 0
    with Counter("cpu") as counter:
        asked.run(runner)
    # Own lists get shorter or longer than those of the plan, and what is strong in a sample may not be in the end.
    assert 0.4 < plan.flops / counter.flops < 2.5


def test_induction_with_its_untrained_models(tiny_runner: Runner):
    asked = Induction(batch=4, period=10, mlp_sequences=0, random_sets=1)
    plan = plan_experiment(asked, tiny_runner).plan
    with spied() as seen:
        asked.run(tiny_runner)
    # The heads that are found in the sample may not be those of all sequences, but here they are.
    assert plan.forward_tokens == sum(seen)


def test_a_tuned_lens_is_drawn_out(runner: Runner):
    short = LogitLens(**FEW, tuned=True, tuned_steps=12, tuned_batch=16)
    plan = plan_experiment(short, runner).plan
    with Counter("cpu") as counter:
        short.run(runner)
    assert plan.flops == pytest.approx(counter.flops, rel=0.05)


def test_examples_are_recorded_lists(recorded: Path):
    files = [read_recorded(file) for file in sorted(recorded.glob("*.json"))]
    assert [file.adjective for file in files] == ["long", "", "short"]
    assert all(list(file.topics) == list(TOPICS) for file in files)
    assert {len(lists) for file in files for lists in file.topics.values()} == {2}
