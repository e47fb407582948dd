"""Files of the features that a metric is attributed to, list by list: read with every fault named, and written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechlist.errors import InputError

Entry = tuple[int, int, str]
"""Position, feature and hook."""


@dataclass(frozen=True, kw_only=True)
class AttributedFeatures:
    """The features with the strongest attribution on every list, by topic; strongest first."""

    model: str
    metric: str
    top_k: int
    topics: Mapping[str, Sequence[Sequence[Entry]]]

    def to_json(self) -> str:
        """JSON that `read_attributed` reads back equal; one line a topic."""
        head = {"model": self.model, "metric": self.metric, "top_k": self.top_k}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        topics = ",\n".join(f"{json.dumps(topic)}: {json.dumps(lists)}" for topic, lists in self.topics.items())
        return "{\n" + ",\n".join([*lines, f'"topics": {{\n{topics}\n}}']) + "\n}\n"


def read_attributed(file: Path) -> AttributedFeatures:
    """Read `{"model", "metric", "top_k", "topics": {topic: [[[position, feature, hook], ...] a list]}}`.

    Raises:
        InputError: whatever is wrong first, with the file, and the topic and the number of the list (from 1).
    """
    path = file.expanduser()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return _attributed(value)
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the file is not JSON ({error}).") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _attributed(value: Any) -> AttributedFeatures:
    kinds = {"model": str, "metric": str, "top_k": int, "topics": dict}
    if not isinstance(value, dict):
        raise InputError(f"the file must hold an object with the keys {', '.join(kinds)}.")
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind):
            raise InputError(f"{key} must be there as {kind.__name__}; it is {value.get(key)!r:.60}.")
    topics = {topic: [_entries(one, topic, n) for n, one in enumerate(lists, 1)] for topic, lists in _lists(value)}
    if len(topics) < 2:
        raise InputError(f"topics must be two at least, not {len(topics)}: overlap is between topics.")
    return AttributedFeatures(model=value["model"], metric=value["metric"], top_k=value["top_k"], topics=topics)


def _lists(value: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    for topic, lists in value["topics"].items():
        if not isinstance(lists, list) or not lists:
            raise InputError(f"topic {topic!r} must hold one list at least.")
    return list(value["topics"].items())


def _entries(one: Any, topic: str, number: int) -> list[Entry]:
    if not isinstance(one, list):
        raise InputError(f"topic {topic!r}, list {number}: must be a list of entries, not {type(one).__name__}.")
    for entry in one:
        match entry:
            case [int(position), int(feature), str()] if position >= 0 and feature >= 0:
                pass
            case _:
                raise InputError(
                    f"topic {topic!r}, list {number}: an entry must be [position, feature, hook], not {entry!r:.60}."
                )
    return [(entry[0], entry[1], entry[2]) for entry in one]
