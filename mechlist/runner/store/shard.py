"""One shard of the activation store: a safetensors file that carries checksums, and is never changed once written.

The format is written here rather than by the safetensors library, so that entries stream to the disk one at a time and
their checksums reach the header without a second pass. CRC-32 finds every flipped bit and runs at gigabytes a second.
"""

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

VERSION = "1"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What can be stored, by its name in safetensors."""
_NAMED = {name: dtype for dtype, name in DTYPES.items()}
_ALIGNMENT = 64
_CHUNK = 2**20
_NO_CHECKSUM = b'"header":"00000000"'


class DamagedShardError(Exception):
    """A shard is not what was written."""


class OtherVersionError(Exception):
    """A shard is in a format of another version."""


class ChangedShardError(Exception):
    """A shard was written to since its header was read."""


class Entry(NamedTuple):
    """Where one activation lies in its file, and the checksum of its bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int
    checksum: int


@dataclass(frozen=True, eq=False)
class Shard:
    """The header of a shard."""

    file: Path
    size: int
    modified: int
    fingerprint: str
    created: int
    entries: Mapping[str, Entry]


def write_shard(file: Path, entries: Mapping[str, Tensor], fingerprint: str) -> None:
    """Write a new file, one entry in memory at a time.

    Raises:
        OSError: it cannot be written.
    """
    # Without holes, as safetensors demands, every entry is aligned only if the widest elements come first.
    ordered = dict(sorted(entries.items(), key=lambda item: -item[1].element_size()))
    created = time.time_ns()
    checksums = [0] * len(ordered)
    with file.open("xb") as handle:
        handle.write(_header(ordered, fingerprint, created, checksums))
        for number, tensor in enumerate(ordered.values()):
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            checksums[number] = zlib.crc32(data)
            handle.write(data)
        handle.seek(0)
        handle.write(_header(ordered, fingerprint, created, checksums))


def shard_size(entries: Mapping[str, Tensor], fingerprint: str) -> int:
    """Bytes of the file that `write_shard` would write."""
    header = _header(entries, fingerprint, time.time_ns(), [0] * len(entries))
    return len(header) + sum(tensor.nbytes for tensor in entries.values())


def read_header(file: Path) -> Shard:
    """Read and check a header; the data are checked entry by entry when they are read.

    Raises:
        DamagedShardError: the header or the length of the file is not what was written.
        OtherVersionError: another version of this format.
        OSError: the file cannot be read.
    """
    with file.open("rb") as handle:
        status = os.fstat(handle.fileno())
        length = int.from_bytes(handle.read(8), "little")
        text = handle.read(length) if length < status.st_size else b""
    header = _parse(text)
    metadata = header.pop("__metadata__")
    entries: dict[str, Entry] = {}
    for checksum, (key, field) in zip(metadata["checksums"].split(), header.items(), strict=True):
        begin, end = (8 + length + offset for offset in field["data_offsets"])
        entries[key] = Entry(_NAMED[field["dtype"]], tuple(field["shape"]), begin, end, int(checksum, 16))
    if max((entry.end for entry in entries.values()), default=8 + length) != status.st_size:
        raise DamagedShardError("its length is wrong")
    modified, created = status.st_mtime_ns, int(metadata["created"])
    return Shard(file, status.st_size, modified, metadata["fingerprint"], created, entries)


def read_entries(shard: Shard, keys: Sequence[str], checked: set[str]) -> dict[str, Tensor]:
    """Entries as views of a private map of the file, made for this call: who writes to one changes no other reader's.

    Args:
        shard: header of the file.
        keys: which of its entries.
        checked: entries whose checksum was found right before; those of this call are added.

    Raises:
        DamagedShardError: an entry is not what was written.
        ChangedShardError: the file is not the one whose header was read.
        OSError: the file cannot be read, or is gone.
    """
    with shard.file.open("rb", buffering=0) as handle:
        status = os.fstat(handle.fileno())
        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.modified):
            raise ChangedShardError
        # Read, not mapped: a bad sector is an exception here, and would kill the process in a map.
        check_entries(handle, shard, [key for key in keys if key not in checked])
        checked.update(keys)
        # The time of access says when a shard was last used; that of modification stays, to betray a change.
        with contextlib.suppress(OSError):
            os.utime(handle.fileno(), ns=(time.time_ns(), shard.modified))
    try:
        storage: Any = torch.UntypedStorage.from_file(str(shard.file), shared=False, nbytes=shard.size)
    except RuntimeError as error:
        # torch does not say which: removed by another process, or memory that may not be mapped.
        raise (OSError if shard.file.exists() else FileNotFoundError)(str(error)) from error
    return {key: _view(storage, shard.entries[key]) for key in keys}


def check_entries(handle: FileIO, shard: Shard, keys: Iterable[str]) -> None:
    """Compare the checksums of entries, in bounded memory.

    Raises:
        DamagedShardError: an entry is not what was written.
    """
    chosen = [shard.entries[key] for key in keys]
    buffer = memoryview(bytearray(min(_CHUNK, max((e.end - e.begin for e in chosen), default=0))))
    for entry in chosen:
        handle.seek(entry.begin)
        checksum, left = 0, entry.end - entry.begin
        while left and (count := handle.readinto(buffer[: min(left, len(buffer))])):
            checksum = zlib.crc32(buffer[:count], checksum)
            left -= count
        if left or checksum != entry.checksum:
            raise DamagedShardError("a checksum is wrong")


def _view(storage: Any, entry: Entry) -> Tensor:
    if entry.begin == entry.end:
        return torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
    # A slice of the storage, so that pickling the tensor takes its own bytes only.
    own = storage[entry.begin : entry.end]
    return torch.empty(0, dtype=entry.dtype, device="cpu").set_(own).view(entry.shape)


def _header(entries: Mapping[str, Tensor], fingerprint: str, created: int, checksums: Sequence[int]) -> bytes:
    """Length and text of a header; equally long whatever the checksums are."""
    metadata = {
        "header": "00000000",
        "mechlist_version": VERSION,
        "fingerprint": fingerprint,
        "created": str(created),
        "checksums": " ".join(f"{c:08x}" for c in checksums),
    }
    fields: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key, tensor in entries.items():
        begin, end = end, end + tensor.nbytes
        fields[key] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    own = f'"header":"{zlib.crc32(text):08x}"'.encode()
    return len(text).to_bytes(8, "little") + text.replace(_NO_CHECKSUM, own, 1)


def _parse(text: bytes) -> dict[str, Any]:
    """The fields of a header whose own checksum is right."""
    try:
        header = json.loads(text)
        metadata = header["__metadata__"]
        version, own = metadata["mechlist_version"], f'"header":"{metadata.get("header")}"'.encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedShardError("its header cannot be read") from error
    if version != VERSION:
        raise OtherVersionError
    if own != f'"header":"{zlib.crc32(text.replace(own, _NO_CHECKSUM, 1)):08x}"'.encode():
        raise DamagedShardError("the checksum of its header is wrong")
    return header
