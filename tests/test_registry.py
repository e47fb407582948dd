import subprocess
import sys
from dataclasses import dataclass

import plotly.graph_objects as go
import pytest
import xarray as xr

from mechlist import registry
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.induction.experiment import Induction
from mechlist.registry import find, index, register

LOCAL = '''
from dataclasses import dataclass
from mechlist import Experiment, register

@register("{name}")
@dataclass(frozen=True, kw_only=True)
class Local(Experiment):
    """{summary}"""
    def run(self, runner): ...
    def figures(self, results): ...
'''


class Plain(Experiment):
    def run(self, runner) -> xr.Dataset:
        return xr.Dataset()

    def figures(self, results) -> dict[str, go.Figure]:
        return {}


def test_the_package_s_experiments_are_found_by_name():
    assert find("induction") is Induction
    entry = next(e for e in index() if e.name == "induction")
    assert entry.summary.startswith("Score every head on a random block shown twice")


def test_a_misspelt_name_gets_a_hint():
    with pytest.raises(InputError, match=r"no experiment 'inducton'\. Did you mean induction\?"):
        find("inducton")
    with pytest.raises(InputError, match="`mechlist list` shows them all"):
        find("xyzzy")


def test_a_file_in_the_current_directory_adds_an_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(LOCAL.format(name="mine-local", summary="A local one."))
    (tmp_path / "broken.py").write_text('@register("x"\n')
    assert ("mine-local", "A local one.", "./mine.py") in [(e.name, e.summary, e.origin) for e in index()]
    assert find("mine_local").__name__ == "Local"
    assert find("mine-local") is find("mine-local")


def test_two_files_with_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("a.py", "b.py"):
        (tmp_path / file).write_text(LOCAL.format(name="twice", summary=""))
    with pytest.raises(InputError, match=r"Two experiments are called 'twice': \./a\.py and \./b\.py; rename one\."):
        find("twice")


def test_folders_and_files_of_the_package_are_found_and_one_name_in_two_of_them_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "mechlist" / "experiments"
    for file in ("first/experiment.py", "second/experiment.py", "alone.py", "first/figures.py"):
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text("")
    folders = [package / name / "experiment.py" for name in ("first", "second")]
    folders[0].write_text(LOCAL.format(name="a-method", summary="In a folder."))
    (package / "alone.py").write_text(LOCAL.format(name="a-file", summary="In a file."))
    monkeypatch.setattr(registry, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    found = {e.name: (e.summary, e.origin) for e in index()}
    assert found["a-method"] == ("In a folder.", "mechlist.experiments.first.experiment")
    assert found["a-file"] == ("In a file.", "mechlist.experiments.alone")
    folders[1].write_text(LOCAL.format(name="a-method", summary=""))
    with pytest.raises(InputError) as caught:
        find("a-method")
    assert str(caught.value) == (f"Two experiments are called 'a-method': {folders[0]} and {folders[1]}; rename one.")


def test_an_installed_package_adds_experiments_through_its_entry_points(tmp_path, monkeypatch):
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    points = "from-plugin = plugin_mod:Local\nmistaken = plugin_mod:Local\n"
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\n{points}")
    (info / "RECORD").write_text("plugin_mod.py,,\n")
    (tmp_path / "plugin_mod.py").write_text(LOCAL.format(name="from-plugin", summary="Of a plugin."))
    monkeypatch.syspath_prepend(tmp_path)
    found = [(e.name, e.summary, e.origin) for e in index()]
    assert ("from-plugin", "Of a plugin.", "plugin (plugin_mod:Local)") in found
    assert find("from-plugin").__module__ == "plugin_mod"
    with pytest.raises(InputError, match="does not register 'mistaken'"):
        find("mistaken")


def test_registering_a_taken_name_is_refused():
    with pytest.raises(InputError, match=r"Two experiments are called 'induction'.*rename one"):

        @register("induction")
        @dataclass(frozen=True, kw_only=True)
        class Another(Plain):
            pass


@pytest.mark.parametrize("name", ["Induction", "two words", "a_b", "-a", "a--b", ""])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(InputError, match="lower-case words joined by hyphens"):
        register(name)(Plain)


def test_only_frozen_dataclasses_that_are_experiments_are_taken():
    with pytest.raises(InputError, match="frozen dataclass"):
        register("plain-class")(Plain)
    with pytest.raises(InputError, match="frozen dataclass"):
        register("thawed")(dataclass(kw_only=True)(type("Thawed", (Plain,), {})))
    with pytest.raises(InputError, match=r"subclass of mechlist\.Experiment"):
        register("no-experiment")(dataclass(frozen=True)(type("No", (), {})))


@pytest.mark.parametrize("taken", ["model", "out", "seed", "fold_ln", "resume", "debug"])
def test_a_field_with_the_name_of_a_run_level_flag_is_refused(taken):
    kind = dataclass(frozen=True, kw_only=True)(type("Taken", (Plain,), {"__annotations__": {taken: int}, taken: 0}))
    with pytest.raises(InputError, match=f"field '{taken}', which is the name of a run-level flag"):
        register("takes-a-flag")(kind)


def test_the_index_imports_neither_torch_nor_xarray():
    code = (
        "import sys; from mechlist.cli.main import main; main(['list']); main(['--help']);"
        "heavy = {'torch', 'xarray', 'transformer_lens', 'plotly', 'pandas'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
