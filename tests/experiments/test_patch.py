"""The patch experiment on the built-in list model: its pairs, both directions, its files, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from transformers import AutoTokenizer

from mechlist import LogitDifference, patch_grid
from mechlist.cli.main import main
from mechlist.datasets.chat import list_tokens
from mechlist.errors import InputError
from mechlist.experiments.patch.experiment import Patch
from mechlist.models.quiet import quiet
from mechlist.results import load_dataset
from mechlist.runner import Runner
from tests.hooked import HookedTransformer, HookedTransformerConfig

PAIR: dict[str, Any] = {"clean": "-Oak\n-Elm", "corrupt": "-Oak\n-Ash", "answer": "\n", "wrong": "-"}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def test_a_finished_list_is_the_pair_without_another(runner: Runner):
    results = Patch().run(runner)
    assert results["patched"].dims == ("prompt", "layer", "position")
    tokens = results["token"].values[0].tolist()
    adjective = tokens.index("·long")
    assert tokens[-1] == "⏎"
    # The two prompts differ at the adjective alone, so the first layer's residual stream there is everything.
    np.testing.assert_allclose(results["recovered"].sel(layer=0, position=adjective), 1, atol=1e-4)
    others = results["recovered"].sel(layer=0).drop_sel(position=adjective)
    assert not others.values.any()
    assert float(results["source"][0]) > float(results["base"][0])
    way = f"Put in alone, it recovers at least half of the difference at '·long' (position {adjective}) up to layer 3 ("
    assert Patch().findings(results)[1].startswith(way)
    assert Patch().tables(results)["cells"]["token"].tolist()[0] == "·long"
    assert set(Patch().figures(results)) == {"positions"}


def test_roles_bring_lists_of_unequal_length_together(runner: Runner):
    topics = ("Fruits", "Colors")
    experiment = Patch(topics=topics, roles=True)
    results = experiment.run(runner)
    assert results["patched"].dims == ("prompt", "layer", "role")
    for i, topic in enumerate(topics):
        alone = Patch(topics=(topic,)).run(runner)
        adjective = alone["token"].values[0].tolist().index("·long")
        expected = alone["patched"].sel(position=adjective).squeeze("prompt")
        np.testing.assert_allclose(results["patched"][i].sel(role="adjective"), expected, atol=1e-4)
        last = int((alone["token"][0] != "").sum()) - 1
        found = results["patched"][i].sel(role="item 8 line break")
        np.testing.assert_allclose(found, alone["patched"].sel(position=last).squeeze("prompt"), atol=1e-4)
    assert set(experiment.figures(results)) == {"roles"}
    assert "half of the difference at role adjective up to layer 3 (" in experiment.findings(results)[1]
    both = Patch(topics=topics, roles=True, site="z", per="head_position")
    assert set(both.figures(both.run(runner))) == {"heads", "roles"}


@pytest.mark.parametrize("replacement", ["zero", "mean", "resample"])
def test_replacements_go_into_the_clean_run(runner: Runner, replacement: Any):
    experiment = Patch(topics=("Fruits", "Colors"), replacement=replacement, site="z", per="head", metric="probability")
    results = experiment.run(runner)
    assert ("source" in results) == (replacement == "resample"), "another prompt's run is a run"
    tokens = set(results["token"].values.ravel().tolist())
    assert "·short" in tokens
    assert "·long" not in tokens
    assert (results["base"] > 0.4).all(), "the short list ends"
    sentences = experiment.findings(results)
    assert sentences[0].startswith("The probability of the answer is")
    assert "changes it by" in sentences[1]
    assert "effect" in experiment.tables(results)["cells"]
    assert set(experiment.figures(results)) == {"heads"}


@pytest.mark.parametrize(
    ("metric", "unit"), [("log_prob", "nats"), ("kl", "nats"), ("entropy", "nats"), ("loss", "nats")]
)
def test_every_metric_runs(runner: Runner, metric: Any, unit: str):
    results = Patch(site="mlp_out", metric=metric).run(runner)
    assert results["patched"].attrs["units"] == unit
    assert np.isfinite(results["patched"]).all()
    if metric == "kl":
        assert (results["base"] == 0).all()
        assert (results["patched"] >= -1e-6).all()


def test_a_metric_that_both_runs_share_says_so(runner: Runner):
    with pytest.warns(UserWarning, match=r"recovered is NaN for the prompts \[0\]"):
        results = Patch(site="mlp_out", metric="rank").run(runner)
    assert results["patched"].attrs["units"] == "rank"
    assert results["recovered"].isnull().all()
    said = Patch().findings(results)
    assert not any("The largest effect" in sentence for sentence in said), "no cell has an effect to name"
    assert said[1] == "There is no interval and no test: one prompt says nothing about others."
    assert said[2].endswith("effects are the same bit for bit.")


def test_names_are_patched_by_role(shared: Path):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-tokenizer")
    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "n_ctx": 64, "act_fn": "gelu_new"}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(HookedTransformerConfig(**sizes, d_vocab=50257, device="cpu"), tokenizer=tokenizer)
    runner = Runner(model.eval(), progress=False)
    experiment = Patch(data="ioi", examples=6, roles=True)
    results = experiment.run(runner)
    assert results["role"].values.tolist() == ["io", "s1", "s1+1", "s2", "end"]
    # The prompts differ at the second subject alone.
    first = results["recovered"].sel(layer=0)
    np.testing.assert_allclose(first.sel(role="s2"), 1, atol=1e-3)
    assert not first.drop_sel(role="s2").values.any()
    again = Patch(data="ioi", examples=6).run(runner)
    assert again["token"].equals(results["token"])
    assert "•" in "".join(experiment.tables(again)["cells"]["token"])


def test_the_configuration_of_a_run_is_whole_and_repeats_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--site", "mlp_out", "--noise-repeats", "0", "--device", "cpu"]
    assert main(["run", "patch", *flags, "--out", str(tmp_path / "one")]) == 0
    parameters = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())["parameters"]
    assert (parameters["data"], parameters["topics"], parameters["examples"]) == ("list", ["Fruits"], None)
    assert main(["run", str(tmp_path / "one" / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    one, again = (load_dataset(tmp_path / name / "results.nc") for name in ("one", "again"))
    xr.testing.assert_identical(one, again)
    assert main(["run", "patch", *flags, "--examples", "8", "--out", str(tmp_path / "other")]) == 2
    assert "examples does nothing with data list: leave it out." in capsys.readouterr().err


def test_a_head_is_named_in_the_sentence(runner: Runner):
    places: dict[Any, str] = {"z": r"L\dH\d", "k": r"L\dH\d\.k"}
    for site, name in places.items():
        experiment = Patch(site=site, per="head", noise_repeats=0)
        assert re.match(
            rf"The largest effect is at {name}: it recovers", experiment.findings(experiment.run(runner))[1]
        )
    both = Patch(site="z", per="head_position", noise_repeats=0)
    assert re.match(r"The largest effect is at L\dH\d position \d+ \(", both.findings(both.run(runner))[1])


def test_noising_is_the_other_direction(runner: Runner):
    one, other = Patch().run(runner), Patch(noising=True).run(runner)
    np.testing.assert_allclose(one["base"], other["source"], atol=1e-5)
    np.testing.assert_allclose(one["source"], other["base"], atol=1e-5)
    assert "·short" in other["token"].values[0].tolist()


def test_own_pairs_are_patch_grid(runner: Runner, tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    longer = PAIR | {"clean": "-Oak\n-Elm\n-Fir", "corrupt": "-Oak\n-Ash\n-Fir"}
    file.write_text(json.dumps(PAIR) + "\n\n" + json.dumps(longer) + "\n")
    for per in ("head", "head_position"):
        experiment = Patch(pairs=file, site="z", per=per)
        results = experiment.run(runner)
        assert results.sizes["prompt"] == 2
        clean, corrupt = (torch.tensor([runner.to_tokens(PAIR[name])]) for name in ("clean", "corrupt"))
        marks = list_tokens(runner.tokenizer)
        metric = LogitDifference(answer=marks.line_break, wrong=marks.hyphen)
        alone = patch_grid(runner, base=corrupt, source=clean, site="z", per=per, metric=metric)
        first = results["patched"][0]
        if per == "head_position":
            assert first.isel(position=slice(clean.shape[1], None)).isnull().all()
            first = first.isel(position=slice(0, clean.shape[1]))
        np.testing.assert_allclose(first, alone["patched"][0], atol=1e-4)
        assert set(experiment.figures(results)) == ({"heads"} if per == "head" else {"heads", "positions"})
        assert len(experiment.tables(results)["cells"]) == 20


def test_one_pair_from_flags(runner: Runner):
    results = Patch(**PAIR, site="mlp_out").run(runner)
    assert results.sizes["prompt"] == 1
    assert results.attrs["site"] == "mlp_out"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean": "a"}, "clean, corrupt, answer and wrong must be given together"),
        ({**PAIR, "pairs": Path("x.jsonl")}, "and without pairs"),
        ({"top": 0}, "top must be at least 1"),
        ({"data": "ioi", "examples": 0}, "examples must be at least 1"),
        ({"topics": ()}, "topics must hold one topic at least"),
        ({**PAIR, "roles": True}, "roles are known for the built-in data only"),
        ({"replacement": "resample"}, "there must be another prompt"),
        (
            {"replacement": "zero", "noising": True},
            "noising does nothing with replacement zero, which goes into the clean",
        ),
        ({"replacement": "mean", "noising": True}, "noising does nothing with replacement mean"),
        ({"examples": 8}, "examples does nothing with data list: leave it out"),
        ({"data": "ioi", "topics": ("Fruits",)}, "topics does nothing with data ioi: leave it out"),
        ({**PAIR, "topics": ("Fruits",)}, "topics does nothing with pairs of one's own: leave it out"),
        ({"pairs": Path("x"), "examples": 2}, "examples does nothing with pairs of one's own"),
        ({"pairs": Path("x"), "data": "list"}, "data does nothing with pairs of one's own"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Patch(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"answer": "Oak Elm"}, r"answer must be one token; in pair 1 'Oak Elm' is 4: \['Oak', ' E', 'l', 'm'\]"),
        ({"corrupt": "-Oak\n-Ash\n"}, "must have the same number of tokens; in pair 1 they have"),
        ({"corrupt": PAIR["clean"]}, "clean and corrupt must differ; in pair 1"),
        ({"wrong": PAIR["answer"]}, "answer and wrong must be different tokens"),
    ],
)
def test_pairs_that_cannot_be_patched_are_refused(runner: Runner, changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Patch(**(PAIR | changes)).run(runner)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold one pair at least"),
        ("{", "line 1, is not JSON"),
        ('{"clean": "a"}', "line 1, must hold clean, corrupt, answer, wrong as text"),
    ],
)
def test_bad_files_are_refused(runner: Runner, tmp_path: Path, text: str, words: str):
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        Patch(pairs=file).run(runner)
    with pytest.raises(InputError, match="cannot be read"):
        Patch(pairs=tmp_path / "nowhere").run(runner)


def test_a_wrong_answer_that_the_model_prefers_is_warned_of(runner: Runner):
    best = runner.token_texts([int(runner.logits([runner.to_tokens(PAIR["clean"])])[0, -1].argmax())])[0]
    other = "-" if best != "-" else "\n"
    asked: dict[str, Any] = {**PAIR, "answer": other, "wrong": best}
    with pytest.warns(UserWarning, match="is continued with its wrong answer by the model itself; it predicts “"):
        Patch(**asked).found_pairs(runner)
