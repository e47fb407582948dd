"""Token trees in files: deep ones, odd text, older formats, and what is no tree."""

import json
from pathlib import Path
from typing import Any

import pytest

from mechlist.decode.tree import Candidate, TokenPath, TreeConfig, grow_tree
from mechlist.decode.tree_file import MOST_BYTES, read_tree, tree_from_json, tree_text
from mechlist.errors import InputError
from mechlist.text_files import parse_json

ODD = ("<script>alert(1)</script>", '"', "\\", "\0", "\u202eabc", "\U0001f600", "\ud83d", "\ufffd", "'", "\x1b[31m", "")


def chain(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {"text": "x", "prob": 0.5, "token_id": 1, "children": []}
    for _ in range(depth):
        node = {"text": "x", "prob": 0.5, "token_id": 1, "is_finished": False, "candidates": [], "children": [node]}
    return {"metadata": {"prompt": "p", "parameters": {}}, "tree": node | {"token_id": None}}


def test_deep_trees_are_written_and_read():
    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        return [[Candidate(1, "x", 0.9)] for _ in paths]

    tree = grow_tree(expand, TreeConfig(max_depth=5000))
    text = tree_text(tree)
    with pytest.raises(RecursionError):
        json.loads(text)
    again = tree_from_json(parse_json(text))
    assert again.nodes == tree.nodes
    assert again == tree


def test_odd_text_stays_itself(tmp_path: Path):
    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        return [[Candidate(i, text, 1 / len(ODD)) for i, text in enumerate(ODD)] for _ in paths]

    tree = grow_tree(
        expand, TreeConfig(max_depth=1, min_branch_threshold=0.0, max_branch_threshold=0.01), prompt="<i>\u2028"
    )
    assert json.loads(tree_text(tree)) == tree.to_json()
    file = tmp_path / "tree.json"
    file.write_text(json.dumps(tree.to_json()))
    assert read_tree(file) == tree
    assert [node.text for node in read_tree(file).nodes[1:]] == list(ODD)


def test_the_readers_of_json_agree():
    for text in (
        '{"a": [1, 2.5e3, true, null, {"b": "\\u20ac\\"]"}], "c": {}, "d": []}',
        "[]",
        '"x"',
        " 12 ",
        "[[[1]]]",
    ):
        from mechlist import text_files as json_file

        assert json_file._parse_deep(text) == json.loads(text)


@pytest.mark.parametrize(
    "text", ["[1, 2", '{"a" 1}', '{"a": 1,}x', "[1 2]", '{"a": }', "", "{1: 2}", '{"a": [tru]}', "[] x"]
)
def test_the_deep_reader_refuses_what_is_not_json(text: str):
    from mechlist import text_files as json_file

    with pytest.raises(ValueError, match=r"Expect|Extra"):
        json_file._parse_deep(text)


def test_the_older_format_is_read():
    value = chain(1)
    value["metadata"]["parameters"] = {"branching_threshold": 0.5, "candidate_threshold": 0.1, "max_depth": 50}
    del value["tree"]["candidates"]
    tree = tree_from_json(value)
    assert tree.config == TreeConfig(
        min_branch_threshold=0.5, max_branch_threshold=0.5, candidate_threshold=0.1, max_depth=50
    )
    assert len(tree.nodes) == 2


def without(name: str) -> dict[str, Any]:
    value = chain(1)
    del value["tree"]["children"][0][name]
    return value


def with_node(**changes: Any) -> dict[str, Any]:
    value = chain(1)
    value["tree"]["children"][0] |= changes
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "the file must be a mapping, not list"),
        ({"tree": {}}, "the file must have 'metadata'; it has tree"),
        ({"metadata": {}, "tree": {"text": "x"}}, "the root must have 'prob'; it has text"),
        (without("text"), "a child of the root must have 'text'; it has children, prob, token_id"),
        (with_node(prob=2), "'prob' of a child of the root must be from 0 to 1, not 2"),
        (with_node(prob="x"), "'prob' of a child of the root must be int or float, not str"),
        (with_node(token_id=None), "'token_id' of a child of the root must be int, not NoneType"),
        (with_node(token_id=True), "'token_id' of a child of the root must be int, not bool"),
        (with_node(children=3), "'children' of the node 'x' at depth 1 must be list, not int"),
        (with_node(children=["x"]), "a child of the node 'x' at depth 1 must be a mapping, not str"),
        (with_node(candidates=[{"text": "y"}]), "a candidate of a child of the root must have 'token_id'; it has text"),
        (with_node(merged_into=[5]), "the node 'x' at depth 1 is merged into a path that is not there"),
        ({"metadata": {"prompt": "p", "parameters": {"max_depth": "x"}}, "tree": chain(0)["tree"]}, "other types than"),
        ({"metadata": {"prompt": "p", "parameters": {"max_depth": 0}}, "tree": chain(0)["tree"]}, "max_depth must be"),
    ],
)
def test_what_is_no_tree_is_refused(value: Any, words: str, tmp_path: Path):
    file = tmp_path / "tree.json"
    file.write_text(json.dumps(value))
    with pytest.raises(InputError, match=f"tree.json is not a token tree: .*{words}"):
        read_tree(file)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path):
    file = tmp_path / "tree.json"
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        read_tree(file)
    file.write_text(json.dumps(chain(3))[:-40])
    with pytest.raises(InputError, match=r"tree\.json is cut off or not JSON: .*line 1 column"):
        read_tree(file)
    file.write_bytes(b'{"metadata": "\xff"}')
    with pytest.raises(InputError, match="is not text in UTF-8 \\(byte 14 is not\\)"):
        read_tree(file)
    with file.open("wb") as large:
        large.truncate(2 * MOST_BYTES)
    with pytest.raises(InputError, match="has 200 MB, and a tree is read up to 100 MB: take a part of it"):
        read_tree(file)
