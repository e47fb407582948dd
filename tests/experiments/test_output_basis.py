"""output-basis: entropies of Hugging Face's own rows, planted outliers, kinds of tokens, and bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

from mechlist.cli.main import main
from mechlist.engine.dry_run import plan_experiment
from mechlist.errors import InputError
from mechlist.experiments.output_basis import experiment as module
from mechlist.experiments.output_basis.basis import KINDS, kind_shares, token_kind
from mechlist.experiments.output_basis.experiment import OutputBasis
from mechlist.figures import plot_text
from mechlist.results import load_dataset
from mechlist.runner import Runner
from mechlist.runner.raw import raw_runner
from mechlist.study import read_study, read_yaml
from mechlist.text import visible
from tests.experiments.plain_for_tests import PROMPTS, VOCAB, changed, load, own_logits, reading
from tests.models.tiny import edit_weights

PLANTED = 5
SMALL: dict[str, Any] = {"prompt": PROMPTS[:2], "random": 16, "top": 4}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in which one dimension writes ten times as much as any other, and gains of the norm differ."""
    folder = reading(tmp_path_factory.mktemp("models") / "llama", "LlamaConfig")
    weight = load_file(folder / "model.safetensors")["lm_head.weight"]
    weight[:, PLANTED] *= 10
    edit_weights(folder, lm_head__weight=weight)
    return folder


@pytest.fixture(scope="module")
def runner(directory: Path) -> Runner:
    return load(directory)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return OutputBasis(**SMALL).run(runner)


def entropy(rows: torch.Tensor) -> np.ndarray:
    log_probs = rows.double().log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1).numpy()


def test_entropies_are_of_the_rows_that_hugging_face_has(directory: Path, runner: Runner, results: xr.Dataset):
    weights = load_file(directory / "model.safetensors")
    rows, gain = weights["lm_head.weight"].mT, weights["model.norm.weight"]
    assert (gain != 1).any()
    np.testing.assert_allclose(results["entropy"], entropy(rows), atol=1e-9)
    np.testing.assert_allclose(results["gain"], gain, rtol=1e-5)
    folded = OutputBasis(**SMALL, fold_gain=True).run(runner)
    np.testing.assert_allclose(folded["entropy"], entropy(rows * gain[:, None]), atol=1e-7)
    assert "with the final norm's gain taken in" in OutputBasis().findings(folded)[0]
    # What a dimension writes on a prompt does not depend on where the gain is.
    np.testing.assert_allclose(folded["entropy_prompt"], results["entropy_prompt"], atol=1e-5)


def test_the_value_on_a_prompt_is_that_of_the_whole_state(directory: Path, runner: Runner, results: xr.Dataset):
    state = torch.from_numpy(results["prompt_value"].values)
    rows = load_file(directory / "model.safetensors")["lm_head.weight"].mT
    torch.testing.assert_close(
        (state @ rows).log_softmax(-1), own_logits(runner, PROMPTS[0]).log_softmax(-1), atol=1e-4, rtol=0
    )
    np.testing.assert_allclose(results["entropy_prompt"], entropy(rows * state[:, None]), atol=1e-7)
    sizes = torch.from_numpy(results["typical_size"].values)
    np.testing.assert_allclose(results["entropy_typical"], entropy(rows * sizes[:, None]), atol=1e-7)


def test_a_planted_dimension_is_an_outlier_by_all_three_methods(results: xr.Dataset):
    assert results["outlier"].dims == ("method", "dimension")
    found = [np.flatnonzero(row).tolist() for row in results["outlier"].values]
    assert found == [[PLANTED]] * 3
    assert OutputBasis().tables(results)["outliers"]["dimension"].tolist() == [PLANTED]
    said = OutputBasis().findings(results)
    assert any(sentence.startswith(f"Dimension {PLANTED} writes up ") for sentence in said)


def test_tokens_are_the_ends_of_each_row(directory: Path, runner: Runner, results: xr.Dataset):
    row = load_file(directory / "model.safetensors")["lm_head.weight"][:, 3]
    up = row.argsort(descending=True)[:4].tolist()
    assert results["up_token"].values[3].tolist() == up
    assert [json.loads(text) for text in results["up_text"].values[3].tolist()] == runner.token_texts(up)
    assert results["down_token"].values[3].tolist() == row.argsort()[:4].tolist()
    np.testing.assert_allclose(results["up_weight"].values[3], row[up])


def test_kinds_of_tokens():
    texts = [" the", "Über", "\n", "12", "a1", "\ufffd", "中"]
    assert [KINDS.index(token_kind(text)) for text in texts] == [0, 1, 2, 2, 0, 3, 1]
    rows = [["a", "b", "1", "2"], ["é", "b", "c", "d"], ["x", "y", "z", "w"]]
    shares = kind_shares(rows, np.array([True, False, False]), np.random.default_rng(0))
    np.testing.assert_allclose(shares["kind_share"], [[0.5, 0, 0.5, 0], [0.875, 0.125, 0, 0]])
    none = kind_shares(rows, np.zeros(3, dtype=bool), np.random.default_rng(0))
    assert none["kind_share"].sel(group="outliers").isnull().all()


def test_figures_open_the_tokens_of_each_point(runner: Runner, results: xr.Dataset):
    figures: dict[str, Any] = OutputBasis().figures(results)
    assert len(figures) >= 4
    traces = [trace for figure in figures.values() for trace in figure.data if trace.customdata is not None]
    opened = [str(box) for trace in traces for box in trace.customdata]
    box = next(box for box in opened if f"dimension {PLANTED}</b>" in box)
    texts = [visible(text) for text in runner.token_texts(results["up_token"].values[PLANTED].tolist())]
    assert f"up: {', '.join(plot_text(text) for text in texts)}<br>" in box
    without = results.assign(outlier=results["outlier"] & False)
    assert set(OutputBasis().figures(without)) == set(figures)


def test_what_must_be_known_is_said(directory: Path, tmp_path: Path):
    """Unused columns, equal ones, an output bias, a softcap, and tied embeddings: told, not assumed."""
    padded = reading(tmp_path / "padded", "LlamaConfig", vocab_size=VOCAB + 4)
    twins = changed(padded, tmp_path / "twins", t7=0.0, t9=0.0, t4097=0.0)
    said = OutputBasis().findings(OutputBasis(**SMALL).run(load(twins)))
    assert "2 tokens have exactly the column of another token and 4 columns have no token in the tokenizer" in said[-1]
    assert "The embedding is a different matrix." in said[0]
    phi = OutputBasis(**SMALL).run(load(reading(tmp_path / "phi", "PhiConfig", num_hidden_layers=1)))
    assert "the model adds a bias to its logits, which is left out here" in OutputBasis().findings(phi)[-1]
    sizes: dict[str, Any] = {"head_dim": 16, "num_key_value_heads": 2, "num_hidden_layers": 1}
    gemma = OutputBasis(**SMALL).run(load(reading(tmp_path / "gemma", "Gemma2Config", **sizes)))
    said = OutputBasis().findings(gemma)
    assert "The embedding is the same matrix times 5.656" in said[0]
    assert "it softcaps its logits at 30, which is left out here" in said[-1]


def test_a_token_that_the_tokenizer_lacks_has_a_name(directory: Path, tmp_path: Path):
    padded = reading(tmp_path / "padded", "LlamaConfig", vocab_size=VOCAB + 4)
    loud = load(changed(padded, tmp_path / "loud", t4098=9.0))
    results = OutputBasis(**SMALL).run(loud)
    assert (results["up_token"].values[:, 0] == 4098).all()
    assert OutputBasis().tables(results)["dimensions"]["up"].str.len().min() > 0


def test_from_the_command_line_and_what_it_would_take(directory: Path, runner: Runner, tmp_path: Path):
    flags = ["--model", str(directory), "--device", "cpu", "--prompt", "the", "--outlier-z", "3", "--top", "2"]
    assert main(["run", "output-basis", *flags, "--out", str(tmp_path / "run")]) == 0
    saved = load_dataset(tmp_path / "run" / "results.nc")
    assert saved["entropy"].dims == saved["kurtosis"].dims == ("dimension",)
    assert saved.attrs["basis"] == "weights as Hugging Face has them"
    assert plan_experiment(OutputBasis(**SMALL), runner).plan.forward_tokens > 0


def test_a_model_without_tokenizer(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(directory, tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*token*"):
        file.unlink()
    flags = ["--model", str(tmp_path / "bare"), "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["run", "output-basis", *flags]) == 2
    assert "tokenizer" in capsys.readouterr().err


def test_a_state_with_nan(runner: Runner, directory: Path, monkeypatch: pytest.MonkeyPatch):
    raw = raw_runner(load(directory))
    with torch.no_grad():
        raw.model.embed.W_E[raw.to_tokens("the", prepend_bos=False)[0]] = torch.nan
    monkeypatch.setattr(module, "raw_runner", lambda _: raw)
    with pytest.raises(InputError, match="The final hidden state of prompt 1 holds NaN or infinity"):
        OutputBasis(**SMALL).run(runner)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"top": 0}, r"top must be at least 1, not 0\."),
        ({"random": 0}, r"random must be at least 1, not 0\."),
        ({"outlier_z": 0}, r"outlier_z must be above 0, not 0\."),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        OutputBasis(**parameters)


def test_more_tokens_than_there_are(runner: Runner):
    with pytest.raises(InputError, match="top must be at most 4096, the vocabulary, not 5000"):
        OutputBasis(top=5000).run(runner)


def test_the_study_is_one_of_experiments_with_parameters_that_they_have():
    file = Path("experiments/output_basis/study.yaml")
    steps = {step.name: type(step.job.experiment) for step in read_study(file, read_yaml(file)).steps}
    assert steps["basis"] is steps["basis-with-gain"] is OutputBasis
    assert len(steps) == 9
