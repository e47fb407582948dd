"""A model that reads a sequence piece by piece and keeps what it needs of the tokens it has seen."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache


@runtime_checkable
class Decoder(Protocol):
    """Rows of equal length that grow together."""

    def feed(self, tokens: Int[Tensor, "row new"]) -> Float[Tensor, "row d_model"]:
        """Append tokens to every row; the final, normalised residual stream at each row's last token."""
        ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows, in this order; a row may be kept several times."""
        ...


class CachedDecoder:
    """A HookedTransformer with its key/value cache: each token goes through the layers once."""

    def __init__(self, module: Any, rows: int) -> None:
        self._module = module
        self._cache = TransformerLensKeyValueCache.init_cache(module.cfg, module.cfg.device, rows)

    def feed(self, tokens: Int[Tensor, "row new"]) -> Float[Tensor, "row d_model"]:
        """See Decoder."""
        # Without a tokenizer TransformerLens cannot tell padding from tokens by itself: nothing here is padding.
        out = self._module(
            tokens,
            stop_at_layer=self._module.cfg.n_layers,
            past_kv_cache=self._cache,
            attention_mask=torch.ones_like(tokens),
            padding_side="right",
        )[:, -1:]
        final = out if self._module.cfg.normalization_type is None else self._module.ln_final(out)
        return final[:, 0]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """See Decoder."""
        for entry in self._cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]
        self._cache.previous_attention_mask = self._cache.previous_attention_mask[rows]


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
