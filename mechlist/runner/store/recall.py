"""Between a forward pass and the activation store: batches are split into entries, and entries joined into batches.

The rounding of a row depends on the shape of its batch, so the shape is part of an entry's key: what is read back is
bit for bit what would be computed, and a run does not depend on what happens to be stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.runner.positions import padded_axes
from mechlist.runner.store.store import ActivationStore, Key, entry_key

FINAL = "final residual stream, normalized"
"""Stored beside every capture, since logits are made from it."""


@dataclass(frozen=True)
class Recall:
    """The store as one model sees it."""

    store: ActivationStore
    fingerprint: str
    device: torch.device
    dtype: torch.dtype

    def get(
        self,
        prompts: Sequence[Int[Tensor, " _"]],
        hooks: Sequence[str],
        positions: Int[Tensor, "row n"] | None,
    ) -> dict[str, Tensor] | None:
        """Activations of a batch by hook, with `FINAL` among them, or None unless all of them are there.

        They are on the model's device; padding is zero.
        """
        names = [*hooks, FINAL]
        keys = [self._keys(prompts, name, positions) for name in names]
        found = self.store.get([key for group in keys for key in group])
        if any(entry is None for entry in found):
            return None
        out: dict[str, Tensor] = {}
        for i, name in enumerate(names):
            entries = [e for e in found[i * len(prompts) : (i + 1) * len(prompts)] if e is not None]
            out[name] = _join(entries).to(self.device)
        return out

    def put(
        self,
        prompts: Sequence[Int[Tensor, " _"]],
        activations: Mapping[str, Tensor],
        positions: Int[Tensor, "row n"] | None,
    ) -> None:
        """Keep the activations of a batch, without their padding."""
        entries: dict[Key, Tensor] = {}
        for name, value in activations.items():
            every = positions is None or name == FINAL
            axes = padded_axes(name, value.ndim, every)
            keys = self._keys(prompts, name, positions)
            for row, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
                entry = value[row]
                for axis in axes:
                    entry = entry.narrow(axis - 1, 0, len(prompt))
                entries[key] = entry
        self.store.put(entries, fingerprint=self.fingerprint)

    def _keys(
        self,
        prompts: Sequence[Int[Tensor, " _"]],
        name: str,
        positions: Int[Tensor, "row n"] | None,
    ) -> list[Key]:
        width = max(len(prompt) for prompt in prompts)
        machine = f"torch {torch.__version__}, {self.device.type}, {torch.get_num_threads()} threads"
        return [
            entry_key(
                self.fingerprint,
                prompt,
                name,
                None if positions is None or name == FINAL else positions[row],
                str(self.dtype),
                f"{machine}, row {row} of {len(prompts)} x {width}",
            )
            for row, prompt in enumerate(prompts)
        ]


def _join(entries: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, "row ..."]:
    """Stack activations of unequal length, with zeros where a shorter one has ended."""
    size = [max(entry.shape[axis] for entry in entries) for axis in range(entries[0].ndim)]
    if all(list(entry.shape) == size for entry in entries):
        return torch.stack(list(entries))
    out = entries[0].new_zeros(len(entries), *size)
    for row, entry in enumerate(entries):
        out[(row, *(slice(0, n) for n in entry.shape))] = entry
    return out
