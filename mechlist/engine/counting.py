"""Counts what torch does while it does it: operations of matrix products, and bytes that are alive at the same time."""

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary


class Counter(TorchDispatchMode):
    """A context in which all that torch does is counted.

    Bytes are those of tensors that are made inside it, on one kind of device. What an operation needs for itself while
    it runs is not seen.
    """

    def __init__(self, device: str) -> None:
        """`device` is the kind whose memory is counted: cpu, cuda or mps."""
        super().__init__()
        self.flops = 0
        """Two for each multiplication and addition."""
        self.live = 0
        self.peak = 0
        self.own_seconds = 0.0
        """That counting took, and not what is counted."""
        self._device = device
        self._paused = False
        # By identity; torch's own references are for tensors, whose objects can come back to life.
        reference: Any = weakref.ref
        self._known = WeakIdKeyDictionary(ref_type=reference)

    @property
    def counting(self) -> bool:
        """Whether it is not paused."""
        return not self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing inside, and slow nothing down."""
        if self._paused:
            yield
            return
        self._paused = True
        super().__exit__(None, None, None)
        try:
            yield
        finally:
            super().__enter__()
            self._paused = False

    def held(self, size: int) -> None:
        """Note bytes that are alive for a moment besides those that are counted."""
        self.peak = max(self.peak, self.live + size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every operation."""
        started = time.perf_counter()
        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            # Without gradients some operations arrive here before they are taken apart into matrix products.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        for given in _tensors((args, kwargs)):
            self._known.setdefault(given.untyped_storage(), 0)
        began = time.perf_counter()
        out = func(*args, **kwargs)
        ended = time.perf_counter()
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=out)
        for made in _tensors(out):
            self._note(made.untyped_storage())
        self.own_seconds += time.perf_counter() - ended + began - started
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known or storage.device.type != self._device:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, size).atexit = False

    def _freed(self, size: int) -> None:
        self.live -= size


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided)
