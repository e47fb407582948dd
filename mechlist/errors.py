"""Errors that carry one clear sentence; the command line prints it and nothing else."""

import sysconfig
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).parent
_LIBRARIES = {Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")}


class MechlistError(Exception):
    """A run failed for a reason the user can act on. Exit status 1."""

    exit_status = 1


class InputError(MechlistError):
    """Bad usage or bad input: what is allowed and what was received. Exit status 2."""

    exit_status = 2


class ModelError(InputError):
    """A model cannot be found, loaded or trusted."""


class GuardError(MechlistError):
    """A model or a run does not behave as exactness demands."""


def where(error: BaseException) -> str:
    """The line that an author opens to mend an error: `./my_probe.py, line 12`; empty if it is in no file.

    It is the innermost line outside mechlist and the installed libraries; for an experiment inside mechlist, the
    innermost one of `mechlist/experiments`. Of a syntax error it is the line that cannot be read.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return _line(Path(error.filename), error.lineno or 1)
    trace = traceback.extract_tb(error.__traceback__)
    frames = [(Path(frame.filename), frame.lineno or 1) for frame in trace if frame.filename[:1] != "<"]
    own = [(file, n) for file, n in frames if not any(file.is_relative_to(p) for p in (_PACKAGE, *_LIBRARIES))]
    inside = [(file, n) for file, n in frames if file.is_relative_to(_PACKAGE / "experiments")]
    found = own or inside or frames
    return _line(*found[-1]) if found else ""


def _line(file: Path, number: int) -> str:
    here = Path.cwd()
    return f"{f'./{file.relative_to(here)}' if file.is_relative_to(here) else file}, line {number}"


def told(error: BaseException) -> str:
    """An error of an author's code in half a sentence: `./my_probe.py, line 12: ValueError: boom`."""
    if isinstance(error, MechlistError):
        return str(error).rstrip(".")
    place = where(error)
    return f"{place}: {what(error)}" if place else what(error)


def what(error: BaseException) -> str:
    """The kind of an error and what it says, in one line: `ValueError: boom`."""
    text = str(error.msg) if isinstance(error, SyntaxError) else " ".join(str(error).split())[:300]
    return f"{type(error).__name__}{f': {text}' if text else ''}"
