"""jacobian-lens: what is saved and read again, readings against the model, edits by hand, and bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.cli.main import main
from mechlist.engine.dry_run import plan_experiment
from mechlist.errors import InputError, ModelError
from mechlist.experiments.jacobian_lens.experiment import JacobianLensExperiment
from mechlist.lens.jacobian import load_lens
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from tests.experiments.plain_for_tests import load, own_logits, reading

PROMPTS = ("a short list of Fruits", "the", "")
SMALL: dict[str, Any] = {"prompt": PROMPTS, "fit_prompts": 6, "fit_tokens": 12, "skip": 2, "held_out": 3, "controls": 2}
LENSES = ["logit lens", "Jacobian lens"]


def few(changes: dict[str, Any]) -> dict[str, Any]:
    return SMALL | changes


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reading(tmp_path_factory.mktemp("models") / "llama", "LlamaConfig")


@pytest.fixture(scope="module")
def runner(directory: Path) -> Runner:
    return load(directory)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return JacobianLensExperiment(**few({}), dimensions=0).run(runner)


@pytest.fixture(scope="module")
def saved(results: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("run") / "results.nc"
    save_dataset(results, file)
    return file


def test_readings_are_those_of_the_stream_times_the_jacobian(runner: Runner, results: xr.Dataset, saved: Path):
    lens = load_lens(saved, runner)
    row = torch.tensor([runner.to_tokens(PROMPTS[0])])
    with torch.no_grad():
        logits, cache = runner.model.run_with_cache(row)
        own = logits[0, -1].log_softmax(-1)
        at = results.isel(prompt=0, position=row.shape[1] - 1)
        for stage in range(3):
            stream = cache["resid_pre", stage][0, -1]
            for name, vector in zip(LENSES, (stream, lens.of(stage) @ stream), strict=True):
                read = (
                    runner.model.ln_final(vector[None, None])[0, 0] @ runner.model.W_U + runner.model.b_U
                ).log_softmax(-1)
                cell = at.sel(lens=name, stage=stage)
                kl = float((own.exp() * (own - read)).sum())
                assert float(cell["kl"]) == pytest.approx(kl, rel=1e-3, abs=1e-5)
                assert int(cell["top_token"][0]) == int(read.argmax())
                assert float(cell["top_probability"][0]) == pytest.approx(float(read.max().exp()), rel=1e-3)
    assert results["lens"].values.tolist() == LENSES


def test_the_last_stage_is_the_model(runner: Runner, results: xr.Dataset):
    last = results.isel(stage=-1)
    for number, text in enumerate(PROMPTS):
        at = last.isel(prompt=number, position=int(results["length"][number]) - 1)
        top = int(own_logits(runner, text).argmax())
        assert (at["top_token"].isel(rank=0) == top).all()
        assert [json.loads(str(t)) for t in at["top_text"].isel(rank=0).values] == runner.token_texts([top, top])
    assert float(np.nanmax(np.abs(last["kl"]))) < 1e-4
    assert (last["fit_kl"] < 1e-4).all()
    beyond = results.isel(prompt=1, position=-1)
    assert (beyond["top_token"] == -1).all()
    assert beyond["kl"].isnull().all()


def test_a_lens_of_an_earlier_run_is_read_again(runner: Runner, results: xr.Dataset, saved: Path):
    again = JacobianLensExperiment(**few({}), lens=saved).run(runner)
    for name in ("top_token", "kl", "jacobian", "edit_effect"):
        np.testing.assert_array_equal(again[name], results[name], err_msg=name)
    assert again.attrs["lens_source"] == results.attrs["lens_source"]


def test_ablating_the_last_stage_takes_the_first_choice_away(runner: Runner, results: xr.Dataset):
    """At the last stage the direction is the token's own column: without it, the first choice falls behind."""
    effect = results["edit_effect"].sel(edit="ablate the first", edit_stage=3)
    assert (effect > 0).all()
    base = own_logits(runner, PROMPTS[0]).topk(2).values
    assert float(results["base_log_odds"][0]) == pytest.approx(float(base[1] - base[0]), abs=1e-4)
    assert (results["edit_effect_low"] <= results["edit_effect_mean"]).all()


def test_without_controls_nothing_is_tested(runner: Runner, saved: Path):
    results = JacobianLensExperiment(**few({"controls": 0}), lens=saved, edit_stages=(0, 2)).run(runner)
    assert results["edit_stage"].values.tolist() == [0, 2]
    assert "edit_p_corrected" not in results
    assert "random directions" not in " ".join(JacobianLensExperiment().findings(results))
    assert JacobianLensExperiment().figures(results)


def test_a_tuned_lens_beside_it_and_texts_of_ones_own(runner: Runner, tmp_path: Path):
    lines = [
        f"a {word} list of Fruits and the short names of Colors {n}" for n, word in enumerate(["short", "long"] * 5)
    ]
    (tmp_path / "texts.txt").write_text("\n".join([*lines, "the"]))
    asked = JacobianLensExperiment(**few({}), texts=tmp_path / "texts.txt", tuned=True, tuned_steps=3)
    results = asked.run(runner)
    assert results["lens"].values.tolist() == [*LENSES, "tuned lens"]
    assert str(tmp_path / "texts.txt") in results.attrs["lens_source"]
    assert asked.figures(results)
    asked = JacobianLensExperiment(**few({"fit_prompts": 50}), texts=tmp_path / "texts.txt")
    with pytest.raises(InputError, match=r"must hold 53 texts of 4 tokens at least, .* it holds 10"):
        asked.run(runner)
    with pytest.raises(InputError, match="texts must be a file of UTF-8 text"):
        JacobianLensExperiment(**few({}), texts=tmp_path / "none.txt").run(runner)


def test_figures_tables_and_findings(results: xr.Dataset):
    experiment = JacobianLensExperiment()
    assert len(experiment.figures(results)) >= 3
    tables = experiment.tables(results)
    assert set(tables) == {"readings", "lenses", "edits"}
    assert len(tables["readings"]) == 3 * 2 * 4
    said = experiment.findings(results)
    assert said[0].startswith("The Jacobian lens is from 6 texts of the model's own, a mean over 6 prompts")
    assert "from the model's own next-token distribution" in said[1]


def test_from_the_command_line_and_what_it_would_take(directory: Path, runner: Runner, saved: Path, tmp_path: Path):
    flags = ["--model", str(directory), "--device", "cpu", "--prompt", "the", "--lens", str(saved), "--skip", "2"]
    more = ["--fit-tokens", "10", "--held-out", "2", "--controls", "0"]
    assert main(["run", "jacobian-lens", *flags, *more, "--out", str(tmp_path / "run")]) == 0
    again = load_lens(tmp_path / "run" / "results.nc", runner)
    np.testing.assert_array_equal(again.matrix, load_dataset(saved)["jacobian"])
    assert plan_experiment(JacobianLensExperiment(**few({}), dimensions=0), runner).plan.flops > 0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"fit_prompts": 1}, r"fit_prompts must be at least 2, not 1\."),
        ({"held_out": 0}, r"held_out must be at least 1, not 0\."),
        ({"lens": Path("x.pt"), "published": True}, "lens and published are two ways to get a lens: give one of them"),
        ({"skip": 127}, "skip leaves out the first 127 positions and the last of fit_tokens 128: nothing is left"),
        ({"strength": float("inf")}, "strength must be finite, not inf"),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        JacobianLensExperiment(**parameters)


def test_stages_and_lenses_that_are_not_there(runner: Runner, tmp_path: Path):
    with pytest.raises(InputError, match="edit_stages must be from 0 to 3, layers that have passed, not 4"):
        JacobianLensExperiment(**few({}), edit_stages=(4,)).run(runner)
    with pytest.raises(InputError, match="There is no file"):
        JacobianLensExperiment(**few({}), lens=tmp_path / "none.pt").run(runner)
    with pytest.raises(ModelError, match="No Jacobian lens is published for"):
        JacobianLensExperiment(**few({}), published=True).run(runner)
    with pytest.raises(InputError, match="top must be at most 4096, the vocabulary, not 5000"):
        JacobianLensExperiment(**few({}), top=5000).run(runner)
