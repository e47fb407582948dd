"""Files of recorded lists: what is read, and every fault by its sentence."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.recorded import (
    RecordedLists,
    _check_kept,
    read_recorded,
    recorded_files,
    recorded_json,
)
from mechlist.errors import InputError

SPECIAL = {"hyphen": 1, "line_break": 2, "end_of_turn": 3, "blank": 4, "bos": 5, "eos": 6}
GOOD: dict[str, Any] = {
    "model": "m",
    "adjective": "short",
    "adjective_index": 1,
    "temperature": 0.7,
    "token_ids_of_interest": SPECIAL,
    "model_header": [8, 7],
    "topics": {"Rivers": [[5, 9, 8, 7, 1, 20, 2, 3], [5, 9, 8, 7]], "Books": [[8, 7, 1, 8, 7, 3]]},
}


def write(path: Path, value: Any) -> Path:
    file = path / "lists.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return file


def test_a_file_is_read(tmp_path: Path):
    recorded = read_recorded(write(tmp_path, GOOD))
    assert recorded == RecordedLists(
        model="m",
        adjective="short",
        adjective_index=1,
        temperature=0.7,
        tokens=ListTokens(**SPECIAL),
        model_header=(8, 7),
        topics=GOOD["topics"],
    )
    assert recorded.top_p is None
    assert [recorded.completion(ids) for ids in recorded.topics["Rivers"]] == [(1, 20, 2, 3), ()]
    assert recorded.completion(recorded.topics["Books"][0]) == (1, 8, 7, 3)


@pytest.mark.parametrize("adjective", ["", None])
def test_no_adjective_is_null_or_empty(tmp_path: Path, adjective: str | None):
    recorded = read_recorded(write(tmp_path, GOOD | {"adjective": adjective, "adjective_index": None}))
    assert (recorded.adjective, recorded.adjective_name) == ("", "none")
    assert json.loads(recorded_json(recorded))["adjective"] is None


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"adjective": "", "adjective_index": None, "temperature": None},
        {"top_p": 0.8, "max_new_tokens": 100, "temperature": 1},
        {"tokens": ListTokens(**SPECIAL | {"bos": None, "eos": 3})},
        {"adjective": "good"},
        {"topics": {'Sm"örgås\n': [[8, 7]], "é\u2028": [[8, 7, 1], [8, 7, 2]]}},
    ],
)
def test_what_is_written_is_read_back_equal(tmp_path: Path, change: dict[str, Any]):
    recorded = dataclasses.replace(read_recorded(write(tmp_path, GOOD)), **change)
    assert read_recorded(write(tmp_path, recorded_json(recorded))) == recorded


def test_what_would_be_written_back_must_be_what_was_read():
    given = {"adjective": "", "temperature": 0.7, "topics": {"A": [[1]]}, "note": "by hand"}
    written = {"adjective": None, "temperature": 0.7, "top_p": None, "topics": {"A": [[1]]}}
    _check_kept(given, written)
    for key, value, shown in (("temperature", "0.7", '"0.7"'), ("temperature", 1, "1"), ("topics", {}, "{}")):
        with pytest.raises(InputError, match=rf"^{key} would be read as .*, and is {shown}: write it as it is read\.$"):
            _check_kept(given | {key: value}, written)


def test_the_recorded_files_are_read_and_written(shared: Path, tmp_path: Path):
    for file in recorded_files([shared / "recorded" / "lists"]):
        recorded = read_recorded(file)
        assert len(recorded.topics) == 23
        assert all(recorded.completion(ids)[0] == 235290 for lists in recorded.topics.values() for ids in lists)
        assert read_recorded(write(tmp_path, recorded_json(recorded))) == recorded
        written = json.loads(recorded_json(recorded))
        assert written == json.loads(file.read_text(encoding="utf-8"))


def test_keys_of_others_are_left_alone(tmp_path: Path):
    assert read_recorded(write(tmp_path, GOOD | {"note": "by hand"})).model == "m"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": 3}, "model must be the name of a model, not 3"),
        ({"adjective": "very long"}, "adjective must be one word, such as short or long, or null for none, not 'very "
         "long'"),
        ({"adjective": " long"}, "adjective must be one word, such as short or long, or null for none, not ' long'"),
        ({"adjective": "none"}, "adjective must be one word, such as short or long, or null for none, not 'none'"),
        ({"adjective": ["short"]}, "adjective must be one word, such as short or long, or null for none"),
        ({"adjective_index": -1}, "adjective_index must be a whole number of 0 or more, or null, not -1"),
        ({"adjective_index": True}, "adjective_index must be a whole number of 0 or more, or null, not true"),
        ({"temperature": "warm"}, 'temperature must be a number of 0 or more, or null, not "warm"'),
        ({"temperature": "0.7"}, 'temperature must be a number of 0 or more, or null, not "0.7"'),
        ({"temperature": 10**400}, "temperature must be a number of 0 or more, or null, not 1000000"),
        ({"max_new_tokens": 2**63}, "max_new_tokens must be a whole number of 0 or more, or null, not 92233"),
        ({"topics": {"A": [[8, 7, 2**63]]}}, "topic 'A', list 1: token ids are whole numbers of 0 or more"),
        ({"temperature": -0.5}, "temperature must be a number of 0 or more, or null, not -0.5"),
        ({"temperature": True}, "temperature must be a number"),
        ({"max_new_tokens": 9.5}, "max_new_tokens must be a whole number"),
        ({"model_header": []}, "model_header must be a list of one token id at least, not []"),
        ({"model_header": [8, "7"]}, "model_header must be a list"),
        ({"model_header": [7, 8]}, "topic 'Rivers', list 1: the model header [7, 8] is nowhere among the 8 tokens"),
        ({"token_ids_of_interest": [1]}, "token_ids_of_interest must be an object with hyphen, line_break"),
        ({"token_ids_of_interest": {"hyphen": 1}}, "it lacks line_break, end_of_turn, blank, bos, eos"),
        ({"token_ids_of_interest": SPECIAL | {"tab": 9}}, "and nothing else; it also has tab"),
        ({"token_ids_of_interest": SPECIAL | {"blank": -4}}, "blank must be a whole number of 0 or more, not -4"),
        ({"token_ids_of_interest": SPECIAL | {"blank": None}}, "blank must be a whole number of 0 or more, not null"),
        ({"token_ids_of_interest": SPECIAL | {"eos": 6.0}}, "eos must be a whole number of 0 or more or null, not 6.0"),
        ({"token_ids_of_interest": SPECIAL | {"blank": 1}}, "hyphen and blank must be different tokens; both are 1"),
        ({"token_ids_of_interest": SPECIAL | {"eos": 2}}, "eos and line_break must be different tokens; both are 2"),
        ({"topics": {}}, "topics must map one topic at least to lists of token ids, not an empty object"),
        ({"topics": [[1]]}, "topics must map one topic at least to lists of token ids, not a list"),
        ({"topics": {" ": [[8, 7]]}}, "a topic must have a name, not ' '"),
        ({"topics": {"Rivers": []}}, "topic 'Rivers' must hold one list of token ids at least, not an empty list"),
        ({"topics": {"Rivers": "x"}}, "topic 'Rivers' must hold one list of token ids at least"),
        ({"topics": {"Rivers": [[8, 7], 8]}}, "topic 'Rivers', list 2 must be a list of token ids, not 8"),
        ({"topics": {"Rivers": [[8, 7, -1]]}}, "topic 'Rivers', list 1: token ids are whole numbers of 0 or more; the "
         "one at 2 is -1"),
        ({"topics": {"A": [[8, 7]], "B": [[8, 7, 1.5]]}}, "topic 'B', list 1: token ids are whole numbers"),
        ({"topics": {"A": [[8, 7], [8, 9]]}}, "topic 'A', list 2: the model header [8, 7] is nowhere"),
        ({"topics": {"A": [[]]}}, "topic 'A', list 1: the model header [8, 7] is nowhere among the 0 tokens"),
        ({"token_ids_of_interest": SPECIAL | {"hyphen": 21}}, "the hyphen 21 must follow the model header, and does in "
         "none of the 3 lists: token_ids_of_interest may be those of another model"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_that_names_the_file(tmp_path: Path, change: dict[str, Any], text: str):
    file = write(tmp_path, GOOD | change)
    with pytest.raises(InputError, match=re.escape(text)) as caught:
        read_recorded(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_key_is_named(tmp_path: Path, key: str):
    with pytest.raises(InputError, match=f": {key} must be there; the file has "):
        read_recorded(write(tmp_path, {k: v for k, v in GOOD.items() if k != key}))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must hold an object with the keys model, .*not an empty list"),
        ('{"model": "a", "model": "b"}', "'model' stands twice"),
        ('{"temperature": NaN}', "NaN is no number that may stand in the file"),
        (json.dumps(GOOD).replace('"Books"', '"Rivers"'), "'Rivers' stands twice"),
        (json.dumps(GOOD).replace("0.7", "1e999"), "temperature must be a number of 0 or more, or null, not Infinity"),
    ],
)
def test_what_is_no_such_json(tmp_path: Path, text: str, fault: str):
    with pytest.raises(InputError, match=fault):
        read_recorded(write(tmp_path, text))


def test_what_cannot_be_read(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        read_recorded(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not JSON"):
        read_recorded(tmp_path / "bytes.json")


def test_a_directory_stands_for_its_files(tmp_path: Path):
    for name in ("b.json", "a.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    assert recorded_files([tmp_path]) == [tmp_path / "a.json", tmp_path / "b.json"]
    assert recorded_files([tmp_path / "notes.txt", tmp_path / "b.json"])[0].name == "notes.txt"
    with pytest.raises(InputError, match=r"a\.json is given twice"):
        recorded_files([tmp_path, tmp_path / "." / "a.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no \*\.json file"):
        recorded_files([tmp_path / "empty"])
    with pytest.raises(InputError, match="nowhere does not exist"):
        recorded_files([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"adjective_index": 2}, "adjective_index must be a place in the prompt; topic 'Rivers', list 1, has 2 tokens"),
        (
            {"topics": {"Rivers": [[5, 9, 8, 7, 1, 2, 3]], "Books": [[5, 10, 8, 7, 1, 3]]}},
            "the same token in all lists; at 1 topic 'Rivers', list 1, has 9, and topic 'Books', list 1, has 10",
        ),
        (
            {"topics": {"Rivers": [[5, 9, 8, 7, 1, 2, 3]], "Books": [[4, 9, 8, 7, 1, 3]]}},
            "BOS (5) must begin all lists or none; it begins topic 'Rivers', list 1, and not topic 'Books', list 1",
        ),
    ],
)
def test_places_must_fit_the_tokens(tmp_path: Path, change: dict[str, Any], fault: str):
    with pytest.raises(InputError, match=re.escape(fault)):
        read_recorded(write(tmp_path, GOOD | change))


def test_a_byte_order_mark_is_skipped(tmp_path: Path):
    assert read_recorded(write(tmp_path, "\ufeff" + json.dumps(GOOD))).model == "m"
