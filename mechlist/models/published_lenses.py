"""Jacobian lenses that others fitted: which there are, from the register of TransformerLens, and their files."""

import difflib
import importlib.util
import json
from pathlib import Path
from typing import Any

from mechlist.errors import ModelError
from mechlist.models.sources.hub import OR_DIRECTORY, explain

REGISTER = Path("tools") / "analysis" / "jacobian_lens_registry.json"


def published_lenses() -> dict[str, tuple[str, str]]:
    """Repository and file on the hub, by short name and by every name of the model on the hub."""
    found: dict[str, tuple[str, str]] = {}
    for name, entry in _register().items():
        place = (entry["repo_id"], entry["filename"])
        found |= dict.fromkeys([name, *entry["aliases"]], place)
        if name.startswith("gemma"):
            found[f"google/{name}"] = place
    return found


def download_lens(name: str) -> Path:
    """The file of the lens for the model `name`, from the hub or from its cache.

    Raises:
        ModelError: there is none for this model (with the nearest names), or it cannot be downloaded.
    """
    there = published_lenses()
    if name not in there:
        close = difflib.get_close_matches(name, list(there), n=3, cutoff=0.4)
        hint = f" Near to it: {', '.join(close)}." if close else ""
        raise ModelError(f"No Jacobian lens is published for {name!r}.{hint} Give a file, or fit one.")
    from huggingface_hub import hf_hub_download

    repository, file = there[name]
    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:
        said = explain(error, repository).replace(OR_DIRECTORY, "or give its file with --lens FILE")
        raise ModelError(said) from error


def _register() -> dict[str, Any]:
    """Read as text: importing TransformerLens for it would take seconds."""
    spec = importlib.util.find_spec("transformer_lens")
    file = Path(spec.origin).parent / REGISTER if spec is not None and spec.origin else Path()
    if not file.is_file():
        return {}
    entries = json.loads(file.read_text(encoding="utf-8"))
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}
