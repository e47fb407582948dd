"""The disk tier of the activation store: a directory of shards that several processes read and write at once.

There is no server and no lock: a shard appears whole, by a rename, under a name that no one else uses, and is never
changed. Each process lists the directory when it misses an entry, and reads the headers of the shards it has not seen.
Nothing is forced to the disk: what a power cut leaves behind is found out by its checksums.
"""

import contextlib
import os
import re
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from mechlist.runner.store.shard import (
    ChangedShardError,
    DamagedShardError,
    OtherVersionError,
    Shard,
    read_entries,
    read_header,
    shard_size,
    write_shard,
)

# No other file is touched: a directory given by mistake may hold someone's weights.
_NAME = re.compile(r"activations-[0-9a-f]{16}-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.safetensors(\.part)?")
_STALE_SECONDS = 24 * 3600


class DiskTier:
    """Shards in a directory, at most `limit` bytes of them; no trouble with the disk is an error."""

    def __init__(self, directory: Path, limit: int | None, warn: Callable[[str], None]) -> None:
        self.directory = directory
        self._limit = limit
        self._warn = warn
        self._lock = threading.Lock()
        self._shards: dict[str, Shard] = {}
        self._where: dict[str, list[Shard]] = {}
        self._checked: dict[Shard, set[str]] = {}
        self._ignored: set[str] = set()
        self._said: set[str] = set()
        self._writable = True

    def get(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The entries that are here and sound."""
        found: dict[str, Tensor] = {}
        listed = False
        while left := [key for key in dict.fromkeys(keys) if key not in found]:
            if not listed and any(key not in self._where for key in left):
                self._scan()
                listed = True
            shards = self._locate(left)
            if not shards:
                break
            # Each round finds an entry or forgets a shard, so that a duplicate elsewhere gets its turn.
            for shard, members in shards.items():
                found |= self._read(shard, members)
        return found

    def put(self, entries: Mapping[str, Tensor], fingerprint: str) -> None:
        """Write one shard, after removing others to make room for it."""
        if not entries or not self._writable:
            return
        size = 0 if self._limit is None else shard_size(entries, fingerprint)
        if self._limit is not None and size > self._limit:
            self._say("large", f"A batch of {size} bytes is larger than all that {self.directory} may hold.")
            return
        name = f"activations-{time.time_ns():016x}-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.safetensors"
        file, part = self.directory / name, self.directory / f"{name}.part"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.directory)
            if self._limit is not None:
                self._make_room(self._limit - size)
            write_shard(part, entries, fingerprint)
            part.replace(file)
            # Another process that needs room may have removed it already.
            with contextlib.suppress(FileNotFoundError):
                self._add(read_header(file))
        except (OSError, DamagedShardError) as error:
            self._writable = False
            self._trouble(error)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Forget every shard, as after removing them."""
        for name in list(self._shards):
            self._forget(name)

    def _locate(self, keys: Sequence[str]) -> dict[Shard, list[str]]:
        shards: dict[Shard, list[str]] = {}
        with self._lock:
            for key in keys:
                if key in self._where:
                    shards.setdefault(self._where[key][-1], []).append(key)
        return shards

    def _read(self, shard: Shard, keys: Sequence[str]) -> dict[str, Tensor]:
        try:
            return read_entries(shard, keys, self._checked.setdefault(shard, set()))
        except DamagedShardError as damage:
            self._discard(shard.file, str(damage))
        except (ChangedShardError, FileNotFoundError):
            # Removed by another process; or written to, and then the next scan tells what it is now.
            self._forget(shard.file.name)
        except OSError as error:
            self._forget(shard.file.name)
            self._ignored.add(shard.file.name)
            self._trouble(error)
        return {}

    def _discard(self, file: Path, reason: str) -> None:
        """Remove a damaged shard and say so."""
        self._forget(file.name)
        self._ignored.add(file.name)
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        self._say(file.name, f"The shard {file} is damaged ({reason}): its activations are computed again.")

    def _scan(self) -> None:
        """Learn of the shards that other processes wrote."""
        try:
            files = list(shard_files(self.directory))
        except OSError as error:
            self._trouble(error)
            return
        for file in files:
            if file.name in self._shards or file.name in self._ignored:
                continue
            try:
                self._add(read_header(file))
            except OtherVersionError:
                self._ignored.add(file.name)
            except DamagedShardError as damage:
                self._discard(file, str(damage))
            except FileNotFoundError:
                continue
            except OSError as error:
                self._ignored.add(file.name)
                self._trouble(error)

    def _add(self, shard: Shard) -> None:
        with self._lock:
            if shard.file.name not in self._shards:
                self._shards[shard.file.name] = shard
                for key in shard.entries:
                    self._where.setdefault(key, []).append(shard)

    def _forget(self, name: str) -> None:
        with self._lock:
            shard = self._shards.pop(name, None)
            if shard is None:
                return
            self._checked.pop(shard, None)
            for key in shard.entries:
                self._where[key].remove(shard)
                if not self._where[key]:
                    del self._where[key]

    def _make_room(self, size: int) -> None:
        """Remove the shards used least recently until the others take `size` bytes at most."""
        used: list[tuple[int, int, Path]] = []
        for file in shard_files(self.directory):
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                used.append((status.st_atime_ns, status.st_size, file))
        total = sum(bytes_ for _, bytes_, _ in used)
        for _, bytes_, file in sorted(used):
            if total <= size:
                return
            file.unlink(missing_ok=True)
            self._forget(file.name)
            total -= bytes_

    def _trouble(self, error: Exception) -> None:
        self._say("trouble", f"The activation store in {self.directory} fails, the run goes on without it: {error}")

    def _say(self, topic: str, message: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            self._warn(message)


def shard_files(directory: Path) -> Iterator[Path]:
    """Every shard in a directory, of whatever version, oldest first; none in a directory that does not exist.

    Raises:
        OSError: the directory cannot be listed.
    """
    for name in _names(directory):
        if name.endswith(".safetensors"):
            yield directory / name


def remove_leftovers(directory: Path) -> None:
    """Remove what crashed writers left: parts of processes that have ended, or older than a day."""
    for name in _names(directory):
        match = _NAME.fullmatch(name)
        if match is None or match[3] is None:
            continue
        file = directory / name
        with contextlib.suppress(OSError):
            ended = match[1] == _host() and not _alive(int(match[2]))
            if ended or time.time() - file.stat().st_mtime > _STALE_SECONDS:
                file.unlink()


def _names(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as found:
            return sorted(item.name for item in found if _NAME.fullmatch(item.name))
    except FileNotFoundError:
        return []


def _host() -> str:
    # Process numbers mean something on one machine only, and directories are shared by several.
    return f"{zlib.crc32(os.uname().nodename.encode()):08x}"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
