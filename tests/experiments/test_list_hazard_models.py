"""The experiments on a model's own lists, on a random Gemma 2 that has list-tiny's tokenizer and writes nonsense."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechlist.experiment import Experiment
from mechlist.experiments.list_hazard.experiment import ListHazard
from mechlist.experiments.list_temperature.experiment import ListTemperature
from mechlist.experiments.token_view.experiment import TokenView
from mechlist.experiments.written_lists.experiment import WrittenLists
from mechlist.runner import Runner
from tests.experiments.lists_for_tests import random_gemma2, write_recorded

SMALL: dict[str, Any] = {"samples": 1, "max_new_tokens": 12, "resamples": 20, "topics": ("Fruits", "Ocean")}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = random_gemma2(tmp_path_factory.mktemp("gemma"))
    return Runner.load(str(folder), device="cpu", progress=False)


@pytest.mark.parametrize(
    "asked",
    [
        ListHazard(**SMALL, heads=("1.0",), controls=1),
        ListHazard(**SMALL, heads=("1.0",), controls=0, intervention="swap"),
        ListHazard(**SMALL, heads=("0.1", "1.0"), controls=1, intervention="mean", adjectives=("short",)),
        ListTemperature(**SMALL),
        WrittenLists(**SMALL),
        TokenView(max_new_tokens=12),
    ],
)
def test_lists_that_are_nonsense(runner: Runner, asked: Experiment):
    results = asked.run(runner)
    assert asked.findings(results)
    assert all(figure.to_dict()["layout"]["title"]["text"] for figure in asked.figures(results).values())
    assert asked.tables(results)
    if "variation_from_truth" in results:
        # The truth is known of the built-in model alone.
        assert np.isnan(results["variation_from_truth"]).all()


def test_recorded_lists_of_another_model(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "lists")
    for asked in (
        ListHazard(recorded=(folder,), resamples=20),
        ListTemperature(recorded=(folder,), resamples=20),
        WrittenLists(recorded=(folder,), resamples=20),
        TokenView(recorded=(folder,)),
    ):
        results = asked.run(runner)
        assert asked.findings(results)
        assert asked.figures(results)
