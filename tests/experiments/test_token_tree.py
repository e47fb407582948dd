"""token-tree and list-tree: trees in files and figures, importance, and decisions against whole passes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechlist.datasets.chat import chat_tokens, stop_tokens
from mechlist.decode.importance import leaf_importance
from mechlist.decode.tree import Candidate, TreeConfig, grow_tree
from mechlist.decode.tree_dataset import dataset_trees
from mechlist.decode.tree_file import read_tree, tree_text
from mechlist.decode.tree_model import grow_model_tree
from mechlist.engine.local import run_job
from mechlist.errors import InputError
from mechlist.experiments.list_tree.experiment import ListTree
from mechlist.experiments.list_tree.lists import made_list
from mechlist.experiments.token_tree.experiment import TokenTree
from mechlist.options import Output, Settings
from mechlist.report.assemble import write_report
from mechlist.results import load_dataset, save_dataset
from mechlist.runner import Runner, replace
from mechlist.runs import Job
from tests.decode.test_tree_file import ODD
from tests.experiments.lists_for_tests import write_recorded

SMALL: dict[str, Any] = {"max_depth": 8, "max_nodes": 60}


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


@pytest.fixture(scope="module")
def results(runner: Runner) -> xr.Dataset:
    return TokenTree(**SMALL, resample=3, resample_tokens=4, resample_choices=2).run(runner)


def test_the_tree_is_that_of_the_prompt(runner: Runner, results: xr.Dataset):
    prompt = TokenTree().prompt_of(runner, "")
    config = TreeConfig(**SMALL, stop_tokens=stop_tokens(runner.tokenizer))
    expected = grow_model_tree(runner, prompt.tokens, config, text=prompt.text + "-")
    found = dataset_trees(results)["tree"]
    assert [(n.parent, n.token_id) for n in found.nodes] == [(n.parent, n.token_id) for n in expected.nodes]
    assert found.config == config
    assert runner.tokenizer.decode(prompt.tokens[-1:]) == "-"


def test_results_survive_their_file(results: xr.Dataset, tmp_path: Path):
    save_dataset(results, tmp_path / "results.nc")
    again, asked = load_dataset(tmp_path / "results.nc"), TokenTree()
    assert dataset_trees(again) == dataset_trees(results)
    assert asked.findings(again) == asked.findings(results)
    assert asked.figures(again) == asked.figures(results)
    assert asked.files(again) == {"tree.json": tree_text(dataset_trees(results)["tree"])}
    assert asked.exhibits(again) == {"the tree": dataset_trees(results)["tree"]}
    (tmp_path / "tree.json").write_text(asked.files(again)["tree.json"])
    assert read_tree(tmp_path / "tree.json").nodes == dataset_trees(results)["tree"].nodes


def test_choices_have_their_importance(results: xr.Dataset):
    tree = dataset_trees(results)["tree"]
    expected = leaf_importance(tree)
    assert results["choice"].values.tolist() == [one.node for one in expected]
    assert results["importance"].values.tolist() == [one.spread.between for one in expected]
    drawn = np.isfinite(results["resampled_importance"].values)
    reached = sorted(expected, key=lambda one: -tree.nodes[one.node].log_prob)[:2]
    assert set(results["choice"].values[drawn]) == {one.node for one in reached}
    table = TokenTree().tables(results)["choices"]
    ordered = table["resampled_importance"].dropna().tolist()
    assert ordered == sorted(ordered, reverse=True)


def test_findings_speak_of_the_tree(results: xr.Dataset):
    tree = dataset_trees(results)["tree"]
    said = TokenTree().findings(results)
    assert said[0].startswith(f"The tree has {len(tree.nodes)} nodes and {len(tree.leaves)} leaves: ")
    assert f"{tree.mass.left:.3f} turned off the tree" in said[1]
    paths = TokenTree().tables(results)["paths"]
    assert len(paths) == len(tree.leaves)
    assert paths["log_prob"].is_monotonic_decreasing


def test_a_recorded_tree_takes_the_models_place(tmp_path: Path):
    def expand(paths: list[tuple[int, ...]]) -> list[list[Candidate]]:
        return [[Candidate(i, text, 1 / len(ODD)) for i, text in enumerate(ODD)] for _ in paths]

    config = TreeConfig(max_depth=2, min_branch_threshold=0.0, max_branch_threshold=0.01, max_nodes=40)
    tree = grow_tree(expand, config, prompt="<b>" + "".join(ODD))
    file = tmp_path / "tree.json"
    file.write_text(tree_text(tree))
    directory = run_job(Job("token-tree", TokenTree(recorded=file), Settings()), tmp_path / "run", Output())
    assert dataset_trees(load_dataset(directory.results))["tree"].nodes == tree.nodes
    report = write_report(directory.path).read_text()
    assert "<script>alert(1)" not in report
    assert "\u202e" not in report
    written = json.loads((directory.path / "exports" / "tree.json").read_text())
    assert [child["text"] for child in written["tree"]["children"]] == list(ODD)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_branch_threshold": 0.7}, "min_branch_threshold and max_branch_threshold must be from 0 to 1"),
        ({"resample": 1}, "resample must be 0, or 2 and more, not 1"),
        ({"top": 0}, "top must be at least 1, not 0"),
        ({"recorded": Path("x"), "prompt": "y"}, "recorded takes the place of prompt"),
    ],
)
def test_bad_flags_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        TokenTree(**changes)


HEADS = ("L1H0", "4.5")


@pytest.fixture(scope="module")
def decided(runner: Runner) -> xr.Dataset:
    return ListTree(item=4, heads=HEADS, branch_threshold=0.05, max_depth=3).run(runner)


def probabilities(runner: Runner, tokens: list[int]) -> np.ndarray:
    return runner.logits([tokens])[0, -1].double().softmax(0).numpy()


def slow_decisions(runner: Runner, tokens: list[int], last: int, line_break: int) -> list[float]:
    special = made_list(runner.tokenizer, "Fruits", "short", 1, filler=False).special
    behind, at_break = probabilities(runner, tokens[: last + 1]), probabilities(runner, tokens[: line_break + 1])
    end = at_break[special.end_of_turn] + at_break[special.eos or 0]
    return [behind[special.blank], end, at_break[special.hyphen]]


def test_decisions_are_those_of_whole_passes(runner: Runner, decided: xr.Dataset):
    one = made_list(runner.tokenizer, "Fruits", "short", 4, filler=False)
    request = "Provide me with a {} list of Fruits. Just provide the names, no need for any other information."
    lines = runner.tokenizer.decode(one.tokens[one.start :])
    assert one.tokens == chat_tokens(runner.tokenizer, request.format("short"), lines)
    other = one.swapped()
    assert other.tokens == chat_tokens(runner.tokenizer, request.format("long"), lines)
    assert len(one.places) == 4
    for item, (last, line_break) in enumerate(one.places, start=1):
        for condition, tokens in (("as written", one.tokens), ("adjective swapped", other.tokens)):
            found = decided.sel(condition=condition, item=item)
            expected = slow_decisions(runner, list(tokens), last, line_break)
            assert [float(found[n]) for n in ("filler", "end", "next_item")] == pytest.approx(expected, abs=1e-5)


def test_patched_heads_have_the_output_of_the_other_adjective(runner: Runner, decided: xr.Dataset):
    one = made_list(runner.tokenizer, "Fruits", "short", 4, filler=False)
    hooks = {(1, 0): "blocks.1.attn.hook_z", (4, 5): "blocks.4.attn.hook_z"}
    kept = runner.capture([list(one.swapped().tokens)], *hooks.values())
    changes = [replace(hook, kept[hook][:, :, [head]], heads=[head]) for (_, head), hook in hooks.items()]
    with runner.intervene(*changes):
        logits = runner.logits([list(one.tokens)])[0]
    _, line_break = one.places[-1]
    expected = float(logits[line_break].double().softmax(0)[one.special.hyphen])
    assert float(decided["next_item"].sel(condition="heads patched")[-1]) == pytest.approx(expected, abs=1e-5)
    trees = dataset_trees(decided)
    hyphen = next(n for n in trees["heads patched"].nodes if n.token_id == one.special.hyphen)
    assert hyphen.prob == pytest.approx(expected, abs=1e-5)
    assert float(decided["filler"].sel(condition="heads patched")[-1]) != pytest.approx(
        float(decided["filler"].sel(condition="as written")[-1]), abs=1e-4
    )


def test_trees_stand_side_by_side(decided: xr.Dataset, tmp_path: Path):
    trees = dataset_trees(decided)
    assert list(trees) == ["as written", "adjective swapped", "heads patched"]
    for condition, tree in trees.items():
        children = {tree.nodes[c].text: tree.nodes[c].prob for c in tree.nodes[0].children}
        told = float(decided["next_item"].sel(condition=condition)[-1])
        assert children["-"] == pytest.approx(told, abs=1e-5)
        assert max(node.depth for node in tree.nodes) <= 3
    figures: Any = ListTree().figures(decided)
    assert [t for t in figures["trees"].data[2].text if "patched" in t or "written" in t or "swapped" in t] == [
        "as written",
        "adjective swapped",
        "L1H0 and L4H5 patched",
    ]
    assert set(figures) == {"trees", "decisions", "along-filler", "along-end", "along-next-item"}
    save_dataset(decided, tmp_path / "results.nc")
    again = load_dataset(tmp_path / "results.nc")
    assert ListTree().findings(again) == ListTree().findings(decided)
    assert set(ListTree().files(again)) == {"as-written.json", "adjective-swapped.json", "heads-patched.json"}
    said = ListTree().findings(decided)
    assert said[0].startswith("Behind item 4 of the list of Fruits, asked for as a short list: P(filler) = ")
    assert said[2].startswith("L1H0 and L4H5 patched: P(filler) = ")


def test_a_filler_stands_before_the_line_break(runner: Runner):
    plain, filled = (made_list(runner.tokenizer, "Fruits", "short", 3, filler=f) for f in (False, True))
    assert len(filled.tokens) == len(plain.tokens) + 1
    assert filled.places[-1] == (plain.places[-1][0], plain.places[-1][1] + 1)
    assert filled.tokens[filled.places[-1][0] + 1] == filled.special.blank


def test_a_recorded_list_is_read(runner: Runner, tmp_path: Path):
    folder = write_recorded(runner, tmp_path / "recorded")
    asked = ListTree(recorded=folder / "short.json", topic="Fruits", item=2, at="item", max_depth=2)
    results = asked.run(runner)
    tree = dataset_trees(results)["as written"]
    assert tree.prompt == "-Apple\n-Banana"
    assert math.isclose(float(results["filler"].sel(condition="as written")[-1]), _blank(tree), abs_tol=1e-5)
    with pytest.raises(InputError, match="item must be at most 3, the items of this list, not 9"):
        ListTree(recorded=folder / "short.json", topic="Fruits", item=9).run(runner)
    with pytest.raises(InputError, match="number must be from 1 to 2, the recorded lists of 'Fruits', not 3"):
        ListTree(recorded=folder / "short.json", topic="Fruits", number=3).run(runner)
    with pytest.raises(InputError, match="topic must be one of Fruits, Ocean"):
        ListTree(recorded=folder / "short.json", topic="Sports").run(runner)


def _blank(tree: Any) -> float:
    return next(float(c.prob) for c in tree.nodes[0].candidates if c.text == " ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"item": 0}, "item must be at least 1, not 0"),
        ({"branch_threshold": 0}, "branch_threshold must be above 0 and at most 1, not 0"),
        ({"number": 2}, "number is of recorded lists, and none are given"),
        ({"adjective": "none", "heads": ("L1H0",)}, "heads are patched from the other adjective, which 'none' has not"),
        ({"recorded": Path("x"), "filler": True}, "filler is of a list that is made"),
    ],
)
def test_bad_flags_of_list_tree_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        ListTree(**changes)


@pytest.mark.parametrize("heads", [("L9H0",), ("x",), ("L1H0", "1.0"), ("L1H99",)])
def test_heads_that_there_are_not_are_refused(runner: Runner, heads: tuple[str, ...]):
    with pytest.raises(InputError, match=r"heads must (be from L0H0 to L5H7, not|hold each head once, not)"):
        ListTree(heads=heads).run(runner)


def test_more_items_than_there_are_are_refused(runner: Runner):
    with pytest.raises(InputError, match="item must be at most 5, the items of 'Ocean' that are known, not 9"):
        ListTree(topic="Ocean", item=9).run(runner)
    with pytest.raises(InputError, match="There is no topic 'Frits' among the"):
        ListTree(topic="Frits").run(runner)
