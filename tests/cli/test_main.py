import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mechlist.cli import main as cli
from mechlist.cli.main import main
from mechlist.runs import RunDirectory
from mechlist.study import read_yaml


def failing(capsys, *arguments: str, status: int = 2) -> str:
    """The one sentence that a failing command prints."""
    assert main(list(arguments)) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("mechlist: ")
    assert out == ""
    return lines[0].removeprefix("mechlist: ")


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"  {command} " in text
    assert main([]) == 0
    assert main(["--version"]) == 0


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(capsys, command):
    assert main([command, "--help"]) == 0
    assert "usage: mechlist" in capsys.readouterr().out


def test_an_experiment_s_help_is_its_fields_docstrings(capsys):
    assert main(["run", "induction", "--help"]) == 0
    text = capsys.readouterr().out
    assert "Length of the repeated block" in text
    assert text.count("Score every head on a random block shown twice") == 1
    assert "Example: mechlist run induction --model induction-tiny" in text
    assert "--batch" in text
    assert "--no-overwrite" in text


def test_an_unknown_command_gets_a_hint(capsys):
    assert failing(capsys, "rnu", "induction") == "There is no command 'rnu'. Did you mean run?"


def test_an_unknown_experiment_gets_a_hint(capsys):
    assert "Did you mean induction?" in failing(capsys, "run", "inducton")


def test_an_unknown_flag_gets_a_hint(capsys):
    sentence = failing(capsys, "run", "induction", "--perod", "3")
    assert "--perod" in sentence
    assert "Did you mean --period?" in sentence
    assert "mechlist run induction --help" in sentence


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch", "many"], ["--batch", "many"]),
        (["--batch", "0"], ["batch must be at least 1"]),
        (["--dtype", "float8"], ["float8", "bfloat16"]),
        (["--memory", "lots", "--out", "OUT"], ["memory must be a size", "lots"]),
        (["--memory", "1kB", "--out", "OUT"], ["memory is too small"]),
        (["--period", "5000", "--out", "OUT"], ["period must be between 2 and 127", "5000"]),
        (["--device", "abacus", "--out", "OUT"], ["device must be", "abacus"]),
        (["--engine", "ray", "--out", "OUT"], ["engine must be local"]),
        (["--model", "no-such-model", "--out", "OUT"], ["Unknown model 'no-such-model'", "induction-tiny"]),
        (["--model", "./nowhere", "--out", "OUT"], ["no directory './nowhere'"]),
        (["extra"], ["extra"]),
        (["--batch"], ["--batch"]),
    ],
)
def test_bad_flags_are_one_sentence_with_status_2(capsys, tmp_path, flags, words):
    sentence = failing(capsys, "run", "induction", *(str(tmp_path / "out") if f == "OUT" else f for f in flags))
    for word in words:
        assert word in sentence
    assert not (tmp_path / "out").exists()


def test_the_name_comes_first(capsys):
    assert "before the flags" in failing(capsys, "run", "--model", "gpt2", "induction")


def test_a_run_ends_with_the_path_of_its_report_and_can_be_repeated_from_its_config(capsys, tmp_path):
    out = tmp_path / "a"
    flags = ["--batch", "3", "--period", "8", "--no-overwrite", "--top_heads", "2", "--device", "cpu"]
    assert main(["run", "induction", *flags, "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(out / "report.html")
    assert {"config.yaml", "run.json", "results.nc", "tables", "figures", "report.html", "log.txt"} == {
        p.name for p in out.iterdir()
    }
    parameters = read_yaml(out / "config.yaml")["parameters"]
    assert (parameters["period"], parameters["batch"], parameters["top_heads"]) == (8, 3, 2)
    assert main(["run", str(out / "config.yaml"), "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "results.nc").read_bytes() == (out / "results.nc").read_bytes()
    assert "not empty" in failing_after(capsys, "run", "induction", *flags, "--out", str(out))
    assert main(["run", "induction", *flags, "--out", str(out), "--resume"]) == 0
    assert main(["run", "induction", *flags, "--out", str(out), "--overwrite"]) == 0


def failing_after(capsys, *arguments: str) -> str:
    capsys.readouterr()
    return failing(capsys, *arguments)


def test_show_and_report_tell_of_a_finished_run(capsys, tmp_path):
    out = tmp_path / "run"
    assert main(["run", "induction", "--batch", "2", "--period", "6", "--out", str(out)]) == 0
    report = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    assert (out / "report.html").read_bytes() == report
    assert main(["show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "induction_score" in shown
    assert "mean log-probability" in shown


def test_show_of_a_folder_lists_its_runs_the_newest_first(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("b", "a"):
        assert (
            main(["run", "induction", "--batch", "2", "--period", "6", "--device", "cpu", "--out", f"runs/{name}"]) == 0
        )
    os.utime("runs/b/config.yaml", (0, 0))
    RunDirectory(Path("runs/b")).update(status="interrupted")
    capsys.readouterr()
    assert main(["show", "runs"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "runs/" in line]
    assert [[cell.strip() for cell in line.split("│")[1:5]] for line in lines] == [
        ["runs/a", "induction", "induction-tiny", "done"],
        ["runs/b", "induction", "induction-tiny", "interrupted"],
    ]


def test_show_of_a_study_tells_all_findings_before_any_table(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = "{name: NAME, experiment: induction, parameters: {period: 5, batch: 2}}"
    steps = "".join(f"\n  - {step.replace('NAME', name)}" for name in ("one", "two"))
    Path("study.yaml").write_text(f"title: Two periods\nquestion: Does it matter?\ndevice: cpu\nsteps:{steps}\n")
    assert main(["run", "study.yaml", "--out", "out"]) == 0
    capsys.readouterr()
    assert main(["show", "out", "--rows", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Two periods\nDoes it matter?\none: ")
    assert shown.index("two: ") < shown.index("┏")


def test_the_list_says_what_experiments_need(capsys):
    assert main(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert "[" not in lines["induction"]
    for name, needs in {
        "patch": "[tokenizer, pairs]",
        "list-hazard": "[tokenizer, lists of a chat model]",
        "generate-lists": "[tokenizer, chat model]",
        "list-statistics": "[no model]",
        "circuit": "[pairs]",
    }.items():
        assert lines[name].endswith(needs)


def test_show_and_report_refuse_what_is_no_finished_run(capsys, tmp_path):
    for command in ("show", "report"):
        assert failing(capsys, command, str(tmp_path / "none"))
        assert failing(capsys, command, str(tmp_path))


def test_check_lists_every_guard(capsys):
    assert main(["check", "induction-tiny", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for guard in ("finite logits", "batch and padding", "patching with itself", "full patch", "reference "):
        assert f"pass  {guard}" in text
    assert text.strip().endswith("all passed")


def test_check_fails_where_a_published_number_is_missed(capsys, shared):
    flags = ["--references", "induction-tiny", "--device", "cpu"]
    assert main(["check", str(shared / "models" / "induction-2l"), *flags]) in (0, 1)
    text = capsys.readouterr().out
    assert "FAIL  reference" in text or "n/a   reference" in text
    assert "no published numbers for 'nope'" in failing(capsys, "check", "induction-tiny", "--references", "nope")


def test_check_compares_with_hugging_face_beyond_the_window(capsys, hf_directory):
    assert main(["check", str(hf_directory("gemma2")), "--device", "cpu"]) == 0
    assert re.search(r"pass  Hugging Face parity: .* on 64 random tokens", capsys.readouterr().out)


def test_training_refuses_an_unknown_model_and_a_full_directory(capsys, tmp_path):
    assert "no built-in model 'gpt2' to train" in failing(capsys, "train", "gpt2", "--out", str(tmp_path / "x"))
    odd_size = failing(capsys, "train", "list-tiny", "--width", "100", "--out", str(tmp_path / "x"))
    assert "width must be a multiple of 64, not 100" in odd_size
    (tmp_path / "file").write_text("")
    assert failing(capsys, "train", "induction-tiny", "--out", str(tmp_path))


def test_other_failures_are_one_sentence_with_status_1(capsys, monkeypatch):
    def fail(error: BaseException):
        def dispatch(arguments: list[str]) -> int:
            raise error

        monkeypatch.setattr(cli, "_dispatch", dispatch)
        return failing(capsys, "run", status=1)

    assert fail(OSError(errno.ENOSPC, "No space left on device")).startswith("The disk is full")
    assert fail(KeyboardInterrupt()) == "stopped."
    assert fail(KeyboardInterrupt("stopped; go on")) == "stopped; go on"
    assert fail(MemoryError()).startswith("memory ran out")
    assert "unexpected ZeroDivisionError" in fail(ZeroDivisionError("division by zero"))


def test_debug_shows_the_traceback(monkeypatch):
    def dispatch(arguments: list[str]) -> int:
        assert arguments == ["run"]
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    with pytest.raises(ZeroDivisionError):
        main(["run", "--debug"])


def test_list_shows_experiments_studies_and_models(capsys, monkeypatch, tmp_path):
    (tmp_path / "experiments" / "mine").mkdir(parents=True)
    (tmp_path / "experiments" / "mine" / "study.yaml").write_text("title: My study\nsteps: []\n")
    (tmp_path / "hub" / "models--google--gemma-2-2b-it").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for expected in ("induction ", "My study", "induction-tiny", "google/gemma-2-2b-it"):
        assert expected in text


def test_a_relative_model_directory_is_recorded_in_full(capsys, monkeypatch, tmp_path, hf_directory):
    directory = hf_directory("llama")
    monkeypatch.chdir(directory.parent)
    flags = ["--model", f"./{directory.name}", "--batch", "2", "--period", "5", "--out", str(tmp_path / "o")]
    assert main(["run", "induction", *flags]) == 0
    assert Path(read_yaml(tmp_path / "o" / "config.yaml")["model"]) == directory.resolve()


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "mechlist", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: mechlist")
