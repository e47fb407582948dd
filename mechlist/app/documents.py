"""What is open in the app: read once, kept on a shelf here, and named by a key in the browser."""

import base64
import binascii
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mechlist.decode.records import Record, parse_records
from mechlist.decode.tree import Tree
from mechlist.decode.tree_file import parse_tree
from mechlist.errors import InputError
from mechlist.report.assemble import read_exhibits
from mechlist.text import visible
from mechlist.text_files import parse_json, read_file

MOST_BYTES = 10**8
"""Of a file that is opened by its path."""
MOST_UPLOADED = 3 * 10**7
"""Of a file that is uploaded: it goes through the browser's memory."""
KEPT = 64
"""Things on the shelf; the one that was not looked at for longest leaves it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Opened:
    """Responses and trees by name, and where they come from."""

    name: str
    exhibits: Mapping[str, Record | Tree]


class Shelf:
    """Keeps what the browser names by keys that cannot be guessed."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, value: Any) -> str:
        """Keep a value; its key."""
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._held[key] = value
            while len(self._held) > KEPT:
                self._held.popitem(last=False)
        return key

    def get(self, key: str | None, kind: type[T]) -> T:
        """The value of a key.

        Raises:
            InputError: it is no longer there, or of another kind.
        """
        with self._lock:
            value = self._held.get(key or "")
            if isinstance(value, kind):
                self._held.move_to_end(key or "")
                return value
        raise InputError("This is no longer open: open it again.")


def open_path(path: str) -> Opened:
    """Responses and trees in a JSON or JSONL file, or of a finished run's directory.

    Raises:
        InputError: nothing there; a file that is too large, cut off, not JSON, or something else.
    """
    if not path.strip():
        raise InputError("Give the path of a JSON or JSONL file, or of a run's directory.")
    place = Path(path.strip()).expanduser()
    if place.is_dir():
        exhibits = read_exhibits(place)
        if not exhibits:
            raise InputError(f"{place} holds a run without responses or trees: logprobs and token-tree runs have some.")
        return Opened(str(place), exhibits)
    return open_text(read_file(place, MOST_BYTES, "a file of records or a tree"), str(place))


def open_upload(contents: str, name: str) -> Opened:
    """The same from an upload, as the browser gives it: `data:...;base64,...`.

    Raises:
        InputError: as `open_path`.
    """
    shown = visible(name)
    payload = contents.partition(",")[2]
    if len(payload) * 3 // 4 > MOST_UPLOADED:
        raise InputError(too_large(shown, len(payload) * 3 // 4))
    try:
        text = base64.b64decode(payload, validate=True).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown} is not text in UTF-8 (byte {error.start} is not).") from error
    except binascii.Error as error:
        raise InputError(f"The upload of {shown} arrived damaged: try again.") from error
    return open_text(text, shown)


def too_large(name: str, size: int) -> str:
    """What is said of an upload beyond the bound."""
    return (
        f"{name} has {size / 1e6:.0f} MB, and an upload is read up to {MOST_UPLOADED / 1e6:.0f} MB: give its path "
        f"(up to {MOST_BYTES / 1e6:.0f} MB), or take a part of it."
    )


def open_text(text: str, name: str) -> Opened:
    """Responses or a tree from JSON or JSON lines.

    Raises:
        InputError: something else.
    """
    if not text.strip():
        raise InputError(f"{name} is empty.")
    if _is_tree(text):
        return Opened(name, {"tree": parse_tree(text, name)})
    records = parse_records(text, name)
    return Opened(name, {f"response {number}": record for number, record in enumerate(records, start=1)})


def _is_tree(text: str) -> bool:
    """Whether JSON is meant as a tree; what cannot be read is left to the reader of records, which says why."""
    try:
        value = parse_json(text)
    except ValueError:
        # A tree that was cut off begins with its metadata.
        return text.lstrip("\ufeff \t\r\n").startswith("{") and '"metadata"' in text[:200]
    return isinstance(value, dict) and ("tree" in value or "metadata" in value)
