"""Entries whose contents follow from their keys, and stores to keep them in."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mechlist.runner.store.store import ActivationStore, entry_key


def key(name: object) -> str:
    return entry_key("model", torch.tensor([1]), str(name), None, "float32")


def entries(count: int = 6, start: int = 0, shape: tuple[int, ...] = (5, 7)) -> dict[str, Tensor]:
    """Entries that follow from their keys."""
    return {key(n): torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in range(start, start + count)}


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(found: list[Tensor | None], expected: Mapping[str, Tensor]) -> bool:
    return [None if t is None else bits(t) for t in found] == [bits(t) for t in expected.values()]


def disk(directory: Path, messages: list[str] | None = None, disk_bytes: int | None = None) -> ActivationStore:
    """A store without RAM tier, so that every answer is the disk's."""
    warn = [].append if messages is None else messages.append
    return ActivationStore(directory, ram_bytes=0, disk_bytes=disk_bytes, warn=warn)


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))
