"""JSON and YAML files that people and other programs wrote, with one sentence about what is wrong with them.

A byte-order mark is skipped; a key that stands twice is an error, where the usual readers keep the last in silence;
lines of JSON end at line feeds alone, since U+2028 and its like may stand inside a string; JSON is read at any depth.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mechlist.errors import InputError

_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NEEDED = object()


class TwiceError(ValueError):
    """A key that an object has twice."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some pairs, for readers of JSON.

    Raises:
        TwiceError: a key that stands twice.
    """
    value: dict[str, Any] = {}
    for key, one in pairs:
        if key in value:
            raise TwiceError(f"{key!r} stands twice")
        value[key] = one
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=unique)


def read_file(file: Path, most: int, what: str) -> str:
    """Text of a file in UTF-8 of at most so many bytes, without its byte-order mark.

    Raises:
        InputError: it is missing, larger, or not UTF-8.
    """
    try:
        size = file.stat().st_size
        if size > most:
            raise InputError(
                f"{file} has {size / 1e6:.0f} MB, and {what} is read up to {most / 1e6:.0f} MB: take a part of it."
            )
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not text in UTF-8 (byte {error.start} is not).") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error


def entry(value: Any, name: str, kind: type | tuple[type, ...], where: str, *, missing: Any = _NEEDED) -> Any:
    """An entry of a mapping, of a type; what is not there or null is `missing`, if that is given.

    Raises:
        InputError: another type, or nothing where something is needed.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a mapping, not {type(value).__name__}.")
    found = value.get(name)
    if found is None and missing is not _NEEDED:
        return missing
    if name not in value:
        raise InputError(f"{where} must have {name!r}; it has {', '.join(sorted(map(str, value))) or 'nothing'}.")
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
        names = " or ".join(k.__name__ for k in kinds)
        raise InputError(f"{name!r} of {where} must be {names}, not {type(found).__name__}.")
    return found


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON in which text stands as it is, but for lone surrogates, which no file can hold."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def parse_yaml(text: str) -> Any:
    """YAML of plain values.

    Raises:
        ValueError: what is wrong, and where; a `TwiceError` for a key that a mapping has twice.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_keys(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f", in line {error.problem_mark.line + 1}"
        raise ValueError(f"{error.problem}{where}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _check_keys(node: yaml.Node) -> None:
    left, done = [node], set()
    while left:
        one = left.pop()
        if not isinstance(one, yaml.CollectionNode) or id(one) in done:
            continue
        done.add(id(one))
        if isinstance(one, yaml.MappingNode):
            # Keys that are lists or mappings are left to the reader, which refuses them.
            keys = [key.value for key, _ in one.value if isinstance(key, yaml.ScalarNode)]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise TwiceError(f"{twice!r} stands twice")
            left += [value for _, value in one.value]
        else:
            left += one.value


def json_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers from 1."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def parse_json(text: str) -> Any:
    """JSON of any depth: Python's own reader stops where about 500 nodes of a tree stand below each other.

    Raises:
        ValueError: what is wrong, and where.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        return _parse_deep(text)


def _parse_deep(text: str) -> Any:
    """The same without recursion."""
    holders: list[Any] = []
    keys: list[str | None] = []
    key, at = None, _skip(text, 0)
    while True:
        if text[at] in "{[":
            value: Any = {} if text[at] == "{" else []
            at = _skip(text, at + 1)
            if text[at] not in "}]":
                holders.append(value)
                keys.append(key)
                key, at = _key(text, at) if isinstance(value, dict) else (None, at)
                continue
            at += 1
        else:
            value, at = _DECODER.raw_decode(text, at)
        while holders:
            _put(holders[-1], key, value)
            at = _skip(text, at)
            if text[at] == ",":
                at = _skip(text, at + 1)
                key, at = _key(text, at) if isinstance(holders[-1], dict) else (None, at)
                break
            if text[at] != ("}" if isinstance(holders[-1], dict) else "]"):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            value, key, at = holders.pop(), keys.pop(), at + 1
        else:
            if text[at:].strip():
                raise json.JSONDecodeError("Extra data", text, at)
            return value


def _skip(text: str, at: int) -> int:
    """The place of the next character that is no blank."""
    found = _SPACE.match(text, at)
    at = found.end() if found else at
    if at >= len(text):
        raise json.JSONDecodeError("Expecting value", text, len(text))
    return at


def _key(text: str, at: int) -> tuple[str, int]:
    """A key, and where its value begins."""
    if text[at] != '"':
        raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
    key, at = _DECODER.raw_decode(text, at)
    at = _skip(text, at)
    if text[at] != ":":
        raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
    return key, _skip(text, at + 1)


def _put(holder: Any, key: str | None, value: Any) -> None:
    if isinstance(holder, dict):
        if key in holder:
            raise TwiceError(f"{key!r} stands twice")
        holder[key] = value
    else:
        holder.append(value)
