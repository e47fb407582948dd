"""Topics of lists and their real items, from the YAML files of `data/topics/`."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mechlist.errors import InputError
from mechlist.text_files import TwiceError, parse_yaml

ROOT = Path(__file__).parents[1] / "data" / "topics"
SMALL = ROOT.with_name("small_topics")
CAPACITY = "capacity"
"""The file with topics of 5 to 30 items, of which a list can run out; `list-tiny` was not trained on them."""
RUNS_OUT = 30
"""Items of a topic up to which lists of it may end because there are no more."""
STUDY = "study"
"""The file with the 23 topics of the list-ending study."""


def topic_sets() -> list[str]:
    """Names of the topic files that come with mechlist."""
    return sorted(path.stem for path in ROOT.glob("*.yaml"))


def load_topics(*files: str | Path) -> dict[str, tuple[str, ...]]:
    """Items by topic, in the files' order; the best-known items first.

    Args:
        files: names of topic files that come with mechlist (`study`, `food` ... and `capacity`), or paths; all that
            come with it but `capacity` when none is given.

    Raises:
        InputError: a file that is missing, not YAML, or not a mapping from topics to lists of strings; an empty topic;
            a topic that stands twice; an item that stands twice in its topic, whatever its case.
    """
    topics: dict[str, tuple[str, ...]] = {}
    for file in files or topic_sets():
        path = _path(file)
        for topic, items in _read(path).items():
            if topic in topics:
                raise InputError(f"{path}: the topic {topic!r} stands twice.")
            topics[topic] = _items(path, topic, items)
    return topics


def _path(file: str | Path) -> Path:
    named = [folder / f"{file}.yaml" for folder in (ROOT, SMALL)]
    found = [path for path in named if isinstance(file, str) and path.is_file()]
    return found[0] if found else Path(file).expanduser()


def capacities() -> dict[str, int]:
    """How many items there are by topic, of all topics that come with mechlist."""
    return {topic: len(items) for topic, items in (load_topics() | load_topics(CAPACITY)).items()}


def _read(path: Path) -> dict[Any, Any]:
    try:
        value = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} cannot be read ({reason}); give a topic file, or one of {', '.join([*topic_sets(), CAPACITY])}."
        ) from error
    except TwiceError as error:
        raise InputError(f"{path}: the topic {error}.") from error
    except ValueError as error:
        raise InputError(f"{path} is not YAML: {error}.") from error
    if not isinstance(value, dict) or not value:
        raise InputError(f"{path} must map topics to lists of items, and is {_kind(value)}.")
    return value


def _items(path: Path, topic: Any, items: Any) -> tuple[str, ...]:
    if not _is_line(topic):
        raise InputError(
            f"{path}: a topic must be one line of text without blanks around it, not {topic!r} "
            "(in quotes if YAML takes it for something else)."
        )
    if not isinstance(items, list):
        raise InputError(f"{path}: the topic {topic!r} must hold a list of items, not {_kind(items)}.")
    if not items:
        raise InputError(f"{path}: the topic {topic!r} has no items.")
    seen: dict[str, str] = {}
    for item in items:
        if not _is_line(item):
            raise InputError(
                f"{path}: an item of {topic!r} must be one line of text without blanks around it, not {item!r} "
                "(in quotes if YAML takes it for something else)."
            )
        if item.casefold() in seen:
            raise InputError(f"{path}: the topic {topic!r} has {item!r} twice.")
        seen[item.casefold()] = item
    return tuple(items)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.splitlines() == [value] and value == value.strip()


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "empty"}
    return names.get(type(value), f"a {type(value).__name__}")


def choose_topics(files: Sequence[str | Path] = (), names: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """The topics of some files (all that come with mechlist by default), or of these only the ones named.

    Raises:
        InputError: as `load_topics`; a name that is not among the topics, with the closest ones.
    """
    topics = load_topics(*files)
    for name in names:
        if name not in topics:
            close = difflib.get_close_matches(name, topics, n=3)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise InputError(f"There is no topic {name!r} among the {len(topics)} of the topic files.{hint}")
    return {name: topics[name] for name in names or topics}
