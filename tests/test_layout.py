"""The house itself: folders that one can read at a glance; one method a folder (or a file), named as its command."""

from pathlib import Path

import mechlist
from mechlist.registry import index

PACKAGE = Path(mechlist.__file__).parent
METHODS = PACKAGE / "experiments"
MOST = 24
"""Python files in a folder."""


def test_no_folder_is_full():
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    counts = {str(folder.relative_to(PACKAGE.parent)): len(list(folder.glob("*.py"))) for folder in folders}
    assert len(counts) > 10
    assert {folder: count for folder, count in counts.items() if count > MOST} == {}


def test_every_method_s_folder_has_its_experiment():
    folders = [file.parent for file in METHODS.glob("*/__init__.py")]
    assert len(folders) > 10
    assert [folder.name for folder in folders if not (folder / "experiment.py").is_file()] == []


def test_a_method_is_named_as_its_command():
    own = [entry for entry in index() if entry.origin.startswith("mechlist.experiments.")]
    assert len(own) > 10
    for entry in own:
        method, *rest = entry.origin.removeprefix("mechlist.experiments.").split(".")
        assert method.replace("_", "-") == entry.name
        assert rest in ([], ["experiment"])
