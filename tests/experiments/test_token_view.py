"""token-view: what is kept of each token, and what the figure shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.token_view.experiment import TokenView
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from tests.experiments.lists_for_tests import write_recorded


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def folder(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recorded(runner, tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def results(runner: Runner, folder: Path) -> xr.Dataset:
    return TokenView(recorded=(folder,), topic="Fruits", adjective="long", alternatives=3).run(runner)


def test_numbers_are_those_of_a_forward_pass(runner: Runner, results: xr.Dataset):
    tokens = results["token"].values.tolist()
    whole = [*results.attrs["prompt"][:-1], *tokens]
    logits = runner.logits([whole])[0, results["position"].values[0] :].log_softmax(-1).numpy()
    np.testing.assert_allclose(
        results["log_prob"][1:], [row[t] for row, t in zip(logits, tokens[1:], strict=False)], atol=1e-4
    )
    np.testing.assert_allclose(results["top_log_prob"], -np.sort(-logits, axis=1)[:, :3], atol=1e-4)
    np.testing.assert_array_equal(results["top_token"][:, 0], logits.argmax(1))
    assert json.loads(str(results["text"].values[-1])) == "<end_of_turn>"
    # Nothing is expected behind the end.
    assert np.isnan(results["entropy"].values[-1])
    assert np.isfinite(results["end"].values[:-1]).all()


def test_results_survive_their_file(results: xr.Dataset, tmp_path: Path):
    save_dataset(results, tmp_path / "results.nc")
    again = load_dataset(tmp_path / "results.nc")
    asked = TokenView()
    assert asked.findings(again) == asked.findings(results)
    assert asked.figures(again)["tokens"] == asked.figures(results)["tokens"]
    assert asked.findings(results)[0].startswith("Long list of Fruits: 3 items in ")


def test_the_figure_and_the_table(results: xr.Dataset):
    figure: Any = TokenView().figures(results)["tokens"]
    texts = next(trace for trace in figure.data if trace.type == "scatter" and "<b>-</b>" in trace.text)
    assert sum(text == "<b>⏎</b>" for text in texts.text) == 3
    assert "next, most probable first:" in texts.customdata[0]
    assert "it had a probability of" in texts.customdata[1]
    assert "&lt;end_of_turn&gt;" in texts.customdata[-1]
    table = TokenView().tables(results)["tokens"]
    assert len(table) == results.sizes["position"]


def test_a_list_that_is_written_here(runner: Runner):
    results = TokenView(topic="Ocean", adjective="none", number=2, max_new_tokens=12).run(runner)
    assert results.sizes["position"] <= 13
    assert results.attrs["temperature"] == 1
    assert TokenView().findings(results)


def test_lists_that_there_are_not_are_refused(runner: Runner, folder: Path):
    with pytest.raises(InputError, match="number must be at most 2, not 3: so many recorded lists with the adjective"):
        TokenView(recorded=(folder,), number=3).run(runner)
    with pytest.raises(InputError, match="number must be at most 0, not 1: so many recorded lists without adjective"):
        TokenView(recorded=(folder,), adjective="none").run(runner)
    with pytest.raises(InputError, match="alternatives must be at most 4096"):
        TokenView(alternatives=5000).run(runner)
    with pytest.raises(InputError, match="number must be at least 1, not 0"):
        TokenView(number=0)
