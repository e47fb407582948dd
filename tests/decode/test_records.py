"""Log-probability records: the recorded file, OpenAI's form, odd text, and what is no record."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mechlist.decode.records import (
    MOST_BYTES,
    Alternative,
    Record,
    RecordedToken,
    from_openai,
    read_records,
    records_table,
    records_text,
    to_json,
    to_openai,
)
from mechlist.errors import InputError
from tests.decode.test_tree_file import ODD


def record(*texts: str) -> Record:
    others = (Alternative("yes", math.log(0.5), 7), Alternative("<no>", math.log(0.25), 8))
    tokens = tuple(
        RecordedToken(text, math.log(0.25), others, token_id=i, rank=1, entropy=1.5) for i, text in enumerate(texts)
    )
    return Record("Say <b>\u202e", "".join(texts), tokens)


def write(file: Path, value: Any) -> Path:
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


def test_the_recorded_file_is_read(shared: Path):
    file = shared / "recorded" / "logprobs_gemma2.jsonl"
    records, given = read_records(file), [json.loads(line) for line in file.read_text().splitlines()]
    assert [len(r.tokens) for r in records] == [247, 15, 15, 16, 684]
    for one, value in zip(records, given, strict=True):
        assert "".join(t.token for t in one.tokens).removesuffix("<end_of_turn>") == one.response == value["response"]
        mean = sum(t["logprob"] for t in value["data"]) / len(value["data"])
        assert one.perplexity == pytest.approx(math.exp(-mean))
        again = to_json(one)
        assert [t["prob"] for t in again["data"]] == pytest.approx([t["prob"] for t in value["data"]])
        assert [[o["token"] for o in t["other_tokens"]] for t in again["data"]] == [
            [o["token"] for o in t["other_tokens"]] for t in value["data"]
        ]
    # The model was greedy: what was not its first choice was exactly as probable as the first.
    ranks = [t.known_rank for one in records for t in one.tokens]
    assert set(ranks) == {0}
    assert sum(t.alternatives[0].token != t.token for one in records for t in one.tokens) == 6


def test_records_are_written_and_read(tmp_path: Path):
    records = [record(*ODD), record("x")]
    lines = tmp_path / "records.jsonl"
    lines.write_text("".join(json.dumps(to_json(one)) + "\n" for one in records))
    assert read_records(lines) == records
    assert read_records(write(tmp_path / "records.json", [to_json(one) for one in records])) == records
    assert read_records(write(tmp_path / "one.json", to_json(records[0]))) == records[:1]
    assert [json.loads(line) for line in records_text(records).splitlines()] == [to_json(one) for one in records]


def test_text_stands_in_json_as_it_is():
    assert "<script>" in records_text([record("<script>", "\U0001f600")])
    assert "\U0001f600" in records_text([record("<script>", "\U0001f600")])


def test_openai_responses_are_written_and_read(tmp_path: Path):
    plain = Record("p", "a b", tuple(RecordedToken(t, -0.5, (Alternative("c", -1.0),)) for t in ("a", " b")))
    value = to_openai(plain, "model")
    assert value["choices"][0]["logprobs"]["content"][1] == {
        "token": " b",
        "logprob": -0.5,
        "bytes": [32, 98],
        "top_logprobs": [{"token": "c", "logprob": -1.0, "bytes": [99]}],
    }
    assert read_records(write(tmp_path / "openai.json", value)) == [plain]
    # Bytes that are text by themselves say what a token is; a piece of a character keeps the text it was given.
    for token in value["choices"][0]["logprobs"]["content"]:
        token |= {"token": "\\xe2\\x82\\xac", "bytes": [0xE2, 0x82, 0xAC]}
    assert [t.token for t in from_openai(value)[0].tokens] == ["€", "€"]
    value["choices"][0]["logprobs"]["content"][0] = {"token": "\\xe2", "logprob": -0.5, "bytes": [0xE2]}
    assert from_openai(value)[0].tokens[0] == RecordedToken("\\xe2", -0.5)


def test_older_openai_completions_are_read():
    told = {
        "tokens": ["The", " end"],
        "token_logprobs": [None, -1.5],
        "top_logprobs": [None, {" start": -0.3, " end": -1.5}],
    }
    (found,) = from_openai({"choices": [{"text": "The end", "logprobs": told}]})
    assert found.response == "The end"
    assert [(t.token, t.log_prob, t.known_rank) for t in found.tokens] == [(" end", -1.5, 1)]
    assert [a.token for a in found.tokens[0].alternatives] == [" start", " end"]


def test_ranks_of_alternatives_are_a_lower_bound():
    others = (Alternative("a", -0.5), Alternative("b", -0.5), Alternative("c", -3.0))
    assert RecordedToken("b", -0.5000001, others).known_rank == 0
    assert RecordedToken("c", -3.0, others).known_rank == 2
    assert RecordedToken("d", -4.0, others).known_rank == 3
    assert RecordedToken("d", -4.0, others, rank=12).known_rank == 12
    assert math.isnan(Record("p", "", ()).perplexity)


def test_the_table_has_a_row_a_token():
    table = records_table([record("<script>", "\0"), record("x")])
    assert table["token"].tolist() == ["<script>", "\\x00", "x"]
    assert table["record"].tolist() == [0, 0, 1]
    assert table["alternatives"].tolist()[0] == "yes 0.500, <no> 0.250"
    assert len(records_table([Record("p", "", ())])) == 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "must hold one record at least, and holds none"),
        ([3], "entry 1 is no record of log-probabilities: a record must be a mapping, not int"),
        ({"prompt": "x"}, "a record must have 'data'; it has prompt"),
        ({"data": []}, "a record must have 'prompt'; it has data"),
        ({"prompt": "x", "data": "y"}, "'data' of a record must be list, not str"),
        ({"prompt": "x", "data": [{}]}, "token 0 must have 'token'; it has nothing"),
        (
            {"prompt": "x", "data": [{"token": "a", "logprob": "b"}]},
            "of token 0 must be int or float, not str",
        ),
        ({"prompt": "x", "data": [{"token": "a", "logprob": 0.5}]}, "logarithm of a probability, at most 0, not 0.5"),
        ({"prompt": "x", "data": [{"token": "a", "logprob": math.nan}]}, "at most 0, not nan"),
        ({"metadata": {}, "tree": {}}, "a record must have 'data'; it has metadata, tree"),
        ({"choices": [{"text": "x", "logprobs": None}]}, "'logprobs' of choice 0 must be dict, not NoneType"),
        ({"choices": [{"logprobs": {"tokens": ["a"]}}]}, "choice 0 must have 'token_logprobs'; it has tokens"),
        ({"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": []}}]}, "of choice 0 must be equally long"),
        ('{"prompt": "x", "data": []}\n{"prompt": "x"', "records.json is cut off or not JSON, in line 2"),
        ('{"prompt": "x", "data": []}\n{"prompt": "x"}', "records.json, line 2 is no record"),
        ("hello", "records.json is cut off or not JSON: Expecting value"),
    ],
)
def test_what_is_no_record_is_refused(value: Any, words: str, tmp_path: Path):
    with pytest.raises(InputError, match=words):
        read_records(write(tmp_path / "records.json", value))


def test_files_that_are_too_large_are_refused(tmp_path: Path):
    file = tmp_path / "records.jsonl"
    with file.open("wb") as large:
        large.truncate(2 * MOST_BYTES)
    with pytest.raises(InputError, match="has 200 MB, and a file of records is read up to 100 MB: take a part of it"):
        read_records(file)
