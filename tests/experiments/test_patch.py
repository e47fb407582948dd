"""The patch experiment on the built-in list model: its pairs, both directions, its files, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mechlist import LogitDifference, patch_grid
from mechlist.errors import InputError
from mechlist.experiments.patch import Patch
from mechlist.prompts.chat import list_tokens
from mechlist.runner import Runner

PAIR: dict[str, Any] = {"clean": "-Oak\n-Elm", "corrupt": "-Oak\n-Ash", "answer": "\n", "wrong": "-"}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def test_a_finished_list_is_the_pair_without_another(runner: Runner):
    results = Patch().run(runner)
    assert results["patched"].dims == ("prompt", "layer", "position")
    tokens = results["token"].values[0].tolist()
    adjective = tokens.index("·long")
    assert tokens[-1] == "⏎"
    # The two prompts differ at the adjective alone, so the first layer's residual stream there is everything.
    np.testing.assert_allclose(results["recovered"].sel(layer=0, position=adjective), 1, atol=1e-4)
    others = results["recovered"].sel(layer=0).drop_sel(position=adjective)
    assert not others.values.any()
    assert float(results["source"][0]) > float(results["base"][0])
    assert Patch().findings(results)[1].startswith(f"The largest effect is at layer 0 position {adjective} ('·long')")
    assert Patch().tables(results)["cells"]["token"].tolist()[0] == "·long"
    assert set(Patch().figures(results)) == {"positions"}


def test_noising_is_the_other_direction(runner: Runner):
    one, other = Patch().run(runner), Patch(noising=True).run(runner)
    np.testing.assert_allclose(one["base"], other["source"], atol=1e-5)
    np.testing.assert_allclose(one["source"], other["base"], atol=1e-5)
    assert "·short" in other["token"].values[0].tolist()


def test_own_pairs_are_patch_grid(runner: Runner, tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    longer = PAIR | {"clean": "-Oak\n-Elm\n-Fir", "corrupt": "-Oak\n-Ash\n-Fir"}
    file.write_text(json.dumps(PAIR) + "\n\n" + json.dumps(longer) + "\n")
    for per in ("head", "head_position"):
        experiment = Patch(pairs=file, site="z", per=per)
        results = experiment.run(runner)
        assert results.sizes["prompt"] == 2
        clean, corrupt = (torch.tensor([runner.to_tokens(PAIR[name])]) for name in ("clean", "corrupt"))
        marks = list_tokens(runner.tokenizer)
        metric = LogitDifference(answer=marks.line_break, wrong=marks.hyphen)
        alone = patch_grid(runner, base=corrupt, source=clean, site="z", per=per, metric=metric)
        first = results["patched"][0]
        if per == "head_position":
            assert first.isel(position=slice(clean.shape[1], None)).isnull().all()
            first = first.isel(position=slice(0, clean.shape[1]))
        np.testing.assert_allclose(first, alone["patched"][0], atol=1e-4)
        assert set(experiment.figures(results)) == {"heads"}
        assert len(experiment.tables(results)["cells"]) == 20


def test_one_pair_from_flags(runner: Runner):
    results = Patch(**PAIR, site="mlp_out").run(runner)
    assert results.sizes["prompt"] == 1
    assert results.attrs["site"] == "mlp_out"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean": "a"}, "clean, corrupt, answer and wrong must be given together"),
        ({**PAIR, "pairs": Path("x.jsonl")}, "and without pairs"),
        ({"top": 0}, "top must be at least 1"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Patch(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"answer": "Oak Elm"}, r"answer must be one token; in pair 1 'Oak Elm' is 4: \['Oak', ' E', 'l', 'm'\]"),
        ({"corrupt": "-Oak\n-Ash\n"}, "must have the same number of tokens; in pair 1 they have"),
        ({"corrupt": PAIR["clean"]}, "clean and corrupt must differ; in pair 1"),
        ({"wrong": PAIR["answer"]}, "answer and wrong must be different tokens"),
    ],
)
def test_pairs_that_cannot_be_patched_are_refused(runner: Runner, changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Patch(**(PAIR | changes)).run(runner)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold one pair at least"),
        ("{", "line 1, is not JSON"),
        ('{"clean": "a"}', "line 1, must hold clean, corrupt, answer, wrong as text"),
    ],
)
def test_bad_files_are_refused(runner: Runner, tmp_path: Path, text: str, words: str):
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        Patch(pairs=file).run(runner)
    with pytest.raises(InputError, match="cannot be read"):
        Patch(pairs=tmp_path / "nowhere").run(runner)
