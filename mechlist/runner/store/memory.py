"""The RAM tier of the activation store: least recently used goes first, bounded in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class MemoryTier:
    """Private copies of activations on the CPU, never more than `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """A copy of each entry that is here."""
        with self._lock:
            found = {key: self._entries[key] for key in keys if key in self._entries}
            for key in found:
                self._entries.move_to_end(key)
        return {key: entry.clone() for key, entry in found.items()}

    def put(self, entries: Mapping[str, Tensor]) -> None:
        """Keep a copy of each entry, the last of them longest; one that is larger than the bound is not kept."""
        for key, tensor in entries.items():
            with self._lock:
                self._drop(key)
                if tensor.nbytes > self.limit:
                    continue
                while self.size + tensor.nbytes > self.limit:
                    self._drop(next(iter(self._entries)))
                self.size += tensor.nbytes
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                self._entries[key] = copy.copy_(tensor.detach())

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.size = 0

    def _drop(self, key: str) -> None:
        dropped = self._entries.pop(key, None)
        self.size -= 0 if dropped is None else dropped.nbytes
