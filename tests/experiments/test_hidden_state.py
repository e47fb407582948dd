"""hidden-state: its numbers against SciPy's, planted components, and bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr

from mechlist.cli.main import main
from mechlist.engine.dry_run import plan_experiment
from mechlist.errors import InputError
from mechlist.experiments.hidden_state import experiment as module
from mechlist.experiments.hidden_state.experiment import HiddenState
from mechlist.results import load_dataset
from mechlist.runner import Runner
from mechlist.runner.raw import raw_runner
from tests.experiments.plain_for_tests import PROMPTS, load, own_logits, reading
from tests.models.tiny import edit_weights

PLANTED = 7


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma, with a softcap, whose final norm makes one component twenty times as large."""
    sizes: dict[str, Any] = {"head_dim": 16, "num_key_value_heads": 2, "num_hidden_layers": 2}
    folder = reading(tmp_path_factory.mktemp("models") / "gemma", "Gemma2Config", **sizes)
    gain = torch.zeros(32)
    gain[PLANTED] = 19.0
    edit_weights(folder, model__norm__weight=gain)
    return folder


@pytest.fixture(scope="module")
def runner(directory: Path) -> Runner:
    return load(directory)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return HiddenState(prompt=PROMPTS).run(runner)


def test_states_and_logits_are_the_models(runner: Runner, results: xr.Dataset):
    for number, text in enumerate(PROMPTS):
        own = own_logits(runner, text).log_softmax(-1).double()
        found = torch.from_numpy(results["logit"].values[number]).log_softmax(-1)
        np.testing.assert_allclose(found, own, atol=1e-4)
        entropy = float(-(own.exp() * own).sum())
        assert float(results["softmax_entropy"][number]) == pytest.approx(entropy, abs=1e-4)
    raw = raw_runner(runner)
    with torch.no_grad():
        _, cache = raw.model.run_with_cache(torch.tensor([raw.to_tokens(PROMPTS[0])]))
        state = raw.model.ln_final(cache["resid_post", -1])[0, -1]
    np.testing.assert_allclose(results["state"][0], state, atol=1e-4)


def test_what_sums_them_up_is_scipys(results: xr.Dataset):
    for quantity, name in (("hidden state", "state"), ("logits", "logit")):
        values = results[name].values[1].astype(float)
        summed = results["summary"].sel(quantity=quantity, prompt=1)
        found = {str(statistic): float(summed.sel(statistic=statistic)) for statistic in summed["statistic"].values}
        expected = {
            "least": values.min(),
            "largest": values.max(),
            "mean": values.mean(),
            "robust_sd": 1.482602218505602 * np.median(np.abs(values - np.median(values))),
            "kurtosis": scipy.stats.kurtosis(values),
        }
        assert set(expected) < set(found)
        for statistic, value in expected.items():
            assert found[statistic] == pytest.approx(float(value), rel=1e-5, abs=1e-6), statistic


def test_a_planted_component_is_beyond_noise_after_every_prompt(results: xr.Dataset):
    marked = results["beyond_noise"].sel(scale="robust", correction="bonferroni").values
    assert marked[:, PLANTED].sum() >= 2
    assert set(results["scale"].values) == {"plain", "robust"}
    assert (results["beyond"] == results["beyond_noise"].sum("component")).all()
    components = HiddenState().tables(results)["components"]
    assert components["component"].tolist()[0] == PLANTED


def test_figures_tables_and_findings(results: xr.Dataset):
    experiment = HiddenState(prompt=PROMPTS)
    figures: dict[str, Any] = experiment.figures(results)
    assert len(figures) >= 3
    assert len(experiment.tables(results)["summary"]) == 6
    said = experiment.findings(results)
    assert said[0].startswith("Over 3 prompts the hidden state has a median standard deviation of ")
    assert "Bonferroni: 3.163 standard deviations of 32 components" in said[1]
    assert "(empty prompt)" in experiment.tables(results)["summary"]["text"].tolist()


def test_from_the_command_line_and_what_it_would_take(directory: Path, runner: Runner, tmp_path: Path):
    flags = ["--model", str(directory), "--device", "cpu", "--prompt", "the"]
    assert main(["run", "hidden-state", *flags, "--out", str(tmp_path / "run")]) == 0
    saved = load_dataset(tmp_path / "run" / "results.nc")
    assert (saved.attrs["softcap"], saved.attrs["basis"]) == (30, "weights as Hugging Face has them")
    assert plan_experiment(HiddenState(prompt=PROMPTS), runner).plan.forward_tokens > 0


@pytest.mark.parametrize("alpha", [0, 1, -0.1])
def test_bad_parameters(alpha: float):
    with pytest.raises(InputError, match=f"alpha must be between 0 and 1, not {alpha}"):
        HiddenState(alpha=alpha)


def test_a_state_with_nan(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    raw = raw_runner(runner)
    with torch.no_grad():
        raw.model.embed.W_E[raw.to_tokens("the", prepend_bos=False)[0]] = torch.nan
    monkeypatch.setattr(module, "raw_runner", lambda _: raw)
    with pytest.raises(InputError, match="The final hidden state of prompt 1 holds NaN or infinity"):
        HiddenState(prompt=PROMPTS).run(runner)
