"""The first look at pairs: against the logits by hand, what is said of it, and which experiments begin with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.datasets.pairs.pair import Pair
from mechlist.experiments.attribution_patch.experiment import AttributionPatch
from mechlist.experiments.circuit.experiment import Circuit
from mechlist.experiments.direct_logit_attribution.experiment import DirectLogitAttribution
from mechlist.experiments.pair_look import BEGINNING, END, look_at, look_findings, look_lines, look_table
from mechlist.experiments.patch.experiment import Patch
from mechlist.experiments.path_patch.experiment import PathPatch
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner

TEXTS: dict[str, Any] = {
    "clean": "a short list of Fruits",
    "corrupt": "a long list of Fruits",
    "answer": ".",
    "wrong": "-",
}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def pairs_of(runner: Runner) -> list[Pair]:
    """A pair, and a longer one."""
    out = []
    for tail in ("", " and Rivers" * 20):
        answer, wrong = (runner.to_tokens(TEXTS[name], prepend_bos=False)[0] for name in ("answer", "wrong"))
        out.append(
            Pair(runner.to_tokens(TEXTS["clean"] + tail), runner.to_tokens(TEXTS["corrupt"] + tail), answer, wrong)
        )
    return out


@pytest.fixture(scope="module")
def seen(runner: Runner) -> xr.Dataset:
    return look_at(runner, pairs_of(runner))


def test_ranks_logits_and_probabilities_are_those_of_the_model(runner: Runner, seen: xr.Dataset):
    for n, pair in enumerate(pairs_of(runner)):
        for run in ("clean", "corrupt"):
            logits = runner.logits([torch.tensor(getattr(pair, run))], positions=[-1])[0, 0]
            for token in ("answer", "wrong"):
                own = seen.isel(prompt=n).sel(look_run=run, look_token=token)
                number = getattr(pair, token)
                assert float(own["look_logit"]) == pytest.approx(float(logits[number]), abs=1e-4)
                assert float(own["look_probability"]) == pytest.approx(float(logits.softmax(0)[number]), abs=1e-5)
                assert int(own["look_rank"]) == logits.argsort(descending=True).tolist().index(number) + 1


def test_what_is_said_of_several_pairs_and_of_one(seen: xr.Dataset, tmp_path: Path):
    save_dataset(seen, tmp_path / "seen.nc")
    saved = load_dataset(tmp_path / "seen.nc")
    lines = look_lines(saved)
    assert lines == look_lines(seen)
    assert lines[0] == "Pair 1 of 2"
    assert lines[1].split(maxsplit=1)[0] == "clean"
    assert "short" in lines[1]
    assert lines[2].split()[:3] == ["answer", "'.':", "rank"]
    (said,) = look_findings(saved)
    assert lines[-1] == said
    ahead = (seen["look_logit"].sel(look_token="answer") > seen["look_logit"].sel(look_token="wrong")).sum("prompt")
    assert f"ahead of the wrong one after {int(ahead[0])} of 2 clean prompts and after {int(ahead[1])} of 2" in said
    one = seen.isel(prompt=[0])
    (alone,) = look_findings(one)
    first = seen["look_probability"].values[0, 0, 0]
    assert alone.startswith(
        f"By itself the model gives '.' rank {int(seen['look_rank'][0, 0, 0])} ({first:.1%}) and '-'"
    )
    assert "Pair" not in "".join(look_lines(one))


def test_the_table_has_both_runs_of_every_pair(seen: xr.Dataset):
    table = look_table(seen)["look"]
    assert table["pair"].tolist() == [1, 1, 2, 2]
    assert table["run"].tolist() == ["clean", "corrupt"] * 2
    assert table["answer logit"].tolist() == seen["look_logit"].values[..., 0].ravel().tolist()
    assert table["wrong rank"].tolist() == seen["look_rank"].values[..., 1].ravel().tolist()
    assert table["answer"].tolist() == ["."] * 4
    assert len(table["prompt"][2]) == BEGINNING + 1 + END
    assert "…" in table["prompt"][2]


def test_results_of_before_say_nothing():
    old = xr.Dataset({"base": ("prompt", np.zeros(2))})
    assert look_table(old) == {}
    assert look_findings(old) == []


def test_it_is_said_at_the_start_of_a_run_where_progress_is(capsys: pytest.CaptureFixture[str]):
    loud = Runner.load("list-tiny", device="cpu")
    look_at(loud, pairs_of(loud))
    told = capsys.readouterr()
    assert told.out == ""
    assert "Pair 2 of 2" in told.err
    assert "By itself the model puts the answer ahead" in told.err


def test_a_model_without_tokenizer_shows_numbers(tiny_runner: Runner):
    seen = look_at(tiny_runner, [Pair([0, 5, 6, 5], [0, 5, 7, 5], 6, 7)])
    assert seen["look_prompt"].values.tolist() == [["0 5 6 5", "0 5 7 5"]]
    assert seen["look_text"].values.tolist() == [["6", "7"]]


QUICK: list[Any] = [
    Patch(**TEXTS, noise_repeats=0, site="mlp_out"),
    AttributionPatch(**TEXTS, noise_repeats=0, verify_top=0),
    PathPatch(**TEXTS, senders=("m0",)),
]


@pytest.mark.parametrize("experiment", QUICK, ids=lambda one: type(one).__name__)
def test_experiments_on_pairs_begin_with_it(runner: Runner, experiment: Any):
    results = experiment.run(runner)
    assert results["look_rank"].dims == ("prompt", "look_run", "look_token")
    assert "look" in experiment.tables(results)
    assert type(experiment).captions["look"].startswith("what the model itself makes")
    assert any(said.startswith("By itself the model gives") for said in experiment.findings(results))


def test_so_do_circuits_and_direct_attribution_of_pairs(runner: Runner, tiny_runner: Runner, tmp_path: Path):
    circuit = Circuit(examples=2, period=6, steps=1, random_circuits=0, verify_top=0)
    results = circuit.run(tiny_runner)
    assert "By itself the model puts the answer ahead" in circuit.findings(results)[1]
    assert len(circuit.tables(results)["look"]) == 4
    file = tmp_path / "pairs.jsonl"
    file.write_text(str(TEXTS).replace("'", '"') + "\n")
    direct = DirectLogitAttribution(pairs=file)
    results = direct.run(runner)
    assert results["look_rank"].dims == ("list", "look_run", "look_token")
    assert direct.findings(results)[-1].startswith("By itself the model gives")
    assert len(direct.tables(results)["look"]) == 2
