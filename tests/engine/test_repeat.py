"""A run that is to repeat another, or to go on with it, says what has changed since."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mechlist.cli.run import main
from mechlist.engine.repeat import changes, facts_of
from mechlist.options import Settings
from mechlist.runs import Job

PAIR = {"clean": "-Oak\n-Elm", "corrupt": "-Oak\n-Ash", "answer": "\n", "wrong": "-"}
FEW = ["--null-pairs", "0", "--noise-repeats", "0", "--per", "head", "--site", "z"]


@dataclass(frozen=True)
class Reads:
    file: Path | None = None
    files: tuple[Path, ...] = ()


def facts(experiment: Any) -> dict[str, Any]:
    return facts_of(Job("reads", experiment, Settings()), None)


def test_files_and_folders_are_known_by_their_bytes(tmp_path: Path):
    one, folder = tmp_path / "a.json", tmp_path / "lists"
    one.write_text("1")
    folder.mkdir()
    (folder / "b.json").write_text("2")
    asked = Reads(file=one, files=(folder,))
    before = facts(asked)
    assert set(before["inputs"]) == {"file[0]", "files[0]"}
    assert changes(before, facts(asked)) == []
    one.write_text("3")
    assert changes(before, facts(asked)) == ["the file of file has changed"]
    (folder / "c.json").write_text("2")
    assert changes(before, facts(asked)) == ["the file of file has changed", "the file of files has changed"]
    # Older runs tell of no files.
    assert changes({}, facts(asked)) == []


def test_weights_come_before_what_follows_from_them():
    now = {"inputs": {}, "model": {"fingerprint": "b", "identity": "d"}}
    assert changes({"model": {"fingerprint": "a", "identity": "c"}}, now) == ["the weights of the model have changed"]
    assert changes({"model": {"fingerprint": "b", "identity": "c"}}, now) == [
        "the model's configuration or processing has changed"
    ]


def test_libraries():
    assert changes({"versions": {"numpy": "0.1"}}, {"inputs": {}})[0].startswith("numpy is ")
    assert changes({"versions": {"numpy": "0.1"}}, {"inputs": {}}, libraries=False) == []


def test_a_repeat_from_config_yaml_says_what_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pairs, first, again = tmp_path / "pairs.jsonl", tmp_path / "first", tmp_path / "again"
    pairs.write_text(json.dumps(PAIR))
    assert main(["patch", "--pairs", str(pairs), *FEW, "--out", str(first)]) == 0
    assert main([str(first / "config.yaml"), "--out", str(again)]) == 0
    assert "differs" not in json.loads((again / "run.json").read_text())
    pairs.write_text(json.dumps(PAIR | {"corrupt": "-Oak\n-Fir"}))
    with pytest.warns(UserWarning, match=r"This run does not repeat .*first: the file of pairs has changed"):
        main([str(first / "config.yaml"), "--out", str(tmp_path / "third")])
    assert json.loads((tmp_path / "third" / "run.json").read_text())["differs"] == ["the file of pairs has changed"]
    # Another question is no repeat.
    assert main([str(first / "config.yaml"), "--per", "position", "--out", str(tmp_path / "fourth")]) == 0
    capsys.readouterr()
