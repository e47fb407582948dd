"""A model that reads a sequence piece by piece and keeps what it needs of the tokens it has seen."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.models.layers.layers import Layers

Change = Callable[[int, str, Tensor, Tensor, int], Tensor]
"""Called with a layer, a site (z, or one that `Layers.finish` touches), its activation [row token ...], the tokens that
are read and the position of the first of them; returns what goes on in place of it, which is never changed in place."""


@runtime_checkable
class Decoder(Protocol):
    """Rows of equal length that grow together."""

    def feed(self, tokens: Int[Tensor, "row new"]) -> Float[Tensor, "row d_model"]:
        """Append tokens to every row; the final, normalised residual stream at each row's last token."""
        ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows, in this order; a row may be kept several times."""
        ...

    def fork(self, rows: Int[Tensor, " kept"], capacity: int) -> "Decoder":
        """Another reader, which goes on with these rows up to `capacity` tokens; this one stays as it is."""
        ...


class CachedDecoder:
    """A model whose layers run one by one, with a key/value cache: each token goes through them once."""

    def __init__(self, layers: Layers, rows: int, capacity: int, like: Tensor, change: Change | None = None) -> None:
        """A decoder that has read nothing.

        Args:
            layers: of the model.
            rows: sequences.
            capacity: tokens that each may grow to.
            like: a weight; the cache has its type and device.
            change: what is done to activations of each layer.
        """
        self._layers, self._change = layers, change
        # What one head has seen lies together: it is read whole for every new token.
        size = (rows, layers.n_key_value_heads, capacity, layers.d_head)
        self._keys, self._values = ([like.new_empty(size) for _ in range(layers.n_layers)] for _ in "kv")
        self._seen = 0

    def feed(self, tokens: Int[Tensor, "row new"]) -> Float[Tensor, "row d_model"]:
        """See Decoder."""
        rows, end = tokens.shape[0], self._seen + tokens.shape[1]
        positions = torch.arange(self._seen, end, device=tokens.device)
        x = self._layers.embed(tokens, self._seen).flatten(0, 1)
        for layer in range(len(self._keys)):
            q, k, v = (t.view(rows, -1, *t.shape[1:]) for t in self._layers.project(layer, x))
            keys, values = self._keys[layer], self._values[layer]
            keys[:, :, self._seen : end] = self._layers.place(layer, k, positions, "k").transpose(1, 2)
            values[:, :, self._seen : end] = v.transpose(1, 2)
            q = self._layers.place(layer, q, positions, "q")
            k, v = (held[:, :, :end].transpose(1, 2) for held in (keys, values))
            z = self._layers.attend(layer, q, k, v, positions, _untouched)
            touch = partial(self._touched, layer, tokens)
            x = self._layers.finish(layer, x, touch("z", z.reshape(len(x), *z.shape[2:])), touch)
        self._seen = end
        return self._layers.final(x.view(rows, -1, x.shape[-1])[:, -1])

    def _touched(self, layer: int, tokens: Int[Tensor, "row new"], site: str, activation: Tensor) -> Tensor:
        """An activation of packed tokens, changed."""
        if self._change is None:
            return activation
        rows = activation.unflatten(0, tokens.shape)
        return self._change(layer, site, rows, tokens, self._seen).flatten(0, 1)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """See Decoder."""
        for held in (self._keys, self._values):
            for layer, old in enumerate(held):
                held[layer] = self._taken(old, rows, old.shape[2])

    def fork(self, rows: Int[Tensor, " kept"], capacity: int) -> "CachedDecoder":
        """See Decoder."""
        other = copy.copy(self)
        other._keys, other._values = (
            [self._taken(old, rows, capacity) for old in held] for held in (self._keys, self._values)
        )
        return other

    def _taken(
        self, held: Float[Tensor, "row kv_head token d_head"], rows: Int[Tensor, " kept"], capacity: int
    ) -> Float[Tensor, "kept kv_head capacity d_head"]:
        """What has been read of these rows, with room for more."""
        taken = held.new_empty((len(rows), held.shape[1], capacity, held.shape[3]))
        taken[:, :, : self._seen] = held[rows, :, : self._seen]
        return taken


class RecomputingDecoder:
    """Any model: every piece runs the whole sequence again. Exact and slow."""

    def __init__(self, residual: Callable[[Tensor, Sequence[Any]], Tensor]) -> None:
        self._residual = residual
        self._seen: Tensor | None = None

    def feed(self, tokens: Int[Tensor, "row new"]) -> Float[Tensor, "row d_model"]:
        """See Decoder."""
        self._seen = tokens if self._seen is None else torch.cat([self._seen, tokens], dim=1)
        return self._residual(self._seen, [])[:, -1]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """See Decoder."""
        if self._seen is not None:
            self._seen = self._seen[rows]

    def fork(self, rows: Int[Tensor, " kept"], capacity: int) -> "RecomputingDecoder":  # noqa: ARG002 (it keeps tokens alone)
        """See Decoder."""
        other = copy.copy(self)
        other.keep(rows)
        return other


def _untouched(name: str, activation: Tensor) -> Tensor:  # noqa: ARG001
    return activation
