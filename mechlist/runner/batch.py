"""What one forward pass over a batch of prompts gives."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.logits import NextToken, next_token
from mechlist.models.language_model import LanguageModel
from mechlist.runner.interventions import Rows
from mechlist.runner.positions import gather, padded_axes, real_entries


@dataclass(frozen=True)
class Batch:
    """Captured activations of a few prompts, on the model's device; logits are computed only where asked for.

    `batch["blocks.0.hook_resid_post"]` is an activation [row, n, d_model] at the n positions asked for (all without);
    z, q, k and v are [row, n, head, d_head], patterns and scores [row, head, n, key]. Rows come in no certain order:
    `Runner.map` puts what is returned back into the order of the prompts. Beyond a row's length there is padding, whose
    activations mean nothing: `real` says where tokens are.
    """

    rows: Rows
    """Which prompts these are: `rows.index` is each row's number among the prompts, `rows.lengths` its tokens."""
    tokens: Int[Tensor, "row position"]
    """Token ids of each row, padded on the right to the longest one."""
    activations: Mapping[str, Tensor]
    """By hook name; at the positions asked for, in their order."""
    normalized: Float[Tensor, "row position d_model"]
    """The final residual stream after the last norm."""
    positions: Int[Tensor, "row n"] | None
    """The positions asked for, counted from the start of each row; None for all."""
    model: LanguageModel
    """That made them; its `unembed` makes logits of normalised streams."""
    chunk_bytes: int
    """Logits are made in pieces that take no more than these bytes."""

    def __getitem__(self, hook: str) -> Tensor:
        """The activation captured at `hook`."""
        if hook not in self.activations:
            raise InputError(f"{hook} was not captured; captured were {', '.join(self.activations) or 'no hooks'}.")
        return self.activations[hook]

    @property
    def real(self) -> Bool[Tensor, "row position"]:
        """Where tokens are, and not padding."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.rows.lengths.unsqueeze(1)

    def logits(self, columns: Int[Tensor, " column"] | None = None) -> Float[Tensor, "row n vocab"]:
        """Logits at the positions asked for (all without), of every token or of `columns` only."""
        chosen = gather(self.normalized, self.positions)
        width = self.model.shape.d_vocab_out if columns is None else len(columns)
        wanted = None if columns is None else columns.to(chosen.device)
        size = self._tokens_at_once(width)
        if chosen.shape[0] * chosen.shape[1] <= size:
            return self.model.unembed(chosen, wanted)
        out = chosen.new_empty(*chosen.shape[:2], width)
        for streams, logits in zip(chosen.flatten(0, 1).split(size), out.flatten(0, 1).split(size), strict=True):
            logits.copy_(self.model.unembed(streams, wanted))
        return out

    def next_tokens(self) -> NextToken:
        """About the token after each position: log-probability in nats (NaN where there is none) and correctness.

        Both are [row position-1]; logits are made in pieces and never kept.
        """
        real = self.real[:, 1:]
        streams = self.normalized[:, :-1][real]
        targets = self.tokens[:, 1:][real]
        size = self._tokens_at_once(self.model.shape.d_vocab_out)
        parts = [
            next_token(self.model.unembed(s), t) for s, t in zip(streams.split(size), targets.split(size), strict=True)
        ]
        log_prob = torch.full(real.shape, torch.nan, device=real.device)
        correct = torch.zeros(real.shape, dtype=torch.bool, device=real.device)
        if parts:
            log_prob[real] = torch.cat([p.log_prob for p in parts])
            correct[real] = torch.cat([p.correct for p in parts])
        return NextToken(log_prob, correct)

    def _tokens_at_once(self, width: int) -> int:
        """Tokens whose logits of `width` columns, with two copies (softcap, softmax), keep to `chunk_bytes`."""
        return max(1, self.chunk_bytes // (3 * 4 * max(1, width)))


def masked_activations(batch: Batch) -> dict[str, Tensor]:
    """The captured activations with NaN at padding, so that no row depends on its batch."""
    if bool((batch.rows.lengths == batch.tokens.shape[1]).all()):
        return dict(batch.activations)
    out: dict[str, Tensor] = {}
    for hook, value in batch.activations.items():
        axes = padded_axes(hook, value.ndim, every_position=batch.positions is None)
        out[hook] = value.masked_fill(~real_entries(value.shape, axes, batch.rows.lengths), torch.nan)
    return out
