"""Reading the files of a model's directory, with one sentence for each way that they can be wrong."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mechlist.errors import ModelError


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{file} is not readable JSON ({first_line(error)}); fetch it again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} must hold one JSON object, not {type(value).__name__}; fetch it again.")
    return value


def check_weights(directory: Path) -> None:
    """Open every safetensors file, which compares its header with its length.

    Raises:
        ModelError: naming the first that is damaged or cut off.
    """
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is damaged or cut off ({first_line(error)}); fetch it again.") from error


def first_line(error: Exception) -> str:
    """First line of an error's text, cut at 200 characters and without full stop: it goes inside a sentence."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". :")
    return line if len(line) <= 200 else f"{line[:200]}..."
