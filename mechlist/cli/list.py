"""`mechlist list`: experiments, studies and models, without importing any of them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mechlist.cli.parse import parse
from mechlist.models.sources.source import builtin_models
from mechlist.registry import Entry, index, unreadable


@dataclass(frozen=True)
class ListFlags:
    """Experiments, studies and models that are at hand."""


def main(argv: list[str]) -> int:
    """Print three short lists."""
    parse(ListFlags, argv, prog="mechlist list", description="Experiments, studies and models that are at hand.")
    entries = index()
    names = [e.name for e in entries]
    _print(
        "Experiments (mechlist run NAME), and what they need besides a model",
        ((e.name, _line(e, names)) for e in entries),
    )
    for _, fault in unreadable():
        print(f"  not listed, for it cannot be read: {fault}\n")
    studies = sorted(Path().glob("experiments/*/study.yaml"))
    _print("Studies (mechlist run FILE)", ((str(file), _title(file)) for file in studies))
    models = [(name, "built in") for name in builtin_models()] + [(n, "in the hub's cache") for n in _cached()]
    _print("Models (--model NAME, or any Hugging Face name or directory)", models)
    return 0


def _line(entry: Entry, names: list[str]) -> str:
    name, summary, origin = entry.name, entry.summary, entry.origin
    twice = "  [the name is taken twice: rename one]" if names.count(name) > 1 else ""
    needs = f"  [{', '.join(entry.needs)}]" if entry.needs else ""
    return summary + needs + ("" if origin.startswith("mechlist.") else f"  ({origin})") + twice


def _title(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip(" \"'") for line in lines if line.startswith("title:")), "")


def _cached() -> list[str]:
    """Models in the Hugging Face cache, from the names of its folders."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    folders = sorted(cache.glob("models--*")) if cache.is_dir() else []
    return ["/".join(folder.name.split("--")[1:]) for folder in folders]


def _print(heading: str, rows: Iterable[tuple[str, str]]) -> None:
    listed = list(rows)
    print(heading)
    width = max((len(name) for name, _ in listed), default=0) + 2
    for name, text in listed:
        print(f"  {name:<{width}}{text}".rstrip())
    if not listed:
        print("  none here")
    print()
