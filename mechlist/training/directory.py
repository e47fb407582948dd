"""Where a trained model goes: a new directory that is never half a model."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mechlist.errors import InputError

Progress = Callable[[int, int, float], None]
"""Called after every step with the steps done, all steps and the loss in nats."""


def require_empty(out: Path) -> Path:
    """`out` in full.

    Raises:
        InputError: it is a file, or a directory that holds something.
    """
    out = out.expanduser().resolve()
    if out.exists() and not out.is_dir():
        raise InputError(f"out must be an empty or a new directory, but {out} is a file.")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"out must be an empty or a new directory, but {out} already holds files.")
    return out


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory beside `out` to write into, which becomes `out` when the block ends well."""
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one of a model's JSON files."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
