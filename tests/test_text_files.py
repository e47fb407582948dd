"""Files that people and other programs wrote."""

from pathlib import Path

import pytest

from mechlist.errors import InputError
from mechlist.text_files import TwiceError, json_lines, parse_json, parse_yaml, read_file


def test_a_byte_order_mark_is_skipped(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert parse_json(read_file(file, 100, "a file")) == {"a": 1}


def test_files_that_are_no_text_or_too_large(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match=r"is not text in UTF-8 \(byte 0 is not\)"):
        read_file(file, 100, "a file")
    with pytest.raises(InputError, match="a file is read up to 0 MB"):
        read_file(file, 1, "a file")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_file(tmp_path / "none", 1, "a file")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "c": 0, "a": 1}}]'])
def test_a_key_that_stands_twice_in_json(text: str):
    with pytest.raises(TwiceError, match="'a' stands twice"):
        parse_json(text)


def test_a_key_that_stands_twice_deep_in_json():
    deep = '{"b": ' * 5000 + '{"a": 1, "a": 2}' + "}" * 5000
    with pytest.raises(TwiceError, match="'a' stands twice"):
        parse_json(deep)


def test_lines_end_at_line_feeds_alone():
    text = '{"a": "x\u2028y\x85z"}\r\n\n{"a": "b"}\n'
    assert [(n, parse_json(line)) for n, line in json_lines(text)] == [(1, {"a": "x\u2028y\x85z"}), (3, {"a": "b"})]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3", "'a' stands twice"),
        ("steps:\n- {experiment: patch, site: z, site: k}", "'site' stands twice"),
        ("a: [", "in line 1"),
        ("a: '\a'", "unacceptable character"),
    ],
)
def test_faults_of_yaml(text: str, fault: str):
    with pytest.raises(ValueError, match=fault):
        parse_yaml(text)


def test_plain_yaml():
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: [1, '2', null]") == {"a": {"b": 1}, "c": {"b": 1}, "d": [1, "2", None]}
    assert parse_yaml("") is None
