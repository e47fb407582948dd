"""Whether a run is the repeat that it is meant to be: the same files, the same model, the same libraries."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mechlist.runner import Runner
from mechlist.runs import Job, versions
from mechlist.text import joined

_CHUNK = 2**20
_NAMED = {"fingerprint": "the weights of the model have", "identity": "the model's configuration or processing has"}


def facts_of(job: Job, runner: Runner | None) -> dict[str, Any]:
    """What run.json holds of all that the numbers depend on, beside the configuration."""
    facts: dict[str, Any] = {"inputs": {name: _digest(path) for name, path in _paths(job.experiment)}}
    if runner is not None:
        own = {"fingerprint": runner.fingerprint(), "identity": runner.identity()}
        facts["model"] = runner.language_model.info | own | {"shape": dataclasses.asdict(runner.shape)}
    return facts


def changes(record: Mapping[str, Any], facts: Mapping[str, Any], *, libraries: bool = True) -> list[str]:
    """What has changed since run.json was written, in words; what it does not tell of counts as unchanged."""
    out = []
    before, now = (one.get("model") or {} for one in (record, facts))
    different = [name for name in _NAMED if name in before and name in now and before[name] != now[name]]
    if different:
        out.append(f"{_NAMED[different[0]]} changed")
    inputs = record.get("inputs") or {}
    for name, digest in facts["inputs"].items():
        if inputs.get(name, digest) != digest:
            out.append(f"the file of {name.split('[')[0]} has changed")
    if libraries:
        old, new = record.get("versions") or {}, versions()
        moved = [f"{name} is {new[name]}, and was {old[name]}" for name in new if old.get(name, new[name]) != new[name]]
        out += [joined(moved)] if moved else []
    return list(dict.fromkeys(out))


def _paths(experiment: Any) -> Iterator[tuple[str, Path]]:
    for field in dataclasses.fields(experiment):
        value = getattr(experiment, field.name)
        for number, one in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(one, Path) and one.exists():
                yield f"{field.name}[{number}]", one


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and bytes of the files that lie in a folder."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    for file in files:
        if path.is_dir():
            digest.update(file.name.encode())
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
