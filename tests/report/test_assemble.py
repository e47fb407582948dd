"""Reports of runs and studies: what belongs to all steps, and runs that failed behind their numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mechlist.cli.main import main
from mechlist.report.assemble import write_report
from mechlist.results import load_dataset

PARTS = ("tables", "files", "findings", "figures")
EXPERIMENTS = '''
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist import Claim, Experiment, register
from mechlist.errors import InputError


def check(part):
    """The file `broken` says which part of the code is not mended yet."""
    if Path("broken").read_text() == part:
        raise InputError(f"{part} must be mended.") if part == "files" else KeyError(part)


class Base(Experiment):
    def run(self, runner):
        with Path("runs.txt").open("a") as file:
            file.write("x")
        return xr.Dataset({"number": ("prompt", [1.5, 2.5])})

    def figures(self, results):
        check("figures")
        return {"numbers": go.Figure(go.Bar(y=results["number"].values))}

    def tables(self, results):
        check("tables")
        return {"numbers": pd.DataFrame({"number": results["number"].values})}

    def files(self, results):
        check("files")
        return {"numbers.txt": str(results["number"].values.tolist())}

    def findings(self, results):
        check("findings")
        return [f"The sum is {float(results['number'].sum())}."]

    def claims(self, results):
        return [Claim("The sum is large.", "numbers"), Claim("It comes first.", "numbers", "first")]


@register("told")
@dataclass(frozen=True, kw_only=True)
class Told(Base):
    """Two numbers, without a model."""

    needs_model = False


@register("told-by-a-model")
@dataclass(frozen=True, kw_only=True)
class ToldByModel(Base):
    """Two numbers, with a model at hand."""
'''
STEPS = [{"name": "first", "experiment": "told-by-a-model"}, {"name": "last", "experiment": "told"}]
STUDY: dict[str, Any] = {"title": "Numbers", "model": "induction-tiny", "device": "cpu", "steps": STEPS}


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two experiments, and with all of their code in order."""
    (tmp_path / "told.py").write_text(EXPERIMENTS)
    (tmp_path / "broken").write_text("nothing")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def change(folder: Path, **facts: Any) -> None:
    (folder / "run.json").write_text(json.dumps(record(folder) | facts))


@pytest.mark.parametrize("part", PARTS)
def test_a_failure_behind_the_numbers_leaves_them_whole_and_report_finishes_the_run(where, capsys, part):
    (where / "broken").write_text(part)
    assert main(["run", "told", "--out", "out"]) == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith("mechlist: The numbers are whole in out/results.nc, but the ")
    assert "once this is mended, `mechlist report out` finishes the run" in sentence
    assert len(sentence.splitlines()) == 1
    assert load_dataset(where / "out" / "results.nc")["number"].values.tolist() == [1.5, 2.5]
    assert record(where / "out")["status"] == "failed"
    assert part in record(where / "out")["error"]
    assert main(["report", "out"]) == 1
    assert record(where / "out")["status"] == "failed"
    (where / "broken").write_text("nothing")
    assert main(["report", "out"]) == 0
    done = record(where / "out")
    assert (done["status"], done["findings"]) == ("done", ["The sum is 4.0."])
    assert "error" not in done
    for file in ("tables/numbers.parquet", "exports/numbers.txt", "figures/numbers.html", "report.html"):
        assert (where / "out" / file).is_file()
    assert main(["run", "told", "--out", "whole"]) == 0
    assert (where / "out" / "results.nc").read_bytes() == (where / "whole" / "results.nc").read_bytes()


@pytest.mark.parametrize("part", PARTS)
def test_resuming_makes_no_number_again(where, part):
    (where / "broken").write_text(part)
    assert main(["run", "told", "--out", "out"]) == 1
    assert main(["run", "told", "--out", "out", "--resume"]) == 1
    (where / "broken").write_text("nothing")
    assert main(["run", "told", "--out", "out", "--resume"]) == 0
    assert record(where / "out")["status"] == "done"
    assert (where / "runs.txt").read_text() == "x"


def test_a_report_that_fails_later_says_so_and_the_next_mends_it(where):
    assert main(["run", "told", "--out", "out"]) == 0
    (where / "broken").write_text("figures")
    assert main(["report", "out"]) == 1
    assert record(where / "out")["status"] == "failed"
    (where / "broken").write_text("nothing")
    assert main(["report", "out"]) == 0
    assert record(where / "out")["status"] == "done"


def test_a_study_goes_on_from_a_step_that_failed_behind_its_numbers(where, capsys):
    (where / "broken").write_text("tables")
    assert main(["run", "study.yaml", "--out", "out"]) == 1
    assert {record(where / "out" / name)["status"] for name in (".", "first")} == {"failed"}
    capsys.readouterr()
    assert main(["report", "out"]) == 2
    assert "out/last has no finished run (its status is 'unknown')" in capsys.readouterr().err
    (where / "broken").write_text("nothing")
    assert main(["run", "study.yaml", "--out", "out", "--resume"]) == 0
    assert {record(where / "out" / name)["status"] for name in (".", "first", "last")} == {"done"}
    assert (where / "runs.txt").read_text() == "xx"


def test_report_finishes_the_last_step_of_a_study_and_the_study_with_it(where):
    steps = [{**step, "experiment": "told"} for step in STEPS]
    (where / "study.yaml").write_text(yaml.safe_dump({**STUDY, "steps": steps}))
    assert main(["run", "study.yaml", "--out", "out"]) == 0
    change(where / "out" / "last", status="failed")
    change(where / "out", status="failed")
    assert main(["report", "out"]) == 0
    assert {record(where / "out" / name)["status"] for name in (".", "first", "last")} == {"done"}


def test_a_study_tells_of_its_model_and_its_checks_though_the_last_step_has_none(where):
    assert main(["run", "study.yaml", "--out", "out"]) == 0
    report = (where / "out" / "report.html").read_text()
    model = record(where / "out" / "first")["model"]
    assert f"<dd>{model['fingerprint']}</dd>" in report
    assert "<dt>architecture</dt>" in report
    for guard in record(where / "out" / "first")["guards"]:
        assert f"<b>{guard['name']}</b>" in report
    assert "induction-tiny, float32 on cpu, seed 0." in report


def test_what_differs_between_steps_is_told_of_each(where):
    assert main(["run", "study.yaml", "--out", "out"]) == 0
    first = record(where / "out" / "first")
    other = {**first["model"], "name": "another", "fingerprint": "f" * 64}
    guard = first["guards"][0]
    change(where / "out" / "first", seconds=2.0, started="2026-01-02T00:00:00+00:00", versions={"torch": "1.0"})
    change(where / "out" / "last", model=other, guards=[guard], seconds=3.0, versions={"torch": "2.0"})
    change(where / "out" / "last", started="2026-01-01T00:00:00+00:00")
    report = write_report(where / "out").read_text()
    assert f"<dd>{first['model']['fingerprint']}; {'f' * 64}</dd>" in report
    assert f"<dd>{first['model']['name']}; another</dd>" in report
    assert f"<b>{first['model']['name']} {first['model']['fingerprint'][:8]}: {guard['name']}</b>" in report
    assert f"<b>another ffffffff: {guard['name']}</b>" in report
    for fact in ("5.0 s", "torch 1.0; torch 2.0", "2026-01-01T00:00:00+00:00"):
        assert f"<dd>{fact}</dd>" in report


def test_a_step_without_a_text_is_introduced_by_its_experiment(where):
    assert main(["run", "study.yaml", "--out", "out"]) == 0
    assert "<p>Two numbers, without a model.</p>" in (where / "out" / "report.html").read_text()


def test_show_says_where_the_rest_of_a_step_s_table_is(where, capsys):
    assert main(["run", "study.yaml", "--out", "out"]) == 0
    capsys.readouterr()
    assert main(["show", "out", "--rows", "1"]) == 0
    assert "1 more rows in out/last/tables/numbers.parquet" in capsys.readouterr().out


def test_a_study_opens_with_its_answer_and_the_terminal_ends_with_it(where, capsys):
    steps = [*STEPS[:1], {**STEPS[1], "answer": True, "text": "Both numbers."}]
    (where / "study.yaml").write_text(yaml.safe_dump({**STUDY, "steps": steps}))
    assert main(["run", "study.yaml", "--out", "out"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["- The sum is 4.0.", "out/report.html"]
    page = (where / "out" / "report.html").read_text()
    order = ["induction-tiny: A two-layer", "The answer</h2>", "It comes first.", "<main>", "The sum is large</h2>"]
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert '<a class="evidence" href="#first-numbers">Evidence: first, Figure</a>' in page
    assert 'id="first-numbers"' in page
    assert 'id="last-numbers"' not in page
    again = yaml.safe_load((where / "out" / "config.yaml").read_text())
    assert [step.get("answer") for step in again["steps"]] == [None, True]


def test_a_study_has_one_answer_at_most(where, capsys):
    steps = [{**step, "answer": True} for step in STEPS]
    (where / "study.yaml").write_text(yaml.safe_dump({**STUDY, "steps": steps}))
    assert main(["run", "study.yaml", "--out", "out"]) == 2
    assert "one step at most can be the answer, not first and last" in capsys.readouterr().err
    (where / "study.yaml").write_text(yaml.safe_dump({**STUDY, "steps": [{**STEPS[0], "answer": "maybe"}]}))
    assert main(["run", "study.yaml", "--out", "out"]) == 2
    assert "steps[0].answer: Input should be a valid boolean" in capsys.readouterr().err
