"""`mechlist plan`: an experiment, a run's configuration, a study, and what cannot be planned."""

from pathlib import Path

import pytest
import torch

from mechlist.cli.main import main
from mechlist.cli.plan_text import device_bytes

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

CHAIN = """
title: Lists and what is read of them
model: list-tiny
device: cpu
steps:
  - experiment: generate-lists
    name: generate
    parameters: {topics: [Fruits, Ocean], samples: 1, max_new_tokens: 100}
  - experiment: list-statistics
    name: numbers
    parameters: {recorded: ["{generate}/exports/lists"]}
  - experiment: entropy
    parameters: {recorded: ["{generate}/exports/lists"]}
  - experiment: entropy
    name: broken
    parameters: {recorded: ["{generate}/exports/lists"], topics: [Frouits]}
  - experiment: token-view
    name: view
    parameters: {recorded: ["{generate}/exports/lists"]}
  - experiment: logit-lens
    name: tuned
    parameters: {recorded: ["{generate}/exports/lists"], tuned: true, tuned_steps: 2, tuned_batch: 8}
  - experiment: logit-lens
    name: again
    parameters: {recorded: ["{generate}/exports/lists"], translators: "{tuned}/results.nc"}
"""


def rows(lines: list[str]) -> dict[str, str]:
    return {line[2:18].strip(): line[18:] for line in lines if line.startswith("  ")}


def test_an_experiment_is_planned_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "patch", "--site", "z", "--per", "head", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "patch on list-tiny (cpu, float32)"
    shown = rows(lines)
    assert list(shown) == ["cells", "path", "forward tokens", "operations", "peak memory", "time", "fits"]
    assert shown["cells"] == "48, of which 48 need a run"
    assert shown["path"] == "layer by layer"
    assert "of a loop's" in shown["operations"]
    assert not list(tmp_path.iterdir())


def test_what_is_no_sweep_is_planned(capsys: pytest.CaptureFixture[str]):
    asked = ["entropy", "--topics", "Fruits", "--lists", "1", "--items", "3", "--device", "cpu"]
    assert main(["plan", *asked]) == 0
    shown = rows(capsys.readouterr().out.splitlines())
    assert list(shown) == ["path", "forward tokens", "operations", "peak memory", "time", "fits"]
    assert shown["path"] == "5 rows in 2 batches: Entropy, as written, Entropy, adjective swapped"


def test_a_study_is_planned_step_by_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    assert main(["plan", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "sweep on list-tiny (cpu, float32)",
        "induction on list-tiny (cpu, float32)",
        "list-statistics: needs no model",
        "all steps",
    ]
    heads = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    steps = [rows(lines[start:end]) for start, end in zip(heads, [*heads[1:], None], strict=True)]
    tokens = [int(step["forward tokens"].replace(",", "")) for step in (steps[0], steps[1], steps[3])]
    assert tokens[2] == pytest.approx(tokens[0] + tokens[1], abs=1)
    assert list(steps[3]) == ["forward tokens", "operations", "peak memory", "time", "fits"]


def test_steps_that_read_what_earlier_ones_will_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "study.yaml"
    file.write_text(CHAIN)
    assert main(["plan", str(file)]) == 0
    captured = capsys.readouterr().out
    heads = [line for line in captured.splitlines() if not line.startswith(" ")]
    assert heads == [
        "generate on list-tiny (cpu, float32)",
        "numbers: needs no model",
        "entropy on list-tiny (cpu, float32)",
        "broken: There is no topic 'Frouits' among the 2 of the recorded lists. Did you mean Fruits?",
        "view on list-tiny (cpu, float32)",
        "tuned on list-tiny (cpu, float32)",
        "again on list-tiny (cpu, float32)",
        "all steps, without broken",
    ]
    assert "examples are in place of what generate will give" in captured
    assert "examples are in place of what generate and tuned will give" in captured
    # As many lists as will be written: 2 topics x 3 adjectives, and the four with an adjective again.
    assert "10 rows in " in captured
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--device-memory", "24GiB"], "fits into 24.0 GiB: 24.9 MiB of weights and at most 4.0 GiB more (--memory)"),
        (["--device-memory=1GiB"], "does not fit into 1.0 GiB: 24.9 MiB of weights and at most 4.0 GiB more"),
        (["--device-memory=1GiB"], "take --memory 999MiB"),
        (["--device_memory", "1GiB", "--memory", "500MiB"], "fits into 1.0 GiB: 24.9 MiB of weights and at most 500"),
        (["--device-memory", "20MiB", "--memory", "4MiB"], "take --dtype bfloat16"),
        (["--device-memory", "2MiB", "--memory", "4MiB"], "take a smaller model, or a device with more memory"),
        (["--device-memory", "2MiB", "--memory", "4MiB", "--dtype", "bfloat16"], "take a smaller model, or a device"),
    ],
)
def test_whether_it_fits(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    asked = ["token-view", "--max-new-tokens", "8", "--device", "cpu"]
    assert main(["plan", *asked, *flags]) == 0
    assert words in " ".join(capsys.readouterr().out.split())


def test_the_memory_of_this_device():
    size = device_bytes(torch.device("cpu"))
    assert 2**28 < size < 2**50


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
        (["entropy", "--device-memory", "much"], "device-memory must be a size such as 24GiB, not 'much'"),
        (["entropy", "--device-memory"], "device-memory must be a size such as 24GiB, not ''"),
        (["list-statistics", "--device", "cpu"], "needs no model, so there is nothing to plan"),
        (["pach"], "Did you mean patch?"),
        (["entropy", "--recorded", "nowhere.json", "--device", "cpu"], "nowhere.json"),
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
