"""top-predictions: every prefix against the model's own forward pass, the empty prompt, and bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.cli.main import main
from mechlist.engine.dry_run import plan_experiment
from mechlist.errors import InputError
from mechlist.experiments.top_predictions.experiment import TopPredictions, odds
from mechlist.results import load_dataset
from mechlist.runner import Runner
from tests.experiments.plain_for_tests import load, reading

PROMPTS = ("a short list of Fruits", "the")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reading(tmp_path_factory.mktemp("models") / "llama", "LlamaConfig")


@pytest.fixture(scope="module")
def runner(directory: Path) -> Runner:
    return load(directory)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return TopPredictions(prompt=PROMPTS).run(runner)


def test_every_prefix_is_that_of_the_models_own_pass(runner: Runner, results: xr.Dataset):
    prefixes = [(-1, [runner.bos_token_id])]
    for number, text in enumerate(PROMPTS):
        row = runner.to_tokens(text)
        prefixes += [(number, row[:end]) for end in range(2, len(row) + 1)]
    assert results.sizes["prefix"] == len(prefixes)
    for at, (number, prefix) in enumerate(prefixes):
        with torch.no_grad():
            logits = runner.model(torch.tensor([prefix]))[0, -1].double()
        probabilities, best = logits.softmax(-1), logits.topk(3)
        cell = results.isel(prefix=at)
        assert int(cell["prompt"]) == number
        assert (int(cell["length"]), int(cell["token"])) == (len(prefix), prefix[-1])
        assert cell["top_token"].values.tolist() == best.indices.tolist()
        np.testing.assert_allclose(cell["logit"], best.values, atol=1e-4)
        np.testing.assert_allclose(cell["probability"], probabilities[best.indices], rtol=1e-3)
        ratio = probabilities[best.indices[0]] / probabilities[best.indices[1]]
        assert float(cell["odds"]) == pytest.approx(float(ratio), rel=1e-3)
        entropy = float(-(probabilities * probabilities.log()).sum())
        assert float(cell["entropy"]) == pytest.approx(entropy, abs=1e-4)
        assert [json.loads(t) for t in cell["top_text"].values.tolist()] == runner.token_texts(best.indices.tolist())


def test_the_odds_of_the_source():
    assert odds(np.array([22.0583]), np.array([17.2366])) == pytest.approx(124.176, abs=1e-3)


def test_figures_tables_and_findings(results: xr.Dataset):
    experiment = TopPredictions()
    assert set(experiment.figures(results)) == {"prefixes", "empty-prompt"}
    assert experiment.tables(results)["prefixes"]["prompt"].tolist()[:2] == ["(empty prompt)", PROMPTS[0]]
    said = experiment.findings(results)
    assert len(said) == 3
    assert said[0].startswith("After the empty prompt, BOS alone, the most probable tokens are ")
    assert said[1].startswith('After "a short list of Fruits" comes ')


def test_the_empty_prompt_by_itself(runner: Runner, results: xr.Dataset):
    alone = TopPredictions(prompt=("",)).run(runner)
    assert alone.sizes["prefix"] == 1
    np.testing.assert_allclose(alone["logit"][0], results["logit"][0], atol=1e-5)
    assert TopPredictions().findings(alone)[0].startswith("After the empty prompt, BOS alone")
    assert "empty-prompt" in TopPredictions().figures(alone)


def test_a_model_without_bos_has_no_empty_prompt(directory: Path):
    runner = load(directory, bos=False)
    results = TopPredictions(prompt=("the",)).run(runner)
    assert (results["prompt"] >= 0).all()
    assert "empty-prompt" not in TopPredictions().figures(results)
    with pytest.raises(InputError, match="The empty prompt is the BOS token alone, and this model has none"):
        TopPredictions(prompt=("",)).run(runner)


def test_from_the_command_line_and_what_it_would_take(directory: Path, runner: Runner, tmp_path: Path):
    flags = ["--model", str(directory), "--device", "cpu", "--prompt", "the", "--top", "2"]
    assert main(["run", "top-predictions", *flags, "--out", str(tmp_path / "run")]) == 0
    assert load_dataset(tmp_path / "run" / "results.nc").sizes["rank"] == 2
    assert plan_experiment(TopPredictions(prompt=PROMPTS), runner).plan.forward_tokens > 0


@pytest.mark.parametrize(("top", "words"), [(1, "so that there is a runner-up, not 1"), (0, "at least 2 tokens")])
def test_bad_parameters(top: int, words: str):
    with pytest.raises(InputError, match=words):
        TopPredictions(top=top)


def test_more_tokens_than_there_are(runner: Runner):
    with pytest.raises(InputError, match="top must be at most 4096, the vocabulary, not 5000"):
        TopPredictions(top=5000).run(runner)


def test_a_broken_model_is_refused(directory: Path):
    runner: Any = load(directory)
    with torch.no_grad():
        runner.model.embed.W_E[runner.bos_token_id] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        TopPredictions(prompt=PROMPTS).run(runner)
