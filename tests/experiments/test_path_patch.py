"""The path-patch experiment: its results, its figures and sentences, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoTokenizer

from mechlist import LogitDifference
from mechlist.cli.main import main
from mechlist.datasets.chat import list_tokens
from mechlist.errors import InputError
from mechlist.experiments.effects import MEAN, estimated_prompts, saved
from mechlist.experiments.path_patch.experiment import PathPatch
from mechlist.models.quiet import quiet
from mechlist.patching.path import path_patch
from mechlist.results import load_dataset
from mechlist.runner import Runner
from mechlist.types import readable
from tests.hooked import HookedTransformer, HookedTransformerConfig

PAIR: dict[str, Any] = {"clean": "-Oak\n-Elm", "corrupt": "-Oak\n-Ash", "answer": "\n", "wrong": "-"}
SET = "a3.h0<q>, a4.h1<v>"
WORDS = "L3H0.q and L4H1.v"
"""As sentences name the set."""


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def lists(runner: Runner) -> xr.Dataset:
    return PathPatch(topics=("Fruits", "Colors", "Sports"), receivers=("logits", SET), frozen="heads").run(runner)


def test_results_are_those_of_path_patch(runner: Runner):
    for noising in (False, True):
        experiment = PathPatch(**PAIR, receivers=(SET, "m4"), senders=("input", "a1.h0", "m2"), noising=noising)
        results = experiment.run(runner)
        clean, corrupt = (torch.tensor([runner.to_tokens(PAIR[name])]) for name in ("clean", "corrupt"))
        marks = list_tokens(runner.tokenizer)
        alone = path_patch(
            runner,
            base=clean if noising else corrupt,
            source=corrupt if noising else clean,
            receivers={"both": ["a3.h0<q>", "a4.h1<v>"], "m4": ["m4"]},
            senders=["input", "a1.h0", "m2"],
            metric=LogitDifference(answer=marks.line_break, wrong=marks.hyphen),
        )
        for name in ("patched", "base", "source"):
            np.testing.assert_array_equal(results[name], alone[name])
        assert results["receiver"].values.tolist() == [SET, "m4"]
        assert "Elm" in "".join(results["token"].values[0]) if noising else "Ash" in "".join(results["token"].values[0])


def test_senders_are_ranked_with_intervals_and_tests(lists: xr.Dataset):
    experiment = PathPatch(top=5)
    assert lists["cluster"].values.tolist() == ["Fruits", "Colors", "Sports"]
    table = experiment.tables(lists)["senders"]
    assert len(table) == 5
    effects = (lists["patched"] - lists["base"]).mean("prompt")
    best = table.iloc[0]
    assert abs(best["effect"]) == pytest.approx(float(np.abs(effects).max()))
    receiver = {"logits": "logits", "L3H0.q, L4H1.v": SET}[best["receiver"]]
    sender = {readable(name): name for name in lists["sender"].values.tolist()}[best["sender"]]
    assert best["effect"] == pytest.approx(float(effects.sel(receiver=receiver, sender=sender)))
    gap = float((lists["source"] - lists["base"]).mean())
    assert best["share"] == pytest.approx(best["effect"] / gap)
    low, estimate, high = (table[name].to_numpy() for name in ("low", "effect", "high"))
    assert ((low <= estimate) & (estimate <= high)).all()
    assert table["n"].tolist() == [3] * 5
    assert table["p_corrected"].between(0, 1).all()


def test_sentences_name_the_strongest_senders_of_each_set(lists: xr.Dataset):
    sentences = PathPatch().findings(lists)
    assert sentences[0].startswith("The logit difference is")
    effects = (lists["patched"] - lists["base"]).mean("prompt")
    for sentence, receiver, words in zip(sentences[1:3], ("logits", SET), ("logits", WORDS), strict=True):
        assert sentence.startswith(f"Along all paths that avoid the heads between to {words}, what changes it most")
        of_set = effects.sel(receiver=receiver)
        strongest = str(of_set["sender"].values[np.nanargmax(np.abs(of_set.values))])
        assert f"is sent by {readable(strongest)} ({float(of_set.sel(sender=strongest)):+.3f})" in sentence
    assert "3 clusters give no p value below" in sentences[3]


def test_figures_show_heads_and_all_others(lists: xr.Dataset):
    figures: dict[str, Any] = PathPatch().figures(lists)
    assert set(figures) == {"heads_1", "heads_2", "others"}
    effects = (lists["patched"] - lists["base"]).mean("prompt")
    drawn = np.array(figures["heads_2"].data[0].z, dtype=float)
    assert drawn.shape == (6, 8)
    assert drawn[2, 5] == pytest.approx(float(effects.sel(receiver=SET, sender="a2.h5")))
    # The last receiver is in layer 4, so that heads from there on reach nothing.
    assert np.isnan(drawn[4:]).all()
    assert np.isfinite(drawn[:4]).all()
    bars = figures["others"].data[0]
    assert figures["others"].layout.xaxis.ticktext == ("input", *(f"m{layer}" for layer in range(6)))
    assert bars.y[1] == pytest.approx(float(effects.sel(receiver="logits", sender="m0")))
    assert bars.error_y.array is not None


def test_few_senders_are_drawn_as_far_as_they_go(runner: Runner):
    alone = PathPatch(**PAIR, senders=("a2.h1",))
    figures: dict[str, Any] = alone.figures(alone.run(runner))
    assert set(figures) == {"heads"}
    assert np.isfinite(figures["heads"].data[0].z.astype(float)).sum() == 1
    mlps = PathPatch(**PAIR, senders=("m1", "input"))
    assert set(mlps.figures(mlps.run(runner))) == {"others"}


def test_one_prompt_has_no_interval(runner: Runner):
    experiment = PathPatch(**PAIR)
    results = experiment.run(runner)
    assert experiment.findings(results)[-2].startswith("There is no interval and no test: one prompt")
    assert "low" not in experiment.tables(results)["senders"]
    assert set(experiment.figures(results)) == {"heads", "others"}


@pytest.mark.parametrize(("metric", "unit"), [("log_prob", "nats"), ("probability", "probability"), ("kl", "nats")])
def test_every_metric_runs(runner: Runner, metric: Any, unit: str):
    results = PathPatch(**PAIR, metric=metric).run(runner)
    assert results["patched"].attrs["units"] == unit
    assert np.isfinite(results["patched"]).all()


def test_pairs_from_a_file_and_names(runner: Runner, shared: Path, tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    longer = PAIR | {"clean": "-Oak\n-Elm\n-Fir", "corrupt": "-Oak\n-Ash\n-Fir"}
    file.write_text(json.dumps(PAIR) + "\n" + json.dumps(longer) + "\n")
    results = PathPatch(pairs=file, receivers=("m3",)).run(runner)
    alone = PathPatch(**PAIR, receivers=("m3",)).run(runner)
    np.testing.assert_allclose(results["patched"][0], alone["patched"][0], atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-tokenizer")
    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "n_ctx": 64, "act_fn": "gelu_new"}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(HookedTransformerConfig(**sizes, d_vocab=50257, device="cpu"), tokenizer=tokenizer)
    experiment = PathPatch(data="ioi", examples=6, receivers=("a1.h0<q>",))
    named = experiment.run(Runner(model.eval(), progress=False))
    assert named.sizes["prompt"] == 6
    assert all(name.startswith("template") for name in named["cluster"].values.tolist())


def test_nothing_to_say_where_nothing_changes(lists: xr.Dataset):
    still = lists.assign(patched=(lists["patched"] * 0 + lists["base"]).transpose(*lists["patched"].dims))
    still = still.assign(saved(estimated_prompts(still, still["patched"] - still["base"]), MEAN, "logits").data_vars)
    assert f"Nothing that is sent to {WORDS} changes it." in PathPatch().findings(still)
    assert set(PathPatch().figures(still)) == {"heads_1", "heads_2", "others"}


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--receivers", "a2.h0<q>,a2.h1<q>", "--topics", "Fruits", "Colors", "--device", "cpu"]
    assert main(["run", "path-patch", *flags, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("report.html")
    results = load_dataset(tmp_path / "run" / "results.nc")
    assert {"patched", "base", "source", "cluster"} <= set(results)
    assert results["patched"].dims == ("prompt", "receiver", "sender")
    assert (tmp_path / "run" / "figures" / "heads.html").is_file()
    for receiver in ("a2.h0", "L2H0"):
        flags = ["--receivers", receiver, "--device", "cpu", "--out", str(tmp_path / "other")]
        assert main(["run", "path-patch", *flags]) == 2
        said = capsys.readouterr().err
        assert f"The model has no receiver '{receiver}'; receivers are L0H0.q to L5H7.q, L0H0.k to L5H3.k, " in said
        assert "m0 to m5 and logits. Did you mean L2H0." in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean": "a"}, "clean, corrupt, answer and wrong must be given together"),
        ({**PAIR, "pairs": Path("x.jsonl")}, "and without pairs"),
        ({"top": 0}, "top must be at least 1"),
        ({"data": "ioi", "examples": 0}, "examples must be at least 1"),
        ({"examples": 4}, "examples does nothing with data list"),
        ({"receivers": ("L3H0.q", "a3.h0<q>")}, "receivers must hold each set once, not L3H0.q, a3.h0<q>"),
        ({"topics": ()}, "topics must hold one topic at least"),
        ({"receivers": ()}, "receivers must hold one receiver at least"),
        ({"receivers": ("m1", "m1")}, "receivers must hold each set once"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        PathPatch(**changes)


def test_heads_are_typed_in_any_notation_and_saved_in_one(runner: Runner):
    one = PathPatch(**PAIR, receivers=(SET,), senders=("a1.h0", "m2")).run(runner)
    other = PathPatch(**PAIR, receivers=("3.0.q, L4H1.v",), senders=("L1H0", "m2")).run(runner)
    xr.testing.assert_identical(one, other)
    assert one["receiver"].values.tolist() == [SET]


def test_an_empty_name_in_a_set_is_refused(runner: Runner):
    with pytest.raises(InputError, match="The model has no receiver ''"):
        PathPatch(**PAIR, receivers=("a2.h0<q>,",)).run(runner)
