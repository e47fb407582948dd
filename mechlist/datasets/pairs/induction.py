"""Pairs of prompts that differ in what induction reads and in nothing else."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError

SHORTEST = 5
"""Tokens of a block: one before the chosen, two neighbours of each."""


@dataclass(frozen=True)
class InductionPairs:
    """See `induction_pairs`."""

    clean: Int[Tensor, "prompt position"]
    corrupt: Int[Tensor, "prompt position"]
    answer: Int[Tensor, " prompt"]
    """Follows the last token's first occurrence in the clean prompt."""
    wrong: Int[Tensor, " prompt"]
    """Follows it in the corrupt prompt."""


def induction_pairs(
    count: int,
    period: int,
    d_vocab: int,
    bos_token_id: int | None,
    generator: torch.Generator,
    *,
    n_ctx: int | None = None,
) -> InductionPairs:
    """Random blocks shown once, then again up to a token in the middle: [BOS] + r + r[: j + 1], answer r[j + 1].

    In the corrupt prompt, the first block's r[j] and a later one, r[m], have changed places. The last token and all its
    neighbours in the second block are the same, and so are r[j + 1] and r[m + 1] themselves: what changes is only
    which of them comes after the last token's first occurrence. A model that completes by induction turns from
    r[j + 1] to r[m + 1], and all that carries the difference is the way from "which token came before" to "where do I
    look".

    Args:
        count: pairs.
        period: tokens of a block, all different.
        d_vocab: tokens to draw from.
        bos_token_id: put first, and not drawn; None for none.
        generator: of the draws.
        n_ctx: tokens that a prompt may have; without, any number.

    Raises:
        InputError: a block that is too short, or longer than there are tokens, or than the context holds.
    """
    allowed = torch.tensor([token for token in range(d_vocab) if token != bos_token_id])
    longest, why = len(allowed), ""
    if n_ctx is not None:
        room = n_ctx - (bos_token_id is not None)
        fits = [p for p in range(1, min(longest, room) + 1) if p + _chosen(p) + 1 <= room]
        if len(fits) < longest:
            longest, why = len(fits), f": the model's context holds {n_ctx}, and the block is begun again"
    if not SHORTEST <= period <= longest:
        raise InputError(f"period must be between {SHORTEST} and {longest} tokens, not {period}{why}.")
    blocks = torch.stack([allowed[torch.randperm(len(allowed), generator=generator)[:period]] for _ in range(count)])
    chosen = _chosen(period)
    other = torch.randint(chosen + 2, period - 1, (count,), generator=generator)
    every = torch.arange(count)
    changed = blocks.clone()
    changed[:, chosen], changed[every, other] = blocks[every, other], blocks[:, chosen]
    start = torch.full((count, 0 if bos_token_id is None else 1), bos_token_id or 0)
    clean, corrupt = (torch.cat([start, first, blocks[:, : chosen + 1]], dim=1) for first in (blocks, changed))
    return InductionPairs(clean, corrupt, blocks[:, chosen + 1], blocks[every, other + 1])


def _chosen(period: int) -> int:
    """Place in the block of the last token that is shown again, near the middle."""
    return (period - 1) // 2 - 1 if period < 8 else period // 2 - 1
