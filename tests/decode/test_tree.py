"""Token trees: the algorithm on hand-made distributions, and the recorded trees grown again."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from mechlist.decode.tree import Candidate, Expand, TokenPath, Tree, TreeConfig, grow_tree
from mechlist.decode.tree_file import read_tree, replay, tree_from_json, tree_text
from mechlist.errors import InputError

STOP = 9
RECORDED = {"india_capital": (174, 5), "roses_violets": (513, 12), "honest_opinion": (2626, 94)}
"""Nodes of the recorded trees, and how many of their greedy choices were between equals."""


def by_table(table: dict[TokenPath, dict[int, float]]) -> Expand:
    """Candidates from a table of probabilities; paths that are not in it have none."""

    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        return [[Candidate(t, f"<{t}>", p) for t, p in table.get(path, {}).items()] for path in paths]

    return expand


def endless(*probs: float) -> Expand:
    """The same candidates everywhere: tokens 1, 2, ... with these probabilities."""
    return lambda paths: [[Candidate(i, f"<{i}>", p) for i, p in enumerate(probs, start=1)] for _ in paths]


def shape(tree: Tree) -> list[tuple[TokenPath, bool]]:
    return [(tree.tokens(i), node.is_finished) for i, node in enumerate(tree.nodes)]


def config(**changes: object) -> TreeConfig:
    return dataclasses.replace(TreeConfig(stop_tokens=(STOP,)), **changes)  # pyright: ignore[reportArgumentType]


def test_the_threshold_counts_the_queue_before_the_pop():
    # One path waits: .1 + 1/30 * .4 = .11333; the third is below it, the second above.
    tree = grow_tree(by_table({(): {1: 0.5, 2: 0.114, 3: 0.113}}), config())
    assert shape(tree) == [((), False), ((1,), False), ((2,), False)]
    assert config().threshold(1) == 0.1 + 1 / 30 * (0.5 - 0.1)
    assert config().threshold(30) == config().threshold(300) == 0.5


def test_a_branch_must_be_above_the_threshold_and_not_at_it():
    at = config(min_branch_threshold=0.25, max_branch_threshold=0.25)
    tree = grow_tree(by_table({(): {1: 0.5, 2: 0.25}}), at)
    assert shape(tree) == [((), False), ((1,), False)]


def test_the_queue_grows_and_thresholds_rise():
    # Two paths wait when <1> is taken out: its threshold is .1 + 2/30 * .4 = .12667, and one is left for <2>: .11333.
    table = {(): {1: 0.5, 2: 0.4}, (1,): {3: 0.6, 4: 0.12}, (2,): {3: 0.6, 4: 0.12}}
    tree = grow_tree(by_table(table), config(max_depth=2))
    assert shape(tree)[3:] == [((1, 3), False), ((2, 3), False)]
    # Behind the first, <1 3> waits too: two again.
    table[(1,)] = {}
    tree = grow_tree(by_table(table), config(max_depth=2))
    assert shape(tree)[3:] == [((2, 3), False), ((2, 4), False)]


def test_without_a_branch_the_most_probable_token_goes_on():
    tree = grow_tree(by_table({(): {5: 0.05, 7: 0.09, 6: 0.09}}), config())
    # Among equals the order given is kept.
    assert shape(tree) == [((), False), ((7,), False)]
    assert [c.token_id for c in tree.nodes[0].candidates] == [7, 6, 5]


def test_candidates_are_ten_at_most_and_above_their_threshold():
    probs = {i: 0.05 - i / 1000 for i in range(12)} | {20: 0.01, 21: 0.3}
    tree = grow_tree(by_table({(): probs}), config())
    assert [c.token_id for c in tree.nodes[0].candidates] == [21, *range(9)]
    tree = grow_tree(by_table({(): {1: 0.01, 2: 0.3, 3: 0.010001}}), config())
    assert [c.token_id for c in tree.nodes[0].candidates] == [2, 3]


def test_paths_complete_first_come_first_served():
    table: dict[TokenPath, dict[int, float]] = {
        (): {1: 0.5, STOP: 0.3},
        (1,): {2: 0.9},
        (1, 2): {STOP: 0.9},
        (1, 2, 3): {STOP: 0.9},
    }
    tree = grow_tree(by_table(table), config(max_completed_paths=1))
    assert shape(tree) == [((), False), ((1,), False), ((STOP,), True), ((1, 2), False)]
    tree = grow_tree(by_table(table), config(max_completed_paths=2))
    assert shape(tree)[-1] == ((1, 2, STOP), True)
    # What waits when the tree is done is not finished, even if it ends with a stop token.
    table[(1,)] = {2: 0.5, STOP: 0.4}
    tree = grow_tree(by_table(table), config(max_completed_paths=1))
    assert ((1, STOP), False) in shape(tree)


def test_depth_is_looked_at_before_the_stop_token():
    tree = grow_tree(by_table({(): {STOP: 0.9}}), config(max_depth=1))
    assert shape(tree) == [((), False), ((STOP,), False)]
    asked: list[TokenPath] = []

    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        asked.extend(paths)
        return endless(0.9)(paths)

    assert len(grow_tree(expand, config(max_depth=3)).nodes) == 4
    assert asked == [(), (1,), (1, 1)]


def test_an_empty_list_is_a_leaf_that_is_not_finished():
    tree = grow_tree(by_table({}), config())
    assert shape(tree) == [((), False)]
    assert tree.nodes[0].is_open
    assert tree.mass.open == 1.0


@pytest.mark.parametrize("order", ["breadth", "best"])
def test_the_tree_does_not_depend_on_the_batch(order: str):
    expand = endless(0.45, 0.3, 0.2)
    grown = [grow_tree(expand, config(order=order, max_depth=12), batch=batch) for batch in (1, 2, 7, 64, 1000)]
    assert all(tree == grown[0] for tree in grown)
    assert len(grown[0].nodes) > 150


def test_a_level_is_asked_for_at_once():
    calls: list[list[TokenPath]] = []

    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        calls.append(paths)
        return endless(0.4, 0.3)(paths)

    grow_tree(expand, config(max_depth=3))
    assert [len(paths) for paths in calls] == [1, 2, 4]


def test_the_most_probable_path_first():
    ended: dict[TokenPath, dict[int, float]] = {
        (): {1: 0.7, 2: 0.3},
        (1,): {3: 1.0},
        (1, 3): {STOP: 1.0},
        (2,): {STOP: 1.0},
    }
    short, likely = (grow_tree(by_table(ended), config(order=o, max_completed_paths=1)) for o in ("breadth", "best"))
    assert [tree.tokens(i) for tree in (short, likely) for i in tree.leaves if tree.nodes[i].is_finished] == [
        (2, STOP),
        (1, 3, STOP),
    ]


def test_log_probabilities_do_not_underflow():
    tree = grow_tree(endless(1e-3), config(max_depth=400))
    assert tree.nodes[-1].log_prob == pytest.approx(400 * math.log(1e-3))
    assert tree.to_json()["tree"]["children"][0]["cumulative_prob"] == pytest.approx(1e-3)
    assert tree.mass.open == 0.0


def test_mass_adds_up():
    table = {(): {1: 0.6, 2: 0.2}, (1,): {STOP: 0.5, 3: 0.25}}
    mass = grow_tree(by_table(table), config(max_completed_paths=1)).mass
    assert (mass.finished, mass.open) == pytest.approx((0.3, 0.2 + 0.15))
    assert mass.left == pytest.approx(1 - 0.3 - 0.35)


def test_equal_continuations_merge():
    texts = {1: "a", 2: "b", 3: "ab", 4: "c"}
    table = {(): {3: 0.5, 1: 0.4}, (3,): {4: 1.0}, (1,): {2: 1.0}, (1, 2): {4: 1.0}, (3, 4): {}, (1, 2, 4): {}}

    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        return [[Candidate(t, texts[t], p) for t, p in table[path].items()] for path in paths]

    tree = grow_tree(expand, config(merge=True))
    assert [path for path, _ in shape(tree)] == [(), (3,), (1,), (3, 4), (1, 2)]
    assert tree.nodes[4].merged_into == 1
    assert tree.mass.merged == pytest.approx(0.4)
    assert len(grow_tree(expand, config()).nodes) == 6
    assert tree_from_json(json.loads(tree_text(tree))) == tree


def test_a_token_without_text_is_no_other_way_to_its_parent():
    table = {(): {1: 1.0}, (1,): {2: 1.0}, (1, 2): {}}

    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        return [[Candidate(t, "", p) for t, p in table[path].items()] for path in paths]

    assert all(node.merged_into is None for node in grow_tree(expand, config(merge=True)).nodes)


def test_the_compact_view_draws_a_chain_as_one_edge():
    table = {(): {1: 0.6, 2: 0.4}, (1,): {3: 0.9}, (1, 3): {4: 0.5, 5: 0.5}, (2,): {6: 0.9}, (2, 6): {}}
    tree = grow_tree(by_table(table), config())
    found = [([tree.nodes[n].token_id for n in s.nodes], s.parent, s.children) for s in tree.segments()]
    assert found == [
        ([None], None, (1, 2)),
        ([1, 3], 0, (3, 4)),
        ([2, 6], 0, ()),
        ([4], 1, ()),
        ([5], 1, ()),
    ]
    assert sorted(n for s in tree.segments() for n in s.nodes) == list(range(len(tree.nodes)))


def test_json_has_the_recorded_form():
    value = grow_tree(by_table({(): {1: 0.5, 2: 0.3}}), config(), prompt="Say <b>").to_json()
    assert value["metadata"]["prompt"] == "Say <b>"
    assert value["metadata"]["parameters"]["stop_tokens"] == [STOP]
    root = value["tree"]
    assert (root["text"], root["prob"], root["token_id"], root["depth"]) == ("Say <b>", 1.0, None, 0)
    assert root["candidates"] == [
        {"text": "<1>", "prob": 0.5, "token_id": 1},
        {"text": "<2>", "prob": 0.3, "token_id": 2},
    ]
    child = root["children"][1]
    assert set(child) == {*root, "children"}
    assert (child["text"], child["prob"], child["cumulative_prob"]) == ("<2>", 0.3, pytest.approx(0.3))
    assert (child["log_prob"], child["is_finished"]) == (pytest.approx(math.log(0.3)), False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_branch_threshold": 0.6}, "must be from 0 to 1, the first not above the second, not 0.6 and 0.5"),
        ({"max_branch_threshold": 1.2}, "must be from 0 to 1, the first not above the second, not 0.1 and 1.2"),
        ({"candidate_threshold": -0.1}, "candidate_threshold must be from 0 to 1, not -0.1"),
        ({"soft_queue_limit": 0}, "soft_queue_limit must be at least 1, not 0"),
        ({"max_depth": 0}, "max_depth must be at least 1, not 0"),
        ({"max_completed_paths": 0}, "max_completed_paths must be at least 1, not 0"),
        ({"max_nodes": 0}, "max_nodes must be at least 1, not 0"),
    ],
)
def test_bad_limits_are_refused(changes: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        config(**changes)


@pytest.mark.parametrize("wrong", [1.1, -0.2, math.nan])
def test_what_is_no_probability_is_refused(wrong: float):
    with pytest.raises(InputError, match="expand must give probabilities from 0 to 1"):
        grow_tree(by_table({(): {1: wrong}}), config())


def test_one_list_a_path_is_needed():
    with pytest.raises(InputError, match="one list for each of the 1 paths, not 0"):
        grow_tree(lambda paths: [], config())
    with pytest.raises(InputError, match="batch must be at least 1, not 0"):
        grow_tree(by_table({}), config(), batch=0)


@pytest.fixture(params=list(RECORDED))
def recorded(request: pytest.FixtureRequest, shared: Path) -> tuple[str, Tree]:
    return request.param, read_tree(shared / "recorded" / "trees" / f"{request.param}_tree.json")


def test_recorded_trees_grow_again(recorded: tuple[str, Tree]):
    name, tree = recorded
    nodes, ties = RECORDED[name]
    asked = dataclasses.replace(tree.config, stop_tokens=(1, 107))
    again = grow_tree(replay(tree), asked, prompt=tree.prompt)
    assert len(tree.nodes) == nodes
    assert shape(again) == shape(tree)
    taken = [dataclasses.replace(node, candidates=()) for node in tree.nodes]
    assert [dataclasses.replace(node, candidates=()) for node in again.nodes] == taken
    assert grow_tree(replay(tree), asked, prompt=tree.prompt, batch=1) == again
    # Half-precision probabilities are often equal: there the recorded choice decides, and nowhere else.
    tied = 0
    for node in tree.nodes:
        if len(node.children) == 1:
            own = round(tree.nodes[node.children[0]].prob, 4)
            tied += sum(round(c.prob, 4) == own for c in node.candidates) > 1
    assert tied == ties


def test_recorded_probabilities_are_read_as_they_are(recorded: tuple[str, Tree], shared: Path):
    name, tree = recorded
    value = json.loads((shared / "recorded" / "trees" / f"{name}_tree.json").read_text())
    waiting, number = [value["tree"]], 0
    while waiting:
        node = waiting.pop(0)
        assert math.exp(tree.nodes[number].log_prob) == pytest.approx(node["cumulative_prob"], abs=1e-5)
        assert tree.nodes[number].text == node["text"]
        waiting += node["children"]
        number += 1
    assert number == len(tree.nodes)
