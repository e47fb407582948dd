"""The attribution-patch experiment: its estimates, the cells it patches exactly, and what it refuses."""

from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechlist.cli.main import main
from mechlist.errors import InputError
from mechlist.experiments.attribution_patch.experiment import AttributionPatch
from mechlist.experiments.patch.experiment import Patch
from mechlist.results import load_dataset
from mechlist.runner import Runner

TOPICS = ("Fruits", "Colors", "Sports")


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.mark.parametrize("fields", [{"site": "z", "per": "head"}, {"site": "mlp_out", "roles": True}])
def test_the_strongest_cells_are_patched_exactly(runner: Runner, fields: dict[str, Any]):
    experiment = AttributionPatch(topics=TOPICS, verify_top=6, **fields)
    results = experiment.run(runner)
    patched = Patch(topics=TOPICS, **fields).run(runner)
    checked = results["exact"].notnull().any("prompt")
    assert int(checked.sum()) == 6
    difference = results["exact"] - (patched["patched"] - patched["base"])
    assert float(abs(difference).max()) < 1e-4
    weakest = float(abs(results["effect"].mean("prompt")).where(checked).min())
    assert float(abs(results["effect"].mean("prompt")).where(~checked).max()) <= weakest
    figures = experiment.figures(results)
    assert "agreement" in figures
    table = experiment.tables(results)["verified"]
    assert len(table) == 6
    assert "rank correlation" in experiment.findings(results)[-1]


def test_cells_that_some_prompts_lack_are_ranked_by_the_prompts_that_have_them(runner: Runner):
    """Topics of unequal length: the last positions are in the longest prompt alone."""
    experiment = AttributionPatch(topics=TOPICS, verify_top=4, noise_repeats=0)
    results = experiment.run(runner)
    assert results["effect"].isnull().any()
    mean = abs(results["effect"].mean("prompt"))
    chosen = results["exact"].notnull().any("prompt")
    assert int(chosen.sum()) == 4
    assert float(mean.where(chosen).min()) >= float(mean.where(~chosen).max())
    # As if a missing value were a zero, others would be taken.
    zeros = abs(results["effect"].fillna(0).mean("prompt"))
    assert float(zeros.where(chosen).min()) < float(zeros.where(~chosen).max())


def test_it_is_an_experiment_of_its_own():
    assert not issubclass(AttributionPatch, Patch)
    own = [field.name for field in fields_of(AttributionPatch)]
    assert own == [*[field.name for field in fields_of(Patch)], "steps", "rule", "fix_qk", "verify_top"]


@pytest.mark.parametrize("rule", ["gradient", "relp"])
def test_both_rules_are_held_against_exact_patching(runner: Runner, rule: Any):
    fields: dict[str, Any] = {"topics": TOPICS, "site": "mlp_out", "verify_top": 8, "noise_repeats": 0}
    experiment = AttributionPatch(**fields, rule=rule)
    results = experiment.run(runner)
    found = results["correlation"]
    assert found["rule"].values.tolist() == ["gradient", "relp"]
    assert found.attrs["chosen_by"] == rule
    assert found.attrs["cells"] == 8
    table = experiment.tables(results)["verified"]
    own = found.sel(rule=rule)
    assert float(own[0]) == pytest.approx(np.corrcoef(table["estimate"], table["exact"])[0, 1], rel=1e-6)
    ranks = table[["estimate", "exact"]].rank().to_numpy()
    assert float(own[1]) == pytest.approx(np.corrcoef(ranks.T)[0, 1], rel=1e-6)
    # By the other rule: what a run by it says of the same cells.
    other = AttributionPatch(**fields, rule="relp" if rule == "gradient" else "gradient").run(runner)
    chosen = results["exact"].notnull().any("prompt").values
    estimate, exact = (one.mean("prompt").values[chosen] for one in (other["effect"], results["exact"]))
    assert float(found.drop_sel(rule=rule)[0, 0]) == pytest.approx(np.corrcoef(estimate, exact)[0, 1], rel=1e-4)
    sure, said = experiment.findings(results)[-2:]
    rest = abs(results["effect"].mean("prompt")).where(results["exact"].isnull().all("prompt")).max()
    estimates, effects = (np.abs(table[name].to_numpy(float)) for name in ("estimate", "exact"))
    reach = max(1.0, (effects / estimates).max()) * float(rest)
    assert f"no other cell moves the metric by more than {reach:.3g} logits; " in sure
    assert f"; {int((effects > reach).sum())} of 8 do." in sure
    assert "Over the 8 cells that were patched exactly, chosen by " in said
    name = {"gradient": "gradients", "relp": "relevance (RelP)"}[rule]
    assert f"{float(own[0]):.3f} ({float(own[1]):.3f}) with {name}" in said


def test_few_checks_say_so(runner: Runner):
    experiment = AttributionPatch(site="z", per="head", verify_top=0)
    results = experiment.run(runner)
    assert results["exact"].isnull().all()
    assert experiment.findings(results)[-1].startswith("These are estimates; too few cells")
    figures: Any = experiment.figures(results)
    assert set(figures) == {"heads"}
    assert "Outputs of heads (z, estimated): clean into corrupt" in str(figures["heads"].layout.title.text)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--site", "q", "--per", "head", "--fix-qk", "--verify-top", "4", "--device", "cpu"]
    assert main(["run", "attribution-patch", *flags, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("report.html")
    results = load_dataset(tmp_path / "run" / "results.nc")
    assert {"effect", "exact", "base", "source"} <= set(results)
    assert (tmp_path / "run" / "figures" / "agreement.html").is_file()
    assert main(["plan", "attribution-patch", "--device", "cpu"]) == 0
    assert "Attribution patching, Patching" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"verify_top": -1}, "verify_top must be 0 or more"),
        ({"rule": "relp", "steps": 4}, "steps must be 1 with rule relp, which takes the unchanged run's, not 4"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        AttributionPatch(**changes)
