import math

import pytest

from mechlist.app.response import Path, cannot_go_on, likeliest_leaf, record_of, routes
from mechlist.decode.records import Alternative, Record, RecordedToken, parse_records
from mechlist.errors import InputError
from mechlist.text_files import json_text


def record(*texts: str) -> Record:
    others = (Alternative("a", math.log(0.6)), Alternative("b", math.log(0.3)))
    return Record("p", "".join(texts), tuple(RecordedToken(text, math.log(0.6), others) for text in texts))


def other_way(_: Record, place: int, other: Alternative) -> Record:
    return record(*["a"] * place, other.token, "!")


def test_a_choice_starts_a_new_response_and_can_be_taken_back():
    first = Path.of(record("a", "a", "a"))
    second = first.chosen(1, 1, other_way)
    assert second.now.record.response == "ab!"
    assert second.now.said == "token 2: “b” in place of “a”"
    third = second.chosen(0, 1, other_way)
    assert [step.record.response for step in third.steps] == ["aaa", "ab!", "b!"]
    assert third.undone() == second
    assert third.at(0) == first
    assert first.undone() == first


def test_what_cannot_be_chosen_is_said():
    path = Path.of(record("a"))
    for place, number, words in ((1, 0, "none number 2"), (0, 2, "none number 3"), (0, 0, "stands there already")):
        with pytest.raises(InputError, match=words):
            path.chosen(place, number, other_way)
    with pytest.raises(InputError, match="only a model can write it: start the app with --model"):
        path.chosen(0, 1, cannot_go_on)


def test_a_download_is_a_record_with_its_choices():
    value = Path.of(record("a", "a")).chosen(1, 1, other_way).to_json()
    assert value["path"] == ["token 2: “b” in place of “a”"]
    (again,) = parse_records(json_text(value), "it")
    assert again.response == "ab!"


def test_a_tree_is_walked_along_its_branches(wide_tree):
    tree = wide_tree(40)
    leaf = likeliest_leaf(tree)
    shown = record_of(tree, leaf)
    assert shown.response == tree.text(leaf)
    assert [t.token for t in shown.tokens] == [tree.nodes[n].text for n in tree.path(leaf)]
    assert [a.token for a in shown.tokens[0].alternatives] == [" w0a", " w0b", " w0c"]
    other = Path.of(shown).chosen(0, 2, routes(tree)).now.record
    assert other.tokens[0].token == " w0c"
    assert other.response == tree.text(likeliest_leaf(tree, tree.nodes[0].children[2]))


def test_a_candidate_that_was_not_followed_is_no_way(wide_tree):
    tree = wide_tree(40)
    shown = record_of(tree, likeliest_leaf(tree))
    with pytest.raises(InputError, match="does not go on with “zebra”: it was a candidate that was not followed"):
        routes(tree)(shown, 0, Alternative("zebra", -1.0, 99))
