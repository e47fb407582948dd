"""Changes to features of an SAE with its error kept, along given texts and in those that a model writes.

With the error kept, to make feature i worth n instead of f is to add (n - f) W_dec_i to the activation.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.decode import HookEdit
from mechlist.runner import Intervention, Rows
from mechlist.sae.sae import Sae, flat

FeatureMode = Literal["zero", "mean", "scale", "steer"]
WhereWritten = Callable[[Int[Tensor, "row token"], int, int], Bool[Tensor, "row token"]]
"""Of the tokens that are read, the position of the first and that of the prompt's last: which are changed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureChange:
    """What is done to some features of an SAE at every token where it is asked for.

    zero: they are 0. mean: each is its `values`. scale: each is multiplied by its `values`. steer: `values` are added,
    also where the feature is not active. Without features nothing changes but for rounding: the activation is replaced
    by reconstruction plus error.
    """

    sae: Sae
    features: tuple[int, ...]
    mode: FeatureMode = "zero"
    values: Float[Tensor, " feature"] | None = None
    """One a feature; None for zero."""

    @property
    def name(self) -> str:
        """Digest of all that the result depends on."""
        values = None if self.values is None else self.values.tolist()
        return hashlib.sha256(f"{self.sae.name} {self.features} {self.mode} {values}".encode()).hexdigest()[:16]

    def changed(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """The activation with the features changed."""
        if not len(x):
            return x
        if not self.features:
            made = self.sae.decode(self.sae.encode(x)).to(x)
            return made + (x - made)
        decoder = self.sae.decoder
        chosen = torch.tensor(self.features, device=decoder.device)
        values = None if self.values is None else self.values.to(decoder)
        if self.mode == "steer":
            assert values is not None
            return x + (values @ decoder[chosen]).to(x)
        f = self.sae.encode(x)[:, chosen]
        if self.mode == "zero" or values is None:
            new = torch.zeros_like(f)
        else:
            new = values.expand_as(f) if self.mode == "mean" else values * f
        return x + ((new - f) @ decoder[chosen]).to(x)


def along(change: FeatureChange, where: Bool[Tensor, "prompt position"]) -> Intervention:
    """The change along given prompts, at the positions of each."""

    def intervened(activation: Tensor, rows: Rows) -> Tensor:
        here = where[rows.index][:, : activation.shape[1]].to(activation.device)
        return _at(change, activation, here)

    return Intervention(change.sae.hook, intervened)


def while_writing(changes: Sequence[FeatureChange], where: WhereWritten, name: str) -> HookEdit:
    """The changes for texts that a model writes.

    Args:
        changes: one an SAE; two of one hook are made one after the other.
        where: tokens that are changed.
        name: of `where`, for what results depend on.
    """
    by_hook: dict[str, list[FeatureChange]] = {}
    for change in changes:
        by_hook.setdefault(change.sae.hook, []).append(change)
    return HookEdit(
        changes={hook: partial(_read, own, where) for hook, own in by_hook.items()},
        name=" ".join([name, *(change.name for change in changes)]),
    )


def _read(
    changes: Sequence[FeatureChange],
    where: WhereWritten,
    activation: Tensor,
    tokens: Int[Tensor, "row token"],
    first: int,
    last: int,
) -> Tensor:
    here = where(tokens, first, last).to(activation.device)
    for change in changes:
        activation = _at(change, activation, here)
    return activation


def _at(change: FeatureChange, activation: Tensor, here: Bool[Tensor, "row token"]) -> Tensor:
    if not here.any():
        return activation
    out = flat(activation).clone()
    out[here] = change.changed(out[here])
    return out.reshape(activation.shape)
