"""The entropy experiment: against entropies computed one position at a time, and its figures against its results."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from mechlist.cli.main import main
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.experiments.entropy.experiment import Entropy
from mechlist.experiments.entropy.moments import surprisal_moments
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
    # The original study subtracts H where H^2 belongs (SOURCES.md S1).
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
    assert len(said) == 5
    assert said[0].startswith("Entropy of 3 lists (short lists): at the last item token it is ")
    tables = experiment.tables(results)
    assert len(tables["lists"]) == (3 * 2 + 3 * 2 + 3) * 2 * 3
    assert min(tables["curves"]["entropy_lists"].tolist()) > 0


def test_from_the_command_line(tmp_path: Path):
    flags = ["--topics", "Fruits", "--lists", "1", "--items", "1", "--device", "cpu"]
    assert main(["run", "entropy", *flags, "--out", str(tmp_path / "run")]) == 0
    saved = load_dataset(tmp_path / "run" / "results.nc")
    # One item: nothing stands before the last one.
    assert saved["entropy_part_mean"].sel(part="earlier items").isnull().all()
    assert saved["entropy_part_mean"].sel(part="last item", run="as written").notnull().all()
    assert (tmp_path / "run" / "report.html").is_file()


def test_little_memory_changes_nothing(runner: Runner, results: xr.Dataset):
    small = Runner(runner.model, memory="2MiB", progress=False)
    again = Entropy(topics=TOPICS, lists=1, items=3).run(small)
    np.testing.assert_allclose(again["entropy"], results["entropy"], atol=1e-4)
    np.testing.assert_allclose(again["varentropy"], results["varentropy"], atol=1e-4)
