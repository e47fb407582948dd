"""`mechlist`: dispatch to a subcommand, and turn every failure into one sentence and an exit status."""

import difflib
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from mechlist.errors import InputError, MechlistError, what, where

COMMANDS = {
    "list": "Experiments, studies and models that are at hand.",
    "run": "Run an experiment or a study: mechlist run NAME|study.yaml [flags].",
    "look": "The first look at a prompt: tokens, what comes next, what each layer would say, where heads look.",
    "plan": "What a run would take, before it runs: operations, memory, time.",
    "show": "Show a finished run in the terminal.",
    "view": "Runs, responses, trees, looks and patches in the browser.",
    "report": "Draw the figures and the report of a finished run again.",
    "check": "Check a model: the guards, and logits against Hugging Face.",
    "cache": "List, verify or clear the activations that runs left on disk.",
    "train": "Train a built-in model again.",
    "new": "Write a new experiment and its test.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 failed, 2 bad usage or input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    signal.signal(signal.SIGTERM, _stop)
    as_before, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        return _dispatch(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        # Whoever read our output has had enough, as in `mechlist list | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        if debug:
            raise
        sentence, status = _explain(error)
        print(f"mechlist: {sentence}", file=sys.stderr)
        return status
    finally:
        warnings.formatwarning = as_before


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        from mechlist import __version__

        print(f"mechlist {__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {close[0]}?" if close else " See mechlist --help."
        raise InputError(f"There is no command {command!r}.{hint}")
    module: Any = importlib.import_module(f"mechlist.cli.{command}")
    return module.main(rest)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mechlist COMMAND ...",
            "",
            "Mechanistic-interpretability experiments on TransformerLens: exact, fast, replayable.",
            "",
            "commands:",
            *lines,
            "",
            "mechlist COMMAND --help tells more; --debug anywhere shows the traceback of an error.",
        ]
    )


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, MechlistError):
        return " ".join(str(error).split()), error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "stopped.", 1
    if isinstance(error, OSError) or "No space left" in str(error):
        from mechlist.runs import explain_os_error

        return explain_os_error(error), 1
    if isinstance(error, MemoryError):
        return "memory ran out; give a smaller --memory or close other programs.", 1
    place = where(error)
    return f"unexpected {what(error)}{f', at {place}' if place else ''} (--debug shows the traceback).", 1


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning in one line, without the place in the code that gave it."""
    del filename, lineno, line
    kind = "warning" if issubclass(category, UserWarning) else category.__name__
    return f"mechlist: {kind}: {' '.join(str(message).split())}\n"


def _stop(number: int, frame: Any) -> None:  # noqa: ARG001 (the signature of a signal handler)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
