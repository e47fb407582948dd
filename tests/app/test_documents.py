import base64
import json

import pytest

from mechlist.app.documents import KEPT, MOST_BYTES, MOST_UPLOADED, Shelf, open_path, open_text, open_upload
from mechlist.decode.records import Record, records_text, to_json
from mechlist.decode.tree import Tree
from mechlist.decode.tree_file import tree_text
from mechlist.errors import InputError


def upload(content: bytes) -> str:
    return "data:application/json;base64," + base64.b64encode(content).decode()


def test_trees_and_records_are_told_apart(odd_tree, odd_record, tmp_path):
    (tree,) = open_text(tree_text(odd_tree), "t").exhibits.values()
    assert isinstance(tree, Tree)
    assert tree.nodes == odd_tree.nodes
    lines = records_text([odd_record, odd_record])
    (tmp_path / "r.jsonl").write_text(lines, encoding="utf-8")
    found = open_path(str(tmp_path / "r.jsonl")).exhibits
    assert list(found) == ["response 1", "response 2"]
    assert found["response 2"] == odd_record
    uploaded = open_upload(upload(json.dumps(to_json(odd_record)).encode()), "one.json").exhibits["response 1"]
    assert isinstance(uploaded, Record)
    assert uploaded == odd_record


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("not JSON", "it is cut off or not JSON"),
        ("[1, 2", "it is cut off or not JSON"),
        ('{"a": 1}', "it is no record of log-probabilities: a record must have 'data'"),
        ('{"metadata": {"prompt": "p"}, "tree": {"text": "x"', "it is cut off or not JSON"),
        ('{"metadata": {"prompt": "p"}, "tree": {"text": "x"}}', "it is not a token tree: the root must have 'prob'"),
        ('{"metadata": {"prompt": "p"}}', "it is not a token tree: the file must have 'tree'"),
        (
            '{"metadata": {"prompt": "p", "parameters": {"min_branch_threshold": 0.5, "max_branch_threshold": 0.1}}, '
            '"tree": {"text": "", "prob": 1, "children": []}}',
            "the first not above the second, not 0.5 and 0.1",
        ),
        ('{"prompt": "p", "data": [{"token": "a", "logprob": 3}]}', "must be a logarithm of a probability"),
    ],
)
def test_what_is_no_document_is_said_in_a_sentence(text, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        open_text(text, "it")


def test_the_older_format_is_read():
    value = {"metadata": {"prompt": "p", "parameters": {"branching_threshold": 0.2}}}
    value |= {"tree": {"text": "", "prob": 1, "children": [{"text": "a", "prob": 0.5, "token_id": 3, "children": []}]}}
    tree = open_text(json.dumps(value), "old").exhibits["tree"]
    assert isinstance(tree, Tree)
    assert tree.config.min_branch_threshold == tree.config.max_branch_threshold == 0.2


def test_large_files_are_refused_before_they_are_read(tmp_path):
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(2 * MOST_BYTES)
    with pytest.raises(InputError, match="has 200 MB, and a file of records or a tree is read up to 100 MB"):
        open_path(str(large))
    with pytest.raises(InputError, match="big has 38 MB, and an upload is read up to 30 MB: give its path"):
        open_upload("data:;base64," + "A" * (MOST_UPLOADED * 4 // 3 + 10**7), "big")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (upload(b"\xff\xfe\x00"), r"bad.json is not text in UTF-8 \(byte 0 is not\)"),
        (upload(b"<html>"), "bad.json is cut off or not JSON"),
        ("data:;base64,$$$", "arrived damaged"),
        ("", "bad.json is empty"),
    ],
)
def test_bad_uploads_are_said(contents, words):
    with pytest.raises(InputError, match=words):
        open_upload(contents, "bad.json")


def test_paths_that_lead_nowhere_are_said(tmp_path):
    for path, words in (
        ("  ", "Give the path"),
        (str(tmp_path / "x.json"), "cannot be read"),
        (str(tmp_path), "config.yaml cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            open_path(path)


def test_the_shelf_forgets_what_was_not_looked_at():
    shelf = Shelf()
    first, *others = [shelf.put(n) for n in range(KEPT)]
    assert shelf.get(first, int) == 0
    shelf.put(KEPT)
    assert shelf.get(first, int) == 0
    for key in (others[0], None, "guess"):
        with pytest.raises(InputError, match="no longer open: open it again"):
            shelf.get(key, int)
    with pytest.raises(InputError, match="no longer open"):
        shelf.get(first, str)
