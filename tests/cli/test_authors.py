"""What an author sees when an experiment of theirs is broken."""

from pathlib import Path

import pytest

from mechlist import registry
from mechlist.cli.main import main
from mechlist.errors import told, where

PROBE = '''\
from dataclasses import dataclass
import plotly.graph_objects as go
import xarray as xr
from mechlist import Experiment, register

@register("probe")
@dataclass(frozen=True, kw_only=True)
class Probe(Experiment):
    """A probe."""

    def run(self, runner):
        return xr.Dataset({"x": ("n", [1.0])})

    def figures(self, results):
        return {}
'''


@pytest.fixture
def author(tmp_path, monkeypatch, capsys):
    """Write the probe with some text replaced, and give what a command prints on it: status, out and err."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.delitem(registry.sys.modules, "mechlist_local_probe", raising=False)

    def command(old: str, new: str, *arguments: str) -> tuple[int, str, str]:
        assert old in PROBE
        Path("probe.py").write_text(PROBE.replace(old, new))
        capsys.readouterr()
        status = main(list(arguments))
        out, err = capsys.readouterr()
        return status, out, err.removeprefix("mechlist: ").strip()

    yield command
    registry.sys.modules.pop("mechlist_local_probe", None)


RUN = ("run", "probe", "--device", "cpu", "--out", "out")


def test_a_syntax_error_names_the_file_and_the_line_and_the_list_keeps_it(author):
    broken = ("return {}", "return {")
    status, _, err = author(*broken, *RUN)
    assert (status, err) == (2, "probe cannot be read: ./probe.py, line 15: SyntaxError: '{' was never closed.")
    status, out, _ = author(*broken, "list")
    assert status == 0
    assert "not listed, for it cannot be read: ./probe.py, line 15: SyntaxError: '{' was never closed" in out
    assert "did you mean" not in err.lower()


def test_an_import_error_names_the_file_and_the_line(author):
    status, _, err = author("import plotly.graph_objects as go", "import no_such_module", *RUN)
    assert status == 2
    assert err.startswith("probe cannot be imported: ./probe.py, line 2: ModuleNotFoundError: No module named 'no_such")


@pytest.mark.parametrize(
    ("new", "line", "sentence"),
    [
        ("raise ValueError('boom')", 12, "ValueError: boom"),
        ("return runner.logits([[1, 2]])[0, 'x']", 12, "TypeError: "),
        ("import torch; torch.ones(2) @ torch.ones(3)", 12, "RuntimeError: "),
    ],
)
def test_an_exception_in_run_names_the_author_s_line(author, new, line, sentence):
    status, _, err = author('return xr.Dataset({"x": ("n", [1.0])})', new, *RUN)
    assert status == 1
    assert err.startswith(f"probe failed: ./probe.py, line {line}: {sentence}")
    assert err.endswith("(--debug shows the traceback).")
    assert len(err.splitlines()) == 1


def test_an_exception_in_figures_names_the_author_s_line(author):
    status, _, err = author("return {}", "return 1 / 0", *RUN)
    assert status == 1
    assert "the figures failed (./probe.py, line 15: ZeroDivisionError: division by zero): once this is mended" in err


@pytest.mark.parametrize(
    ("old", "new", "status", "sentence"),
    [
        (
            'xr.Dataset({"x": ("n", [1.0])})',
            '{"x": 1.0}',
            2,
            "run of mechlist_local_probe.Probe must return an xarray.Dataset, which holds every number with named "
            "dimensions, not dict.",
        ),
        (
            "return {}",
            "return go.Figure()",
            1,
            "figures of mechlist_local_probe.Probe must return a dict of file names",
        ),
        ("return {}", 'return {"a": 1}', 1, "plotly figures (mechlist.figures makes them), not dict with int in it"),
        (
            "return {}",
            "return {}\n    def tables(self, results):\n        return []",
            1,
            "pandas data frames, not list",
        ),
        (
            "return {}",
            "return {}\n    def findings(self, results):\n        return 'x'",
            1,
            "a list of sentences, not str",
        ),
    ],
)
def test_what_is_no_result_is_refused_with_what_is_expected(author, old, new, status, sentence):
    got, _, err = author(old, new, *RUN)
    assert got == status
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_an_error_outside_every_file_has_no_line():
    assert where(ValueError("x")) == ""
    assert told(ValueError("x")) == "ValueError: x"
    assert told(KeyError()) == "KeyError"
