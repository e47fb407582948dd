"""sparse-output-basis: fidelity by hand from what is saved, sparsity and pruning, texts from nothing, and bad input."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.cli.main import main
from mechlist.decode.generation import Completion
from mechlist.engine.dry_run import plan_experiment
from mechlist.errors import InputError
from mechlist.experiments.sparse_output_basis.experiment import SparseOutputBasis
from mechlist.experiments.sparse_output_basis.mind import top_of_mind
from mechlist.results import load_dataset
from mechlist.runner import Runner
from tests.experiments.plain_for_tests import load, reading

SMALL: dict[str, Any] = {"samples": 20, "sample_tokens": 6, "states": 60, "vocabulary": 50, "steps": 15}


def few(changes: dict[str, Any]) -> dict[str, Any]:
    return SMALL | changes


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reading(tmp_path_factory.mktemp("models") / "llama", "LlamaConfig", num_hidden_layers=2)


@pytest.fixture(scope="module")
def runner(directory: Path) -> Runner:
    return load(directory)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return SparseOutputBasis(**SMALL).run(runner)


def test_weaker_penalties_leave_fewer_zeros(results: xr.Dataset):
    sparsity = results["sparsity"].values
    assert results["penalty"].values.tolist() == [0.1, 0.03, 0.01, 0.003, 0.001]
    assert (np.diff(sparsity) < 0).all()
    assert 0 < sparsity[0] <= 1
    for name in ("kl", "agreement"):
        assert (results[f"{name}_low"] <= results[name]).all()
        assert (results[name] <= results[f"{name}_high"]).all()


def test_the_models_own_weights_lose_nothing(results: xr.Dataset):
    """Over the tokens that are written they give the model's own distribution: the units are taken out and put in."""
    assert float(results["own_kl"]) == pytest.approx(0, abs=1e-4)
    assert float(results["own_agreement"]) == 1


def test_all_tokens_and_a_softcap(tmp_path: Path):
    sizes: dict[str, Any] = {"head_dim": 16, "num_key_value_heads": 2, "num_hidden_layers": 1}
    runner = load(reading(tmp_path / "gemma", "Gemma2Config", **sizes))
    results = SparseOutputBasis(**few({"vocabulary": 0, "penalties": (0.3,), "steps": 2})).run(runner)
    assert results.attrs["covered"] == 1
    assert results.attrs["softcap"] == 30
    assert "whose softcap at 30 the refitted weights take on themselves" in SparseOutputBasis().findings(results)[0]


def test_what_dimensions_write_is_among_the_tokens_that_are_kept(runner: Runner, results: xr.Dataset):
    assert len(np.unique(results["up_token"].values)) <= 50
    texts = runner.token_texts(results["up_token"].values[0].tolist())
    assert [json.loads(text) for text in results["up_text"].values[0].tolist()] == texts
    assert (results["written"] <= 50).all()


def test_texts_from_nothing_are_counted(runner: Runner):
    a, b, c = runner.to_tokens("the", prepend_bos=False)[0], 300, 301
    texts = [Completion(row, (0.0,) * 3, stopped=False) for row in ((a, b, b), (a, c, a), (b, c, c))]
    found = top_of_mind(runner, texts)
    assert dict(zip(found["begins_token"].values, found["begins_share"].values, strict=True)) == {a: 2 / 3, b: 1 / 3}
    held = dict(zip(found["holds_token"].values, found["holds_share"].values, strict=True))
    assert held == {a: 2 / 3, b: 2 / 3, c: 2 / 3}
    assert (found["begins_share_low"] < found["begins_share"]).all()


def test_the_texts_are_told(runner: Runner, results: xr.Dataset):
    assert results.sizes["sample"] == 20
    first = Counter(results["begins_token"].values.tolist())
    assert max(first.values()) == 1
    assert float(results["begins_share"].sum()) <= 1 + 1e-9
    xr.testing.assert_identical(SparseOutputBasis(**SMALL).run(runner), results)


def test_figures_tables_and_findings(results: xr.Dataset):
    experiment = SparseOutputBasis()
    assert len(experiment.figures(results)) >= 2
    tables = experiment.tables(results)
    assert set(tables) == {"fits", "dimensions", "top-of-mind", "first-tokens", "texts"}
    assert len(tables["fits"]) == 10
    said = experiment.findings(results)
    assert said[0].startswith("Refitted on 60 and judged on ")
    assert any(sentence.startswith("Of 20 texts from nothing most begin with ") for sentence in said)


def test_from_the_command_line_and_what_it_would_take(directory: Path, runner: Runner, tmp_path: Path):
    flags = ["--model", str(directory), "--device", "cpu", "--samples", "12", "--sample-tokens", "4", "--states", "20"]
    more = ["--vocabulary", "30", "--steps", "3", "--penalties", "0.3", "0.1"]
    assert main(["run", "sparse-output-basis", *flags, *more, "--out", str(tmp_path / "run")]) == 0
    assert load_dataset(tmp_path / "run" / "results.nc").sizes["penalty"] == 2
    assert plan_experiment(SparseOutputBasis(**SMALL), runner).plan.forward_tokens > 0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"samples": 9}, r"samples must be at least 10, not 9\."),
        ({"vocabulary": -1}, r"vocabulary must be at least 0, not -1\."),
        ({"penalties": (0.1, 0.2)}, "penalties must be from 0 to 1 and fall, and be one at least"),
        ({"penalties": ()}, "penalties must be from 0 to 1 and fall, and be one at least"),
        ({"penalties": (1.0,)}, "penalties must be from 0 to 1 and fall"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        SparseOutputBasis(**parameters)


def test_no_bos_and_no_memory(directory: Path):
    with pytest.raises(InputError, match="The empty prompt is the BOS token alone, and this model has none"):
        SparseOutputBasis(**SMALL).run(load(directory, bos=False))
    tight = load(directory, memory="4MiB")
    with pytest.raises(
        InputError, match=r"memory is too small: 4,096 tokens take about .*; lower vocabulary or states"
    ):
        SparseOutputBasis(**few({"samples": 60, "states": 240, "vocabulary": 0})).run(tight)
