"""Flags from dataclasses through tyro, with its boxed errors turned into one sentence."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Container, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar, get_args, get_type_hints

import tyro

from mechlist.errors import InputError

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], *, prog: str, description: str, default: Any = None) -> T:
    """An instance of the dataclass `kind` from flags; field docstrings are the help, underscores work as hyphens.

    Raises:
        InputError: an unknown flag or a value that does not fit.
        SystemExit: after --help.
    """
    errors = io.StringIO()
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                args=_spelled_out(argv, set(_optional_flags(kind))),
                prog=prog,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
                **given,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(f"{_sentence(errors.getvalue())} See {prog} --help.") from None


def _optional_flags(kind: Any) -> Iterator[str]:
    """Fields that are yes, no or left open, of a dataclass and of those in it."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _optional_flags(hint)
        elif set(get_args(hint)) == {bool, type(None)}:
            yield field.name.replace("_", "-")


def _spelled_out(argv: Sequence[str], flags: Container[str]) -> list[str]:
    """`--bos` and `--no-bos` of flags that may be left open as the value that tyro wants: `--bos True`."""
    said: list[str] = []
    for word, following in pairwise([*argv, ""]):
        name = word.removeprefix("--").replace("_", "-")
        if not word.startswith("--"):
            said.append(word)
        elif name.removeprefix("no-") in flags and name.startswith("no-"):
            said += [f"--{name.removeprefix('no-')}", "False"]
        elif name in flags and following not in ("True", "False", "None"):
            said += [f"--{name}", "True"]
        else:
            said.append(word)
    return said


def _sentence(box: str) -> str:
    """What a box of tyro says, in one line: the text up to its first rule, and the flags it suggests."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ").strip() for line in plain.splitlines() if not line.startswith(("╭", "╰"))]
    if "╭" not in plain:
        # Where the terminal knows ASCII only, the title stands on a line and a rule of its own.
        lines = lines[2:]
    rule = next((i for i, line in enumerate(lines) if line.startswith(("───", "---"))), len(lines))
    text = " ".join(line for line in lines[:rule] if line).split(" Got errors:")[0]
    flags = [line.split()[0] for line in lines[rule:] if re.match(r"--\w", line)]
    suggested = "Perhaps you meant" in plain or "Similar" in plain
    hint = f" Did you mean {' or '.join(dict.fromkeys(flags[:2]))}?" if flags and suggested else ""
    text = re.sub(r"^Error parsing (parameters|settings|output): ", "", text)
    return f"{text.rstrip('.')}.{hint}"
