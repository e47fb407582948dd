"""Scores of attention heads on a block of tokens shown twice: `r + r`, with or without a BOS token before it.

Each score is the mean of one diagonal of the attention pattern. The *strict* form leaves out the entries that are
forced or ambiguous: the BOS token as query or key, and queries that have nothing to repeat yet. The *loose* form takes
the whole diagonal, as most code does.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Pattern = Float[Tensor, "batch head query key"]
Scores = Float[Tensor, "batch head"]


@dataclass(frozen=True)
class HeadScores:
    """Mean attention of each head along one diagonal, per sequence, between 0 and 1."""

    strict: Scores
    loose: Scores


def induction_score(pattern: Pattern, period: int) -> HeadScores:
    """Attention from each token of the second block to the successor of its first occurrence (Olsson et al. 2022).

    Strict: the last `period` queries. Loose: the whole stripe, one entry more, or with BOS two.
    """
    stripe = _diagonal(pattern, period - 1)
    return HeadScores(stripe[..., -period:].mean(-1), stripe.mean(-1))


def duplicate_token_score(pattern: Pattern, period: int) -> HeadScores:
    """Attention from each token of the second block to its first occurrence.

    Loose: with BOS one entry more, from the last token of the first block to BOS.
    """
    stripe = _diagonal(pattern, period)
    return HeadScores(stripe[..., -period:].mean(-1), stripe.mean(-1))


def previous_token_score(pattern: Pattern, has_bos: bool) -> HeadScores:
    """Attention to the token before. Strict: without the query whose token before is BOS."""
    stripe = _diagonal(pattern, 1)
    return HeadScores(stripe[..., int(has_bos) :].mean(-1), stripe.mean(-1))


def current_token_score(pattern: Pattern) -> HeadScores:
    """Attention to the token itself. Strict: without the first query, which can attend to nothing else."""
    stripe = _diagonal(pattern, 0)
    return HeadScores(stripe[..., 1:].mean(-1), stripe.mean(-1))


def first_token_score(pattern: Pattern) -> HeadScores:
    """Attention to the first position. Strict: without the first query, which can attend to nothing else."""
    column = pattern[..., 0].float()
    return HeadScores(column[..., 1:].mean(-1), column.mean(-1))


def all_head_scores(pattern: Pattern, period: int, has_bos: bool) -> dict[str, HeadScores]:
    """The five scores by name."""
    return {
        "induction_score": induction_score(pattern, period),
        "previous_token_score": previous_token_score(pattern, has_bos),
        "duplicate_token_score": duplicate_token_score(pattern, period),
        "current_token_score": current_token_score(pattern),
        "first_token_score": first_token_score(pattern),
    }


def _diagonal(pattern: Pattern, distance: int) -> Float[Tensor, "batch head entry"]:
    """Attention of every query to the key `distance` before it, in float32."""
    return torch.diagonal(pattern, offset=-distance, dim1=-2, dim2=-1).float()


def attention_rollout(pattern: Float[Tensor, "layer head query key"]) -> Float[Tensor, "query key"]:
    """How much of each position's stream stems from each token, if heads only pass on what they attend to.

    Attention averaged over heads and mixed half and half with the residual stream, multiplied over the layers (Abnar &
    Zuidema 2020). Each row adds up to 1.
    """
    mean = pattern.double().mean(dim=1)
    mixed = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
    out = mixed[0]
    for layer in mixed[1:]:
        out = layer @ out
    return out


def value_weighted_attention(
    weights: Float[Tensor, "head key"],
    values: Float[Tensor, "key kv_head d_head"],
    w_o: Float[Tensor, "head d_head d_model"],
) -> Float[Tensor, "head key"]:
    """Length of what each head adds to the stream from each key: attention x |v W_O| (Kobayashi et al. 2020)."""
    own = values.double().repeat_interleave(len(w_o) // values.shape[1], dim=1)
    added = torch.einsum("khd,hdm->hkm", own, w_o.double())
    return weights.double() * added.norm(dim=-1)
