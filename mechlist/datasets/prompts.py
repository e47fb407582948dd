"""Prompts by kind: the ones in `data/prompts/`, and files of one's own."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mechlist.errors import InputError
from mechlist.text_files import parse_yaml

KINDS = ("neutral", "contentious", "happy")
"""Of the files that come with mechlist."""


def shipped_prompts(kinds: Sequence[str] = KINDS) -> dict[str, tuple[str, ...]]:
    """The prompts that come with mechlist, by kind.

    Raises:
        InputError: a kind that there is not, or no kind.
    """
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong or not kinds:
        raise InputError(f"kinds must be among {', '.join(KINDS)}, one at least, not {list(kinds)}.")
    folder = resources.files("mechlist").joinpath("data").joinpath("prompts")
    return {kind: read_prompts(Path(str(folder.joinpath(f"{kind}.yaml")))) for kind in dict.fromkeys(kinds)}


def read_prompts(file: Path) -> tuple[str, ...]:
    """The texts in a YAML file.

    Raises:
        InputError: the file cannot be read, or holds no list of texts.
    """
    try:
        value: Any = parse_yaml(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except ValueError as error:
        raise InputError(f"{file} is not YAML: {error}.") from error
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise InputError(f"{file} must hold a list of texts, one at least and none empty.")
    twice = next((text for i, text in enumerate(value) if text in value[:i]), None)
    if twice is not None:
        raise InputError(f"{file} holds {twice!r} twice.")
    return tuple(value)
