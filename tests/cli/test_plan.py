"""`mechlist plan`: an experiment, a run's configuration, a study, and what cannot be planned."""

from pathlib import Path

import pytest

from mechlist.cli.main import main

STUDY = """
title: Two steps
model: list-tiny
device: cpu
steps:
  - experiment: patch
    name: sweep
    parameters: {site: mlp_out}
  - experiment: induction
  - experiment: list-statistics
    parameters: {recorded: [nowhere.json]}
"""


def test_an_experiment_is_planned_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "patch", "--site", "z", "--per", "head", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "patch on list-tiny (cpu, float32)"
    shown = {line[2:18].strip(): line[18:] for line in lines[1:]}
    assert list(shown) == ["cells", "path", "forward tokens", "operations", "peak memory", "time"]
    assert shown["cells"] == "48, of which 48 need a run"
    assert shown["path"] == "layer by layer"
    assert "of a loop's" in shown["operations"]
    assert not list(tmp_path.iterdir())


def test_a_study_is_planned_step_by_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    assert main(["plan", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sweep on list-tiny (cpu, float32)"
    assert lines[7].startswith("induction: Induction has no plan")
    assert lines[8] == "list-statistics: needs no model"


def test_the_configuration_of_a_run_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    pair = ["--clean=-Oak\n-Elm", "--corrupt=-Oak\n-Ash", "--answer=\n", "--wrong=-"]
    assert main(["run", "patch", *pair, "--device", "cpu", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["plan", str(out / "config.yaml"), "--site", "q"]) == 0
    assert capsys.readouterr().out.startswith("patch on list-tiny (cpu, float32)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["induction", "--device", "cpu"], "Induction has no plan"),
        (["list-statistics", "--device", "cpu"], "needs no model, so there is nothing to plan"),
        (["pach"], "Did you mean patch?"),
        (["--site", "z"], "comes before the flags"),
        (["nowhere.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_planned_says_so(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "--help"]) == 0
    assert "usage: mechlist plan" in capsys.readouterr().out
    assert main(["plan"]) == 2
