"""The entropy experiment: against entropies computed one position at a time, and its figures against its results."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.cli.main import main
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.experiments.entropy.experiment import Entropy
from mechlist.experiments.entropy.moments import QUANTITIES, last_items, means, surprisal_moments
from mechlist.results import load_dataset
from mechlist.runner import Runner

TOPICS = ("Fruits", "Colors", "Ocean")


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def experiment() -> Entropy:
    return Entropy(topics=TOPICS, lists=1, items=3)


@pytest.fixture(scope="module")
def results(runner: Runner, experiment: Entropy) -> xr.Dataset:
    return experiment.run(runner)


def test_moments_of_known_distributions():
    probs = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    moments = surprisal_moments(probs.log())
    h = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    varentropy = 0.9 * math.log(0.9) ** 2 + 0.1 * math.log(0.1) ** 2 - h**2
    assert torch.allclose(moments.entropy, torch.tensor([math.log(4), math.log(2), h, 0.0]))
    assert torch.allclose(moments.varentropy, torch.tensor([0.0, 0.0, varentropy, 0.0]), atol=1e-6)
    # The original study subtracts H where H^2 belongs.
    assert abs(varentropy - (varentropy + h**2 - h)) > 0.2


def test_against_one_position_at_a_time(runner: Runner, experiment: Entropy, results: xr.Dataset):
    data = experiment.data(runner)
    swapped = {"short": "long", "long": "short"}
    for i, row in enumerate(data.rows):
        prompt = data.prompts[i]
        for run in ("as written", "adjective swapped"):
            if run == "adjective swapped":
                if data.adjective[i] == "none":
                    assert results["entropy"].isel(list=i).sel(run=run).isnull().all()
                    continue
                other = list_prompt(runner.tokenizer, data.topic[i], swapped[data.adjective[i]])
                row = torch.tensor(other.with_completion(row[len(prompt.tokens) :].tolist()))
            log_probs = runner.logits([row])[0].double().log_softmax(-1)
            ids, item = row.tolist(), 0
            for p in range(prompt.hyphen, len(ids)):
                if ids[p] != data.special.line_break:
                    continue
                last = p - 2 if ids[p - 1] == data.special.blank else p - 1
                for place, at in (("line break", p), ("last item token", last)):
                    log_p = log_probs[at]
                    h = float(-(log_p.exp() * log_p).sum())
                    v = float((log_p.exp() * log_p**2).sum()) - h**2
                    found = results.isel(list=i, item=item).sel(run=run, place=place)
                    assert float(found["entropy"]) == pytest.approx(h, abs=1e-4)
                    assert float(found["varentropy"]) == pytest.approx(v, abs=1e-4)
                item += 1
            assert item == 3


def test_swapping_changes_the_numbers(results: xr.Dataset):
    both = results["entropy"].isel(list=results["adjective"].values != "none")
    assert both.notnull().all()
    assert float(abs(both.isel(run=0) - both.isel(run=1)).max()) > 0.1


def test_figures_show_the_swapped_lists_as_swapped(experiment: Entropy, results: xr.Dataset):
    figures: dict[str, Any] = experiment.figures(results)
    assert {"lists-short", "lists-long", "lists-none", "entropy-line-break-from-end"} <= set(figures)
    drawn = {trace.name: np.array(trace.z) for trace in figures["lists-short"].data}
    assert len(drawn) == 4
    short = results["entropy"].isel(list=results["adjective"].values == "short")
    for place in ("line break", "last item token"):
        for run in ("as written", "adjective swapped"):
            expected = short.sel(place=place, run=run).values
            np.testing.assert_allclose(drawn[f"{place}, {run}"], expected)
    assert len(figures["lists-none"].data) == 2


def test_findings_and_tables(experiment: Entropy, results: xr.Dataset):
    said = experiment.findings(results)
    assert len(said) == 8
    assert re.match(
        r"Entropy of 3 lists \(short lists\), at the last item: \d.* nats .*at the last item token and ", said[0]
    )
    # All lists are of three items, so that nothing has the number of a last item and goes on.
    assert said[1].endswith(
        "not known, as no list goes on from an item of the number and filler that a last item of another list has."
    )
    assert "entropy-matched" not in experiment.figures(results)
    tables = experiment.tables(results)
    assert len(tables["lists"]) == (3 * 2 + 3 * 2 + 3) * 2 * 3
    assert min(tables["curves"]["entropy_lists"].tolist()) > 0


def test_number_and_filler_alone_make_no_difference(experiment: Entropy, results: xr.Dataset):
    """Lists of 2 to 5 items, the last mostly with a filler; entropy is made of number and filler alone."""
    generator = np.random.default_rng(0)
    numbers = np.arange(60) % 4 + 2
    item = np.arange(5)
    filler = np.where(
        item < numbers[:, None], generator.random((60, 5)) < np.where(item == numbers[:, None] - 1, 0.8, 0.2), np.nan
    )
    made = np.where(np.isnan(filler), np.nan, 0.1 * item + 1.7 * np.nan_to_num(filler))
    values = np.broadcast_to(made[:, None, None], (60, 2, 2, 5)).copy()
    dims = ("list", "run", "place", "item")
    coords = {
        "topic": ("list", [f"topic {i % 6}" for i in range(60)]),
        "adjective": ("list", ["short"] * 60),
        "n_items": ("list", numbers),
        **{name: results[name].values for name in ("run", "place")},
        "item": item + 1,
    }
    variables = dict.fromkeys(QUANTITIES, (dims, values)) | {"filler": (("list", "item"), filler)}
    known = xr.Dataset(variables, coords)
    found = known.merge(means(known, generator)).merge(last_items(known, generator))
    apart = found[[f"entropy_matched_{name}" for name in ("mean", "low", "high")]].sel(kind="difference").to_array()
    np.testing.assert_allclose(apart, 0, atol=1e-12)
    # Where nothing is held, the last item stands out.
    assert float(found["entropy_last_mean"].isel(run=0, place=0, by_adjective=0)) > np.nanmean(made) + 0.5
    said = " ".join(experiment.findings(found))
    nothing = r"[+-]0\.00 nats(?: \[[+-]0\.00, [+-]0\.00\])?"
    counts = r"\(\d+ last items, \d+ others\)"
    assert re.search(rf"at the line break {nothing} with filler {counts} and {nothing} without filler {counts}", said)
    drawn: Any = experiment.figures(found)["entropy-matched"]
    assert [trace.name for trace in drawn.data] == ["short lists, with filler", "short lists, without filler"]
    assert len(experiment.tables(found)["matched"]) == 2 * 3 * 2


def test_from_the_command_line(tmp_path: Path):
    flags = ["--topics", "Fruits", "--lists", "1", "--items", "1", "--device", "cpu"]
    assert main(["run", "entropy", *flags, "--out", str(tmp_path / "run")]) == 0
    saved = load_dataset(tmp_path / "run" / "results.nc")
    assert saved["entropy_matched_mean"].isnull().all()
    assert saved["entropy_last_mean"].sel(run="as written").notnull().all()
    assert (tmp_path / "run" / "report.html").is_file()


def test_little_memory_changes_nothing(runner: Runner, results: xr.Dataset):
    small = Runner(runner.model, memory="2MiB", progress=False)
    again = Entropy(topics=TOPICS, lists=1, items=3).run(small)
    np.testing.assert_allclose(again["entropy"], results["entropy"], atol=1e-4)
    np.testing.assert_allclose(again["varentropy"], results["varentropy"], atol=1e-4)
