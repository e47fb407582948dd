"""`mechlist cache ls|verify|clear`: the activations that earlier runs left on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mechlist.cli.parse import parse
from mechlist.errors import InputError
from mechlist.types import format_bytes

if TYPE_CHECKING:
    from mechlist.runner.store.store import ActivationStore, ShardInfo


@dataclass(frozen=True)
class CacheFlags:
    """Flags of `mechlist cache`."""

    action: tyro.conf.Positional[Literal["ls", "verify", "clear"]]
    """List the files; check every checksum and remove what is damaged; or remove everything."""
    directory: Path | None = None
    """Where the store is; $MECHLIST_CACHE or ~/.cache/mechlist/activations without."""


def main(argv: list[str]) -> int:
    """List, verify or clear a store; the status is 1 if a shard was damaged."""
    flags = parse(CacheFlags, argv, prog="mechlist cache", description="Activations that earlier runs left on disk.")
    from mechlist.runner.store import ActivationStore, default_directory

    directory = flags.directory or default_directory()
    if directory.exists() and not directory.is_dir():
        raise InputError(f"directory must be a directory, and {directory} is a file.")
    actions = {"ls": _ls, "verify": _verify, "clear": _clear}
    return actions[flags.action](ActivationStore(directory, ram_bytes=0))


def _ls(store: "ActivationStore") -> int:
    shards = store.ls()
    for shard in shards:
        date = f"{shard.created or shard.used:%Y-%m-%d %H:%M}"
        print(f"{date}  {format_bytes(shard.size):>10}  {_contents(shard)}  {shard.file.name}")
    print(f"{_count(len(shards), 'shard')}, {format_bytes(sum(s.size for s in shards))} in {store.directory}")
    return 0


def _contents(shard: "ShardInfo") -> str:
    known = f"{shard.fingerprint[:8] or '-':<8}  {shard.entries:>7} entries"
    return f"{shard.state or known:<25}"


def _verify(store: "ActivationStore") -> int:
    found = store.verify()
    for file, reason in found.bad:
        print(f"damaged: {file} ({reason})")
    other = f"; {_count(found.other, 'shard')} of another version not checked" if found.other else ""
    damaged = f"{_count(len(found.bad), 'shard')} damaged" if found.bad else "none damaged"
    print(f"{_count(found.shards, 'sound shard')} with {found.entries} entries, {damaged}{other}")
    return 1 if found.bad else 0


def _clear(store: "ActivationStore") -> int:
    size = sum(shard.size for shard in store.ls())
    print(f"removed {_count(store.clear(), 'shard')}, {format_bytes(size)}")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
