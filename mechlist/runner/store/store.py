"""The activation store: what the model has computed once is read again, from RAM or from disk.

An entry is one prompt's activation at one hook, without batch axis or padding, under a key made of all that determines
it. Entries of one `put` share a file, because millions of small files are slow.

What the store gives out is safe to write to. From RAM it is a copy. From disk it is a view of a private, copy-on-write
map of the file, made anew for each call: cheaper than a copy, since only pages that the caller writes to are copied.
That is also why the RAM tier does not keep what was read from disk: the system's page cache already does.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.runner.store.disk import DiskTier, remove_leftovers, shard_files
from mechlist.runner.store.memory import MemoryTier
from mechlist.runner.store.shard import DTYPES, DamagedShardError, OtherVersionError, check_entries, read_header

Key = str
"""A digest that `entry_key` made."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One file of the store, as its header tells."""

    file: Path
    size: int
    """Bytes."""
    used: datetime
    """When it was last read, or written."""
    state: Literal["", "other version", "damaged"] = ""
    """Nothing for a sound header; the fields below are known then."""
    created: datetime | None = None
    fingerprint: str = ""
    entries: int = 0


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `ActivationStore.verify` found."""

    shards: int
    """Shards of this version that are sound."""
    entries: int
    """Entries of those."""
    other: int
    """Shards of another version, which are not checked."""
    bad: tuple[tuple[Path, str], ...]
    """Damaged shards, now removed, and those that cannot be read; and why."""


def entry_key(
    fingerprint: str,
    tokens: Int[Tensor, " position"],
    hook: str,
    positions: Int[Tensor, " n"] | None,
    dtype: str,
    context: str = "",
) -> Key:
    """SHA-256 of all that determines an activation, the same in every process.

    Args:
        fingerprint: of the model's weights: models of one name with other weights share nothing.
        tokens: the whole prompt.
        hook: name of the hook point.
        positions: where the activation is kept; None for everywhere.
        dtype: in which the model computes.
        context: whatever else has an influence, such as the interventions in place.
    """
    parts = [tokens] if positions is None else [tokens, positions]
    lengths = [len(tokens), None if positions is None else len(positions)]
    digest = hashlib.sha256(json.dumps([fingerprint, hook, dtype, context, *lengths]).encode())
    for part in parts:
        digest.update(part.detach().to("cpu", torch.int64).contiguous().numpy().data)
    return digest.hexdigest()


def default_directory() -> Path:
    """`$MECHLIST_CACHE`, or else `~/.cache/mechlist/activations`."""
    return Path(os.environ.get("MECHLIST_CACHE") or Path.home() / ".cache" / "mechlist" / "activations").expanduser()


def _say(message: str) -> None:
    print(f"mechlist: {message}", file=sys.stderr)


class ActivationStore:
    """A RAM tier over a disk tier; safe with several threads, and several processes on one directory.

    Trouble with the disk is told once and never raised: the store goes on with what still works.

    Args:
        directory: of the shards, made when the first is written; None for RAM alone.
        ram_bytes: most that the RAM tier holds.
        disk_bytes: most that the directory holds, if there is a bound; the shards used least recently go first.
        warn: told of each trouble once; the standard error stream without.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        ram_bytes: int,
        disk_bytes: int | None = None,
        warn: Callable[[str], None] = _say,
    ) -> None:
        self.directory = directory
        self._memory = MemoryTier(ram_bytes)
        self._disk = None if directory is None else DiskTier(directory, disk_bytes, warn)

    def get(self, keys: Sequence[Key]) -> list[Tensor | None]:
        """The activation under each key, on the CPU and the caller's own; None where it has to be computed."""
        found = self._memory.get(keys)
        left = [key for key in keys if key not in found]
        if left and self._disk is not None:
            found |= self._disk.get(left)
        return [found.get(key) for key in keys]

    def put(self, entries: Mapping[Key, Tensor], *, fingerprint: str = "") -> None:
        """Keep activations, on disk as one shard.

        Args:
            entries: activations by key, on any device; they are copied, one at a time.
            fingerprint: of the model, for `ls` to show.

        Raises:
            InputError: a type of numbers that cannot be stored.
        """
        for key, tensor in entries.items():
            if tensor.dtype not in DTYPES:
                allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
                raise InputError(f"An activation must be one of {allowed}, not {tensor.dtype} (entry {key}).")
        self._memory.put(entries)
        if self._disk is not None:
            self._disk.put(entries, fingerprint)

    def ls(self) -> list[ShardInfo]:
        """Every shard on disk, oldest first.

        Raises:
            OSError: the directory or a shard cannot be read.
        """
        shards = []
        for file in self._files():
            try:
                shards.append(_info(file))
            except FileNotFoundError:
                # Another process removed it meanwhile.
                continue
        return shards

    def verify(self) -> Verification:
        """Check every checksum on disk, and remove the shards that are damaged.

        Raises:
            OSError: the directory cannot be read.
        """
        shards = entries = other = 0
        bad: list[tuple[Path, str]] = []
        for file in self._files():
            try:
                shard = read_header(file)
                with file.open("rb", buffering=0) as handle:
                    check_entries(handle, shard, shard.entries)
                shards, entries = shards + 1, entries + len(shard.entries)
            except OtherVersionError:
                other += 1
            except FileNotFoundError:
                continue
            except DamagedShardError as damage:
                bad.append((file, f"{damage}; {_removed(file)}"))
            except OSError as error:
                bad.append((file, f"it cannot be read: {error.strerror}"))
        return Verification(shards=shards, entries=entries, other=other, bad=tuple(bad))

    def clear(self) -> int:
        """Forget everything, in RAM and on disk; returns how many shards that were.

        Raises:
            OSError: a shard cannot be removed.
        """
        self._memory.clear()
        files = self._files()
        for file in files:
            file.unlink(missing_ok=True)
        if self._disk is not None:
            self._disk.forget_all()
            remove_leftovers(self._disk.directory)
        return len(files)

    def _files(self) -> list[Path]:
        return [] if self.directory is None else list(shard_files(self.directory))


def _removed(file: Path) -> str:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        return f"it cannot be removed: {error.strerror}"
    return "removed"


def _info(file: Path) -> ShardInfo:
    status = file.stat()
    used = datetime.fromtimestamp(status.st_atime, UTC)
    try:
        shard = read_header(file)
    except OtherVersionError:
        return ShardInfo(file=file, size=status.st_size, used=used, state="other version")
    except DamagedShardError:
        return ShardInfo(file=file, size=status.st_size, used=used, state="damaged")
    return ShardInfo(
        file=file,
        size=status.st_size,
        used=used,
        created=datetime.fromtimestamp(shard.created / 1e9, UTC),
        fingerprint=shard.fingerprint,
        entries=len(shard.entries),
    )
