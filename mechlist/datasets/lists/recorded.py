"""Recorded completions of list prompts: JSON files of token ids by topic, read with every fault named, and written."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechlist.datasets.lists.parse import ListTokens
from mechlist.errors import InputError
from mechlist.text import NO_ADJECTIVE
from mechlist.text_files import TwiceError, unique

SPECIAL = tuple(field.name for field in dataclasses.fields(ListTokens))
OPTIONAL = ("bos", "eos")
"""Special tokens that a model may lack: null in the file."""
LARGEST = 2**63 - 1
"""That a token id or another whole number may be."""
KEYS = ("model", "adjective", "adjective_index", "temperature", "token_ids_of_interest", "model_header", "topics")


@dataclass(frozen=True, kw_only=True)
class RecordedLists:
    """Completions of one model with one adjective at one temperature, by topic."""

    model: str
    adjective: str
    """One word; "" for none."""
    adjective_index: int | None
    """Of the adjective's token in every sequence; None where there is no adjective."""
    temperature: float | int | None
    """None where it is not known."""
    tokens: ListTokens
    model_header: tuple[int, ...]
    """Tokens that open the model's turn."""
    topics: dict[str, list[list[int]]]
    """Whole sequences, prompt and completion, by topic."""
    top_p: float | int | None = None
    max_new_tokens: int | None = None

    @property
    def adjective_name(self) -> str:
        """The adjective as labels show it: `none` for none."""
        return self.adjective or NO_ADJECTIVE

    def completion(self, ids: Sequence[int]) -> tuple[int, ...]:
        """What follows the first model header; it begins with the prefilled hyphen.

        Raises:
            InputError: the sequence holds no model header.
        """
        start = _after(ids, self.model_header)
        if start is None:
            raise InputError(f"the model header {list(self.model_header)} is nowhere among the {len(ids)} tokens.")
        return tuple(ids[start:])


def recorded_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files themselves, and of a directory every *.json in it, sorted by name.

    Raises:
        InputError: a path that does not exist, a directory without *.json, or a file that is there twice.
    """
    files: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        if not path.exists():
            raise InputError(f"{path} does not exist; give a file of recorded lists, or a directory of them.")
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path} holds no *.json file; give a file of recorded lists, or a directory of them.")
        files += found
    resolved = [file.resolve() for file in files]
    twice = next((file for i, file in enumerate(files) if resolved[i] in resolved[:i]), None)
    if twice is not None:
        raise InputError(f"{twice} is given twice: its lists would count twice.")
    return files


def read_recorded(file: str | Path) -> RecordedLists:
    """Read a file of recorded completions; keys beyond those of the format are left alone.

    Raises:
        InputError: whatever is wrong first, with the file, and the topic and the number of the list (from 1) where it
            is about one.
    """
    path = Path(file).expanduser()
    try:
        return _recorded(_parsed(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def recorded_json(recorded: RecordedLists) -> str:
    """JSON that `read_recorded` reads back equal; one line a list."""
    value = {
        "model": recorded.model,
        "adjective": recorded.adjective or None,
        "adjective_index": recorded.adjective_index,
        "temperature": recorded.temperature,
        "top_p": recorded.top_p,
        "max_new_tokens": recorded.max_new_tokens,
        "token_ids_of_interest": dataclasses.asdict(recorded.tokens),
        "model_header": list(recorded.model_header),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()]
    topics = ",\n".join(
        f"{json.dumps(topic)}: [\n" + ",\n".join(json.dumps(list(ids)) for ids in lists) + "\n]"
        for topic, lists in recorded.topics.items()
    )
    return "{\n" + ",\n".join([*lines, f'"topics": {{\n{topics}\n}}']) + "\n}\n"


def _parsed(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique, parse_constant=_refused)
    except TwiceError as error:
        raise InputError(f"{error}.") from error
    except OSError as error:
        raise InputError(f"the file cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the file is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"the file must hold an object with the keys {', '.join(KEYS)}, not {_kind(value)}.")
    missing = [key for key in KEYS if key not in value]
    if missing:
        raise InputError(f"{', '.join(missing)} must be there; the file has {', '.join(value) or 'no keys'}.")
    return value


def _refused(constant: str) -> None:
    raise InputError(f"{constant} is no number that may stand in the file.")


def _recorded(value: Mapping[str, Any]) -> RecordedLists:
    adjective = value["adjective"] if value["adjective"] is not None else ""
    if not isinstance(adjective, str) or adjective == NO_ADJECTIVE or (adjective and adjective.split() != [adjective]):
        raise InputError(f"adjective must be one word, such as short or long, or null for none, not {adjective!r}.")
    if not isinstance(value["model"], str) or not value["model"]:
        raise InputError(f"model must be the name of a model, not {value['model']!r}.")
    header = value["model_header"]
    if not isinstance(header, list) or not header or not all(map(_is_id, header)):
        raise InputError(f"model_header must be a list of one token id at least, not {_short(header)}.")
    recorded = RecordedLists(
        model=value["model"],
        adjective=adjective,
        adjective_index=_whole("adjective_index", value["adjective_index"]),
        temperature=_real("temperature", value["temperature"]),
        tokens=_special(value["token_ids_of_interest"]),
        model_header=tuple(header),
        topics=_topics(value["topics"]),
        top_p=_real("top_p", value.get("top_p")),
        max_new_tokens=_whole("max_new_tokens", value.get("max_new_tokens")),
    )
    _check_headers(recorded)
    _check_places(recorded)
    _check_kept(value, json.loads(recorded_json(recorded)))
    return recorded


def _special(value: Any) -> ListTokens:
    key = "token_ids_of_interest"
    if not isinstance(value, dict):
        raise InputError(f"{key} must be an object with {', '.join(SPECIAL)}, not {_kind(value)}.")
    missing, foreign = [m for m in SPECIAL if m not in value], [m for m in value if m not in SPECIAL]
    if missing or foreign:
        lacks = f"lacks {', '.join(missing)}" if missing else f"also has {', '.join(foreign)}"
        raise InputError(f"{key} must hold {', '.join(SPECIAL)} and nothing else; it {lacks}.")
    for name, token in value.items():
        if not _is_id(token) and not (token is None and name in OPTIONAL):
            allowed = "a whole number of 0 or more" + (" or null" if name in OPTIONAL else "")
            raise InputError(f"{key}: {name} must be {allowed}, not {_short(token)}.")
    for name in OPTIONAL:
        twin = next((m for m in ("hyphen", "line_break", "blank") if value[m] == value[name]), None)
        if twin is not None:
            raise InputError(f"{key}: {name} and {twin} must be different tokens; both are {value[name]}.")
    try:
        return ListTokens(**value)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


def _topics(value: Any) -> dict[str, list[list[int]]]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"topics must map one topic at least to lists of token ids, not {_kind(value)}.")
    for topic, lists in value.items():
        if not topic.strip():
            raise InputError(f"a topic must have a name, not {topic!r}.")
        if not isinstance(lists, list) or not lists:
            raise InputError(f"topic {topic!r} must hold one list of token ids at least, not {_kind(lists)}.")
        for number, ids in enumerate(lists, start=1):
            where = f"topic {topic!r}, list {number}"
            if not isinstance(ids, list):
                raise InputError(f"{where} must be a list of token ids, not {_kind(ids)}.")
            wrong = next((place for place, token in enumerate(ids) if not _is_id(token)), None)
            if wrong is not None:
                raise InputError(
                    f"{where}: token ids are whole numbers of 0 or more; the one at {wrong} is {_short(ids[wrong])}."
                )
    return value


def _check_headers(recorded: RecordedLists) -> None:
    for topic, lists in recorded.topics.items():
        for number, ids in enumerate(lists, start=1):
            try:
                recorded.completion(ids)
            except InputError as error:
                raise InputError(f"topic {topic!r}, list {number}: {error}") from error
    found = [recorded.completion(ids)[:1] for lists in recorded.topics.values() for ids in lists]
    if (recorded.tokens.hyphen,) not in found:
        raise InputError(
            f"the hyphen {recorded.tokens.hyphen} must follow the model header, and does in none of the {len(found)} "
            "lists: token_ids_of_interest may be those of another model."
        )


def _check_places(recorded: RecordedLists) -> None:
    """The adjective must be one token in the prompt, the same in all lists; BOS must begin all of them or none.

    Sequences without a prompt tell of neither.
    """
    found: dict[int, str] = {}
    begins: dict[bool, str] = {}
    at, bos = recorded.adjective_index, recorded.tokens.bos
    for topic, lists in recorded.topics.items():
        for number, ids in enumerate(lists, start=1):
            where = f"topic {topic!r}, list {number}"
            prompt = len(ids) - len(recorded.completion(ids)) - len(recorded.model_header)
            if not prompt:
                continue
            if at is not None and at >= prompt:
                raise InputError(
                    f"adjective_index must be a place in the prompt; {where}, has {prompt} tokens before the model "
                    f"header, and the adjective would be number {at + 1}."
                )
            if at is not None:
                found.setdefault(ids[at], where)
            begins.setdefault(ids[0] == bos, where)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise InputError(
            f"adjective_index must be the place of one and the same token in all lists; at {at} {first}, has {one}, "
            f"and {second}, has {other}."
        )
    if bos is not None and len(begins) > 1:
        raise InputError(
            f"BOS ({bos}) must begin all lists or none; it begins {begins[True]}, and not {begins[False]}."
        )


def _check_kept(given: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    """What would be written back must be what was read; a key that may be null may be left out as well."""
    for key, value in written.items():
        before = given.get(key)
        if key == "adjective":
            before = before or None
        if json.dumps(before, sort_keys=True) != json.dumps(value, sort_keys=True):
            raise InputError(
                f"{key} would be read as {_short(value)}, and is {_short(before)}: write it as it is read."
            )


def _after(ids: Sequence[int], header: Sequence[int]) -> int | None:
    """Index behind the first occurrence of `header`."""
    size = len(header)
    return next((i + size for i in range(len(ids)) if tuple(ids[i : i + size]) == tuple(header)), None)


def _is_id(value: Any) -> bool:
    # A JSON true is an int to Python.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _whole(name: str, value: Any) -> int | None:
    if value is None or _is_id(value):
        return value
    raise InputError(f"{name} must be a whole number of 0 or more, or null, not {_short(value)}.")


def _real(name: str, value: Any) -> float | int | None:
    number = isinstance(value, float) or _is_id(value)
    if value is None or (number and math.isfinite(value) and value >= 0):
        return value
    raise InputError(f"{name} must be a number of 0 or more, or null, not {_short(value)}.")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _kind(value: Any) -> str:
    if isinstance(value, list | dict):
        named = "a list" if isinstance(value, list) else "an object"
        return named if value else f"an empty {named.split()[1]}"
    return _short(value)
