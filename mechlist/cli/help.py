"""What `mechlist run NAME --help` shows: every flag with its field's docstring, in groups, and one example."""

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mechlist.options import Output, Settings
from mechlist.types import Processing

INDENT, MARGIN = 2, 26
"""Blanks before a flag, and before what it does."""
WIDEST = 110
WEIGHTS = tuple(field.name for field in dataclasses.fields(Processing))
_KINDS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}


def experiment_help(command: str, name: str, kind: Any, default: Any, settings: Settings) -> str:
    """Of an experiment.

    Args:
        command: `run` or `plan`.
        name: of the experiment.
        kind: its class.
        default: an instance that holds what its flags are without being given, if there is one.
        settings: what the flags of the run are without being given.
    """
    summary = inspect.cleandoc(kind.__doc__ or "")
    example = f"mechlist {command} {name} --model {settings.model or kind.default_model} --seed 1"
    return "\n".join(
        [
            f"usage: mechlist {command} {name} [flags]",
            "",
            *_wrapped(summary),
            "",
            f"Example: {example}",
            *_groups(kind, default, kind.groups),
            *_run_groups(settings),
        ]
    )


def study_help(command: str, file: Path, title: str, settings: Settings) -> str:
    """Of a study, whose steps have their parameters in its file."""
    head = [f"usage: mechlist {command} {file} [flags]", "", *_wrapped(title)]
    return "\n".join([*head, *_run_groups(settings)])


def field_docs(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass and of its bases; none where there is no source."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for node, below in itertools.pairwise(body):
            match node, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
                case _:
                    pass
    return found


def _run_groups(settings: Settings) -> Iterator[str]:
    yield from _groups(Settings, settings, {"run": (), "weights of Hugging Face models": WEIGHTS}, rest="run")
    yield from _groups(Output, Output(), {}, rest="output")


def _groups(kind: Any, default: Any, groups: Mapping[str, Sequence[str]], rest: str = "parameters") -> Iterator[str]:
    """Headings and flags; what is in no group stands under `rest`."""
    docs, hints = field_docs(kind), get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    named = {name for names in groups.values() for name in names}
    others = [name for name in fields if name not in named]
    held = {**{title: list(names) for title, names in groups.items()}}
    held[rest] = [*others, *held.get(rest, [])]
    for title, names in held.items():
        if names:
            yield from ("", f"{title}:")
        for name in names:
            value = getattr(default, name) if default is not None else _default(fields[name])
            yield from _flag(name, hints[name], docs.get(name, ""), value)


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _flag(name: str, hint: Any, doc: str, value: Any) -> Iterator[str]:
    flag = name.replace("_", "-")
    kind = _kind(hint)
    left = f"--{flag}, --no-{flag}" if kind == "" else f"--{flag} {kind}"
    required, silent = value is dataclasses.MISSING, value is None or value is False or value in ("", ())
    told = " (required)" if required else "" if silent else f" (default: {_said(value)})"
    lines = _wrapped(f"{doc}{told}", MARGIN)
    if len(left) + INDENT + 2 <= MARGIN and lines:
        lines[0] = f"{'':{INDENT}}{left:<{MARGIN - INDENT}}{lines[0].strip()}"
    else:
        yield from _wrapped(left, INDENT, hanging=True)
    yield from lines


def _kind(hint: Any) -> str:
    """What a flag takes; nothing for a choice between yes and no."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [_kind(one) for one in get_args(hint) if one is not type(None)]
        # Whole numbers are numbers.
        return "|".join(dict.fromkeys(kind for kind in kinds if kind != "INT" or "NUMBER" not in kinds))
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    if get_origin(hint) in (tuple, list):
        return f"{_kind(get_args(hint)[0])} ..."
    return "" if hint is bool else _KINDS.get(hint, "VALUE")


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _wrapped(text: str, margin: int = 0, *, hanging: bool = False) -> list[str]:
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    blank = " " * margin
    below = blank + "    " if hanging else blank
    return [
        line
        for part in text.split("\n\n")
        for line in textwrap.wrap(
            " ".join(part.split()), max(width, margin + 30), initial_indent=blank, subsequent_indent=below
        )
    ]
