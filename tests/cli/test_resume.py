import contextlib
import os
from pathlib import Path

import pytest

from mechlist.cli.main import main
from mechlist.cli.resume import resume_command
from mechlist.engine.local import complete
from mechlist.experiments.induction.experiment import Induction
from mechlist.options import Output, Settings
from mechlist.runs import Job, RunDirectory

FLAGS = ["induction", "--period", "6", "--batch", "2", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopped(name: str, age: float | int, period: int = 6, batch: int = 2) -> RunDirectory:
    """A run of `FLAGS` that was interrupted some seconds ago."""
    job = complete(Job("induction", Induction(period=period, batch=batch), Settings(device="cpu")))
    run = RunDirectory(Path("runs") / name)
    run.claim(job.config(), Output())
    with contextlib.suppress(KeyboardInterrupt), run.session("cpu"):
        raise KeyboardInterrupt
    then = (run.path / "config.yaml").stat().st_mtime - age
    os.utime(run.path / "config.yaml", (then, then))
    return run


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["run", *arguments, "--resume"]) == 2
    return capsys.readouterr().err.removeprefix("mechlist: ").strip()


def test_resume_without_out_takes_the_newest_unfinished_run_of_the_same_configuration(here, capsys):
    older, newer, other = stopped("c", 30), stopped("b", 20), stopped("a", 0, period=7)
    assert main(["run", *FLAGS, "--resume"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == "runs/b/report.html"
    assert [run.is_done for run in (older, newer, other)] == [False, True, False]
    assert main(["run", *FLAGS, "--resume"]) == 0
    assert older.is_done
    assert len(list(Path("runs").iterdir())) == 3


def test_nothing_to_resume_is_one_sentence_that_names_what_differs(here, capsys):
    nothing = "There is nothing to resume: runs holds no unfinished run of induction with this configuration"
    assert refused(capsys, *FLAGS) == f"{nothing}."
    stopped("a", 0, period=7, batch=3)
    nearest = "in the newest of induction, runs/a, its period is 7, now it is 6; its batch is 3, now it is 2"
    assert refused(capsys, *FLAGS) == f"{nothing}; {nearest}."
    assert refused(capsys, *FLAGS, "--out", "new").startswith("There is nothing to resume in new: it holds no config")
    assert sorted(p.name for p in here.iterdir()) == ["runs"]


def test_a_configuration_file_goes_on_with_its_own_run(here, capsys):
    run = stopped("a", 0)
    assert refused(capsys, "runs/a/config.yaml", "--period", "9") == (
        "runs/a holds another run: its period is 6, now it is 9. Resume with the same settings, or give --overwrite."
    )
    assert main(["run", "runs/a/config.yaml", "--resume"]) == 0
    assert run.is_done
    assert [p.name for p in Path("runs").iterdir()] == ["a"]
    assert refused(capsys, "runs/a/config.yaml") == "There is nothing to resume: the run in runs/a is finished."


def test_a_directory_of_another_experiment_is_refused(here, capsys):
    stopped("a", 0)
    sentence = refused(capsys, "generate-lists", "--out", "runs/a", "--device", "cpu")
    assert sentence.startswith("runs/a holds another run: it is a run of induction, and this is generate-lists.")


def test_an_unfinished_study_is_found_again(here, capsys):
    text = "title: T\ndevice: cpu\nsteps:\n  - {experiment: induction, parameters: {period: 5, batch: 2}}\n"
    Path("study.yaml").write_text(text)
    assert "no unfinished run of study" in refused(capsys, "study.yaml")
    assert main(["run", "study.yaml"]) == 0
    run = RunDirectory(next(Path("runs").iterdir()))
    run.update(status="interrupted")
    assert main(["run", "study.yaml", "--resume"]) == 0
    assert run.is_done
    assert len(list(Path("runs").iterdir())) == 1


def test_the_command_that_goes_on_is_the_one_that_began_with_its_directory():
    words = ["run", "patch", "--clean", "a b", "--out=x", "--overwrite"]
    assert resume_command(words, Path("x")) == "mechlist run patch --clean 'a b' --out x --resume"
    assert resume_command(["run", "patch", "--out", "y", "--resume"], Path("y")).split()[-3:] == [
        "--out",
        "y",
        "--resume",
    ]
