"""A step of a study that stands for a run of every value."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.cli.main import main
from mechlist.errors import InputError
from mechlist.results import load_dataset
from mechlist.study import read_study, read_yaml
from mechlist.sweeps import swept

STUDY = """
title: Periods
model: induction-tiny
device: cpu
steps:
  - name: score
    experiment: induction
    parameters: {batch: 2, mlp_sequences: 0}
    sweep: {period: [4, 6], seed: [0, 1]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep")
    (path / "study.yaml").write_text(STUDY)
    assert main(["run", str(path / "study.yaml"), "--out", str(path / "run")]) == 0
    return path


def test_every_combination_is_a_run_and_a_table_stands_over_all(folder: Path):
    names = ["score-period-4-seed-0", "score-period-4-seed-1", "score-period-6-seed-0", "score-period-6-seed-1"]
    runs = [load_dataset(folder / "run" / name / "results.nc") for name in names]
    table = load_dataset(folder / "run" / "score-sweep" / "results.nc")
    assert table["run"].values.tolist() == names
    assert table["period"].values.tolist() == [4, 4, 6, 6]
    assert table["seed"].values.tolist() == [0, 1, 0, 1]
    for name, pick in (("mean", np.mean), ("smallest", np.min), ("largest", np.max)):
        values = table[name].sel(variable="induction_score").values
        np.testing.assert_allclose(values, [pick(run["induction_score"].values) for run in runs])
    # What a seed changes, it changes; what was asked is what was done.
    assert len({float(run["log_prob"].sum()) for run in runs}) == 4


def test_the_figure_runs_over_the_first_field_with_a_curve_for_the_others(folder: Path):
    from mechlist.experiments.sweep_table import SweepTable

    runs = tuple(sorted(folder.glob("run/score-period*")))
    asked = SweepTable(runs=runs)
    results = asked.run()
    drawn_traces: Any = asked.figures(results)["induction_score"].data
    assert [trace.name for trace in drawn_traces] == ["seed 0", "seed 1"]
    # Error bars of two curves stand a little apart.
    assert all([round(x) for x in trace.x] == [4, 6] for trace in drawn_traces)
    drawn = np.array([trace.y for trace in drawn_traces])
    means = results["mean"].sel(variable="induction_score").values.reshape(2, 2)
    np.testing.assert_allclose(drawn, means.T)
    said = asked.findings(results)
    highest = runs[int(results["mean"].sel(variable="induction_score").values.argmax())].name
    period, seed = highest.split("-")[2::2]
    (told,) = [one for one in said if one.startswith("The mean of induction_score goes")]
    assert f"(with period {period} and seed {seed}) over 4 runs." in told
    assert len(asked.tables(results)["sweep"]) == 4 * results.sizes["variable"]


def test_the_configuration_runs_again(folder: Path):
    study = read_study(folder / "run" / "config.yaml", read_yaml(folder / "run" / "config.yaml"))
    assert [step.name for step in study.steps][-1] == "score-sweep"
    assert [step.job.settings.seed for step in study.steps] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ("{perod: [4]}", "sweep.perod: induction has no such parameter; did you mean period?"),
        ("{period: []}", "sweep.period: must hold at least one value, not none"),
        ("{batch: [1]}", "sweep.batch: it stands among the parameters too"),
        ("{period: [4, 4]}", "two of its runs would be called 'score-period-4'"),
        ("{period: [-4]}", "period"),
        ("{memory: [1GiB]}", "sweep.memory: induction has no such parameter"),
    ],
)
def test_a_sweep_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], sweep: str, words: str):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("{period: [4, 6], seed: [0, 1]}", sweep))
    assert main(["run", str(file), "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "steps[0]" in err
    assert not (tmp_path / "run").exists()


def test_a_single_value_needs_no_table(tmp_path: Path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("[4, 6], seed: [0, 1]", "[4]"))
    study = read_study(tmp_path / "study.yaml", read_yaml(tmp_path / "study.yaml"))
    assert [step.name for step in study.steps] == ["score-period-4"]


def test_names_of_values_are_names_of_folders():
    found = [one.name for one in swept("x", "induction", {}, {"model": ["google/gemma-2-2b", "a b"]})]
    assert found == ["x-model-gemma-2-2b", "x-model-a-b"]
    with pytest.raises(InputError, match="two of its runs"):
        list(swept("x", "induction", {}, {"model": ["a/b", "c/b"]}))


def test_runs_that_do_not_go_together(folder: Path, tmp_path: Path):
    from mechlist.experiments.sweep_table import SweepTable

    (one, two) = sorted(folder.glob("run/score-period*"))[:2]
    with pytest.raises(InputError, match="is no directory of a finished run"):
        SweepTable(runs=(one, tmp_path)).run()
    with pytest.raises(InputError, match="must differ in a parameter"):
        SweepTable(runs=(one, one)).run()
    with pytest.raises(InputError, match="must be of one experiment, not of induction and sweep-table"):
        SweepTable(runs=(two, folder / "run" / "score-sweep")).run()
    with pytest.raises(InputError, match="two directories of finished runs at least, not 1"):
        SweepTable(runs=(one,))
    assert isinstance(SweepTable(runs=(one, two)).run(), xr.Dataset)
