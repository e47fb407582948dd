import pydoc
import re
import shlex
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import yaml

import mechlist
from mechlist import LogitDifference, Runner, attribution_grid, patch_grid, registry, show
from mechlist.cli.main import COMMANDS
from mechlist.cli.target import read_target
from mechlist.drawing import figures_of
from mechlist.errors import InputError
from mechlist.experiments.induction.experiment import Induction
from mechlist.study import read_study

README = Path(__file__).parents[1] / "README.md"
BASE, SOURCE = "Write a long list of", "Write a short list of"


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture
def drawn(monkeypatch) -> list[go.Figure]:
    """Figures that were shown."""
    figures: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: figures.append(figure))
    return figures


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_package_says_what_there_is():
    assert set(mechlist.__all__) <= set(dir(mechlist))
    for name in mechlist.__all__:
        assert getattr(mechlist, name).__doc__
    text = pydoc.plain(pydoc.render_doc(mechlist))
    for name in ("patch_grid(", "show(", "class Runner", "LogitDifference(", 'Runner.load("list-tiny")'):
        assert name in text


def test_a_runner_says_what_it_holds(runner):
    assert repr(runner) == "Runner(list-tiny, 6 layers, cpu, float32, memory=4GiB)"


def test_the_example_of_the_docstring_runs(drawn):
    assert mechlist.__doc__ is not None
    lines = [line.removeprefix("    ") for line in mechlist.__doc__.splitlines() if line.startswith("    ")]
    exec("\n".join(lines), {})
    assert len(drawn) == 1


def test_patching_takes_texts_as_it_takes_tokens(runner):
    by_text = patch_grid(runner, base=BASE, source=SOURCE, metric=LogitDifference(" short", " long"))
    ids = [torch.tensor([runner.to_tokens(text)]) for text in (BASE, SOURCE)]
    metric = LogitDifference(answer=runner.single_token(" short"), wrong=runner.single_token(" long"))
    by_ids = patch_grid(runner, base=ids[0], source=ids[1], site="resid_pre", per="position", metric=metric)
    assert np.array_equal(by_text["patched"], by_ids["patched"])
    assert by_text["token"].values.tolist() == [["<bos>", "W", "rite", "·a", "·long", "·list", "·of"]]
    assert "token" not in by_ids
    whole = attribution_grid(runner, base=BASE, source=SOURCE, metric=LogitDifference(" short", " long"))
    same = attribution_grid(runner, base=ids[0], source=ids[1], site="resid_pre", per="position", metric=metric)
    assert np.array_equal(whole["effect"], same["effect"])


def test_several_texts_have_lengths_and_answers_of_their_own(runner):
    base, source = [BASE, "A long list"], [SOURCE, "A short list"]
    metric = LogitDifference([" short", " list"], [" long", " of"])
    both = patch_grid(runner, base=base, source=source, metric=metric)
    for n, answers in enumerate([(" short", " long"), (" list", " of")]):
        alone = patch_grid(runner, base=base[n], source=source[n], metric=LogitDifference(*answers))
        length = alone.sizes["position"]
        assert np.allclose(both["patched"][n, :, :length], alone["patched"][0], atol=1e-4)
        assert both["patched"][n, :, length:].isnull().all()


def test_texts_of_unequal_length_are_shown_with_their_tokens(runner):
    with pytest.raises(InputError) as caught:
        patch_grid(runner, base=[BASE, BASE], source=[SOURCE, "A list"], metric=LogitDifference(" short", " long"))
    shown = "those of prompt 1 do not. base, 7: <bos>|W|rite|·a|·long|·list|·of; source, 3: <bos>|A|·list."
    assert shown in str(caught.value)
    with pytest.raises(InputError, match="as many prompts, not 2 and 1"):
        patch_grid(runner, base=[BASE, BASE], source=SOURCE, metric=LogitDifference(" short", " long"))
    with pytest.raises(InputError, match=r"wrong must be one token; 'Parisian' is"):
        patch_grid(runner, base=BASE, source=SOURCE, metric=LogitDifference(" short", "Parisian"))
    without = Runner.load("induction-tiny", device="cpu", progress=False)
    with pytest.raises(InputError, match="no tokenizer: give token ids instead of text"):
        patch_grid(without, base=BASE, source=SOURCE, metric=LogitDifference(1, 2))


@pytest.mark.parametrize(
    ("site", "per", "names"),
    [
        ("resid_pre", "position", ["positions"]),
        ("z", "head", ["heads"]),
        ("z", "head_position", ["heads", "positions"]),
    ],
)
def test_show_draws_what_patching_gave(runner, drawn, site, per, names):
    metric = LogitDifference(" short", " long")
    results = patch_grid(runner, base=BASE, source=SOURCE, site=site, per=per, metric=metric)
    assert sorted(figures_of(results)) == names
    show(results)
    assert len(drawn) == len(names)
    if per == "position":
        drawn_values = np.array(drawn[0].data[0]["z"], dtype=float)
        assert np.allclose(drawn_values, results["recovered"].mean("prompt"), atol=1e-6)
        assert "list" in drawn[0].to_json()


def test_show_draws_an_experiment_s_results(drawn):
    experiment = Induction(period=5, batch=2)
    results = experiment.run(Runner.load("induction-tiny", device="cpu", progress=False))
    with pytest.raises(InputError, match=r"give the experiment too: show\(results, experiment\)"):
        show(results)
    show(results, experiment)
    assert len(drawn) == len(experiment.figures(results))
    show(results.assign_attrs(experiment="induction"))
    assert len(drawn) == 2 * len(experiment.figures(results))


def test_every_python_block_of_the_readme_runs(drawn, monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    namespace: dict[str, object] = {"__name__": "readme"}
    exec("from dataclasses import dataclass\nimport plotly.graph_objects as go\nimport xarray as xr", namespace)
    exec("from mechlist import Experiment, register", namespace)
    for block in blocks("python"):
        exec(block, namespace)
    assert drawn


def test_every_command_of_the_readme_is_one(monkeypatch):
    monkeypatch.chdir(README.parent)
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["mechlist"]]
    assert len(commands) > 20
    for command, *rest in commands:
        assert command in COMMANDS
        if command in ("run", "plan") and not rest[0].startswith("runs/"):
            budget = rest.index("--device-memory") if "--device-memory" in rest else len(rest)
            read_target(command, rest[0], [*rest[1:budget], *rest[budget + 2 :]])
    targets = {words[1] for words in lines if words[:1] == ["make"]}
    assert targets
    assert all(re.search(rf"^{target}:", Path("Makefile").read_text(), re.MULTILINE) for target in targets)


def test_the_study_of_the_readme_is_one():
    for block in blocks("yaml"):
        assert read_study(README, yaml.safe_load(block)).steps
