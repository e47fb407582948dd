"""Flags: what --help shows of them, and how they are read."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mechlist.cli.help import experiment_help, field_docs
from mechlist.cli.main import main
from mechlist.cli.parse import parse
from mechlist.cli.target import read_target
from mechlist.options import Output, Settings
from mechlist.registry import find, index

NAMES = sorted(entry.name for entry in index() if entry.origin.startswith("mechlist."))
STUDY = Path(__file__).parents[2] / "experiments" / "list_ending" / "study.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_stands_there_once_with_its_docstring(name: str):
    kind: Any = find(name)
    text = experiment_help("run", name, kind, None, Settings())
    fields = [*dataclasses.fields(kind), *dataclasses.fields(Settings), *dataclasses.fields(Output)]
    lines = [line for line in text.splitlines() if line.startswith("  --")]
    for field in fields:
        flag = f"--{field.name.replace('_', '-')}"
        assert sum(line.split()[:1] in ([flag], [f"{flag},"]) for line in lines) == 1, flag
    docs = field_docs(kind)
    assert [field.name for field in dataclasses.fields(kind) if not docs.get(field.name)] == []
    grouped = [name for names in kind.groups.values() for name in names]
    assert sorted(grouped) == sorted(set(grouped) & {field.name for field in dataclasses.fields(kind)})


def test_patch_is_told_in_groups(capsys: pytest.CaptureFixture[str]):
    assert main(["run", "patch", "--help"]) == 0
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "prompts:",
        "what is patched:",
        "what is measured:",
        "statistics:",
        "run:",
        "weights of Hugging Face models:",
        "output:",
    ]
    assert text.count("Patch a clean run into a corrupt one") == 1
    assert text.count("Example: ") == 1
    assert "--null-pairs INT" in text
    assert "(default: 20)" in text
    assert "(default: 0)" in text
    assert "--bos, --no-bos" in text
    assert "None" not in text


def test_a_study_s_flags_are_those_of_the_run(capsys: pytest.CaptureFixture[str]):
    assert main(["run", str(STUDY), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Why does a model end a list?" in text
    assert "--model TEXT" in text
    assert "--topics" not in text


@pytest.mark.parametrize(
    ("words", "bos"),
    [
        ([], None),
        (["--bos"], True),
        (["--no-bos"], False),
        (["--no_bos", "--seed", "3"], False),
        (["--bos", "--seed", "3"], True),
        (["--bos", "False"], False),
        (["--bos", "None"], None),
    ],
)
def test_a_choice_that_may_be_left_open(words: list[str], bos: bool | None):
    assert read_target("run", "induction", words).job.settings.bos is bos
    assert parse(Settings, words, prog="mechlist", description="").bos is bos


def test_a_warning_is_a_line_without_the_place_in_the_code(capsys: pytest.CaptureFixture[str]):
    import warnings

    from mechlist.cli.main import _warning

    text = _warning(UserWarning("The answer\nis a mistake."), UserWarning, "pair.py", 12)
    assert text == "mechlist: warning: The answer is a mistake.\n"
    before = warnings.formatwarning
    assert main(["--version"]) == 0
    assert warnings.formatwarning is before
