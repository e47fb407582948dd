"""components-needed: the whole curve against the model, crossings by hand, bases, words, and bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.cli.main import main
from mechlist.engine.dry_run import plan_experiment
from mechlist.errors import InputError, MechlistError
from mechlist.experiments.components_needed import experiment as module
from mechlist.experiments.components_needed.experiment import ComponentsNeeded
from mechlist.experiments.jacobian_lens.experiment import JacobianLensExperiment
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner
from mechlist.runner.raw import raw_runner
from mechlist.sae.load import load_sae, places
from mechlist.weights.components import cumulative_curves
from tests.experiments.plain_for_tests import PROMPTS, changed, load, own_logits, reading
from tests.sae.saes_for_tests import write_lens

LLAMA, GEMMA, PHI = "LlamaConfig", "Gemma2Config", "PhiConfig"
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "head_dim": 16, "num_key_value_heads": 2, "sliding_window": 8}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untied without anything; tied with a softcap; with a bias of its logits."""
    root = tmp_path_factory.mktemp("models")
    settings: dict[str, dict[str, Any]] = {LLAMA: {}, GEMMA: SIZES, PHI: {"num_hidden_layers": 2}}
    return {kind: reading(root / kind, kind, **values) for kind, values in settings.items()}


@pytest.fixture(scope="module")
def runner(directories: dict[str, Path]) -> Runner:
    return load(directories[LLAMA])


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return ComponentsNeeded(prompt=PROMPTS).run(runner)


@pytest.mark.parametrize("kind", [LLAMA, GEMMA, PHI])
def test_the_last_point_of_every_curve_is_the_models_own_probability(directories: dict[str, Path], kind: str):
    runner = load(directories[kind])
    results = ComponentsNeeded(prompt=PROMPTS, answer=("-",)).run(runner)
    dash = runner.to_tokens("-", prepend_bos=False)[0]
    own = [float(own_logits(runner, text).softmax(-1)[dash]) for text in PROMPTS]
    assert results["probability"].dims == results["probability_norm_restored"].dims == ("prompt", "basis", "kept")
    assert results["kept"].values.tolist() == list(range(1, 33))
    for name in ("probability", "probability_norm_restored"):
        whole = results[name].isel(kept=-1)
        np.testing.assert_allclose(whole, np.broadcast_to(np.array(own)[:, None], whole.shape), rtol=1e-4)
    np.testing.assert_allclose(results["own_probability"], own, rtol=1e-4)
    assert results["answer"].values.tolist() == [dash] * 3


def test_the_answer_is_the_models_top_token_unless_given(runner: Runner, results: xr.Dataset):
    tops = [int(own_logits(runner, text).argmax()) for text in PROMPTS]
    assert results["answer"].values.tolist() == tops
    assert [json.loads(text) for text in results["answer_text"].values.tolist()] == runner.token_texts(tops)
    given = ComponentsNeeded(prompt=PROMPTS[:2], answer=("-", "the")).run(runner)
    assert given["answer"].values.tolist() == [runner.to_tokens(t, prepend_bos=False)[0] for t in ("-", "the")]


def test_a_point_in_the_middle_is_the_state_with_the_rest_set_to_zero(runner: Runner, results: xr.Dataset):
    row = torch.tensor([runner.to_tokens(PROMPTS[0])])
    raw = raw_runner(runner)
    with torch.no_grad():
        _, cache = raw.model.run_with_cache(row)
        state = raw.model.ln_final(cache["resid_post", -1])[0, -1]
        kept = torch.zeros_like(state)
        largest = state.abs().argsort(descending=True)[:10]
        kept[largest] = state[largest]
        for name, scale in (("", 1.0), ("_norm_restored", float(state.norm() / kept.norm()))):
            logits = scale * kept @ raw.model.W_U + raw.model.b_U
            expected = float(logits.softmax(-1)[results["answer"].values[0]])
            found = float(results[f"probability{name}"].sel(prompt=0, basis="neurons", kept=10))
            assert found == pytest.approx(expected, rel=1e-4)


def test_crossings_are_those_of_the_curves(results: xr.Dataset):
    for way in ("", "_norm_restored"):
        for basis in results["basis"].values.tolist():
            for prompt in range(3):
                curve = results[f"probability{way}"].sel(prompt=prompt, basis=basis).values
                reached = curve >= 0.9 * curve[-1]
                first = next(k for k in range(1, 33) if reached[k - 1])
                last = next(k for k in range(1, 33) if reached[k - 1 :].all())
                at = results.sel(prompt=prompt, basis=basis)
                assert (int(at[f"first_crossing{way}"]), int(at[f"last_crossing{way}"])) == (first, last)
    expected = (results["last_crossing"] / 32).mean("prompt")
    np.testing.assert_allclose(results["needed"].sel(crossing="last_crossing"), expected)
    assert (results["needed_low"] <= results["needed"]).all()
    assert (results["needed"] <= results["needed_high"]).all()
    difference = results["difference"].sel(crossing="last_crossing")
    np.testing.assert_allclose(difference, expected - expected.sel(basis="random rotation"), atol=1e-12)


def test_the_same_seed_gives_the_same_bits_and_another_another_rotation(runner: Runner, results: xr.Dataset):
    xr.testing.assert_identical(ComponentsNeeded(prompt=PROMPTS).run(runner), results)
    other = ComponentsNeeded(prompt=PROMPTS).run(load(Path(runner.language_model.info["directory"]), seed=1))
    same = results["probability"] == other["probability"]
    assert same.sel(basis="neurons").all()
    assert not same.sel(basis="random rotation").isel(kept=slice(0, -1)).any("prompt").all()


def test_a_basis_of_lens_directions(runner: Runner, tmp_path: Path):
    few: dict[str, Any] = {"fit_prompts": 4, "fit_tokens": 12, "skip": 2, "held_out": 2, "dimensions": 0, "controls": 0}
    lens = JacobianLensExperiment(prompt=PROMPTS[:2], **few).run(runner)
    save_dataset(lens, tmp_path / "results.nc")
    found = ComponentsNeeded(prompt=PROMPTS, lens=tmp_path / "results.nc").run(runner)
    name = "J-lens directions, stage 1"
    assert found["basis"].values.tolist()[-1] == name
    np.testing.assert_allclose(found["probability"].sel(basis=name).isel(kept=-1), found["own_probability"], rtol=1e-4)
    with pytest.raises(InputError, match=r"lens_stage must be one of the lens's stages \[0, 1, 2\], not 3"):
        ComponentsNeeded(prompt=PROMPTS, lens=tmp_path / "results.nc", lens_stage=3).run(runner)


@pytest.mark.parametrize("kind", [LLAMA, PHI])
def test_features_of_an_sae_are_kept_in_the_stream_before_a_frozen_norm(
    directories: dict[str, Path], kind: str, tmp_path: Path
):
    runner = load(directories[kind])
    hook = f"blocks.{runner.shape.n_layers - 1}.hook_resid_post"
    sae = str(write_lens(tmp_path / "sae", 32, 96, hook, kind="topk", k=8))
    results = ComponentsNeeded(prompt=PROMPTS, sae=sae).run(runner)
    name = f"SAE features, {sae}"
    assert results["basis"].values.tolist()[-1] == name
    assert results["kept"].values[-1] == 32
    assert int(results["directions"].sel(basis=name)) == 96
    model = raw_runner(runner).model
    loaded = load_sae(places([sae])[0])
    for prompt, text in enumerate(PROMPTS[:2]):
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([runner.to_tokens(text)]))
        x, answer = cache[hook][0, -1], int(results["answer"][prompt])
        centre = kind == PHI
        feature = loaded.encode(x)
        seen = (loaded.decoder - centre * loaded.decoder.mean(1, keepdim=True)) * model.ln_final.w
        largest = (feature.abs() * seen.norm(dim=1)).argsort(descending=True)
        for kept in (0, 1, 5, 8):
            left = feature.clone()
            left[largest[:kept]] = 0
            stream = x - left @ loaded.decoder
            stream = (stream - centre * stream.mean()) / cache["ln_final.hook_scale"][0, -1]
            logits = (stream * model.ln_final.w + (model.ln_final.b if centre else 0)) @ model.W_U + model.b_U
            found = results["none_kept"] if kept == 0 else results["probability"].sel(kept=kept)
            assert float(found.sel(prompt=prompt, basis=name)) == pytest.approx(
                float(logits.detach().softmax(-1)[answer]), 1e-4
            )
    expected = (results["last_crossing"].sel(basis=name) / 32).mean()
    np.testing.assert_allclose(results["needed"].sel(crossing="last_crossing", basis=name), expected)
    assert "leave out the SAE's error and bias" in ComponentsNeeded(prompt=PROMPTS, sae=sae).findings(results)[-1]
    other = str(write_lens(tmp_path / "other", 32, 96, "blocks.0.hook_resid_post", kind="topk", k=8))
    with pytest.raises(InputError, match=r"sae must be one of the residual stream after the last layer.*resid_post;"):
        ComponentsNeeded(prompt=PROMPTS, sae=other).run(runner)


def test_figures_tables_and_findings(results: xr.Dataset):
    experiment = ComponentsNeeded(prompt=PROMPTS)
    figures: dict[str, Any] = experiment.figures(results)
    assert set(figures) == {"curves", "median-curves", "needed"}
    drawn = {trace.name: trace for trace in figures["curves"].data}
    np.testing.assert_allclose(drawn["neurons"].y[-1], results["own_probability"][0], rtol=1e-4)
    assert len(figures["needed"].data[0].x) == 12
    tables = experiment.tables(results)
    assert len(tables["bases"]) == 12
    assert tables["prompts"]["text"].tolist()[-1] == "(empty prompt)"
    said = experiment.findings(results)
    assert said[0].startswith("Over 3 prompts, the answer keeps 90% of its probability from the following share")
    assert "of the components" in said[1]


def test_from_the_command_line_and_what_it_would_take(directories: dict[str, Path], tmp_path: Path, runner: Runner):
    flags = ["--model", str(directories[GEMMA]), "--device", "cpu", "--prompt", "the", "a list", "--answer", "-"]
    assert main(["run", "components-needed", *flags, "--out", str(tmp_path / "run")]) == 0
    saved = load_dataset(tmp_path / "run" / "results.nc")
    assert saved["probability"].sizes == {"prompt": 2, "basis": 3, "kept": 32}
    assert saved.attrs["basis"] == "weights as Hugging Face has them"
    assert plan_experiment(ComponentsNeeded(prompt=PROMPTS), runner).plan.forward_tokens > 0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"share": 0}, r"share must be above 0 and at most 1, not 0\."),
        ({"lens_stage": 1}, "lens_stage says which stage of a lens is taken: give --lens as well"),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        ComponentsNeeded(**parameters)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (("Bananas and",), r"answer must be one token; 'Bananas and' is \d: \["),
        (("",), "answer must be one token; '' is 0"),
        (("-", "-"), "answer must be one for all, or one for each of 3 prompts, not 2"),
    ],
)
def test_answers_that_are_none(runner: Runner, answer: tuple[str, ...], words: str):
    with pytest.raises(InputError, match=words):
        ComponentsNeeded(prompt=PROMPTS, answer=answer).run(runner)


def test_an_answer_outside_the_vocabulary(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    """As of a model whose unembedding has fewer tokens than its tokenizer."""
    shape = runner.shape
    monkeypatch.setattr(runner.language_model, "shape", type(shape)(**{**vars(shape), "d_vocab_out": 10}))
    raw = raw_runner(runner)
    monkeypatch.setattr(module, "raw_runner", lambda _: raw)
    monkeypatch.setattr(raw.language_model, "shape", type(shape)(**{**vars(shape), "d_vocab_out": 10}))
    with pytest.raises(InputError, match=r"from id:0 to id:9, those .*, not 'the', which is id:"):
        ComponentsNeeded(prompt=PROMPTS, answer=("the",)).run(runner)


def test_an_empty_prompt_without_bos_and_a_prompt_that_is_too_long(directories: dict[str, Path], runner: Runner):
    with pytest.raises(InputError, match="The empty prompt is the BOS token alone, and this model has none"):
        ComponentsNeeded(prompt=("",)).run(load(directories[LLAMA], bos=False))
    with pytest.raises(
        InputError, match=r"prompt must have from 1 to 64 tokens, the model's context; 'the the.*has 10"
    ):
        ComponentsNeeded(prompt=("the " * 100,)).run(runner)


def test_a_state_with_nan(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    runner = load(directories[LLAMA])
    raw = raw_runner(runner)
    with torch.no_grad():
        raw.model.embed.W_E[raw.to_tokens("the", prepend_bos=False)[0]] = torch.nan
    monkeypatch.setattr(module, "raw_runner", lambda _: raw)
    with pytest.raises(InputError, match="The final hidden state of prompt 1 holds NaN or infinity"):
        ComponentsNeeded(prompt=PROMPTS).run(runner)


def test_curves_that_miss_the_model_are_not_given(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    """The check of the whole curve, when cumulative sums go wrong."""

    def wrong(*arguments: Any, **options: Any) -> Any:
        found = cumulative_curves(*arguments, **options)
        return found._replace(probability=0.9 * found.probability)

    monkeypatch.setattr(module, "cumulative_curves", wrong)
    with pytest.raises(MechlistError, match=r"With all components kept, prompt \d has a probability of"):
        ComponentsNeeded(prompt=PROMPTS).run(runner)


def test_unused_and_equal_tokens_rank_alike(directories: dict[str, Path], tmp_path: Path):
    """A token with exactly the answer's column does not outrank it, and takes half of its probability."""
    whole = load(directories[LLAMA])
    top = int(own_logits(whole, "the").argmax())
    raw = raw_runner(whole)
    twin = load(changed(directories[LLAMA], tmp_path / "twin", t7=raw.model.W_U[:, top].clone()))
    found = ComponentsNeeded(prompt=("the",)).run(twin)
    assert int(found["rank"].isel(prompt=0, basis=0, kept=-1)) == 0
    assert float(found["own_probability"][0]) < 0.51
