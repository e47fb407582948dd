"""A block of random tokens shown twice."""

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError

LONGEST_DEFAULT = 50


def repeated_tokens(
    batch: int, period: int, d_vocab: int, bos_token_id: int | None, generator: torch.Generator
) -> Int[Tensor, "batch position"]:
    """Sequences [BOS] + r + r, with r drawn uniformly from the vocabulary, with replacement.

    Without a BOS token the sequences are r + r.
    """
    block = torch.randint(0, d_vocab, (batch, period), generator=generator)
    start = torch.empty((batch, 0), dtype=torch.long) if bos_token_id is None else torch.full((batch, 1), bos_token_id)
    return torch.cat([start, block, block], dim=1)


def fitting_period(period: int | None, n_ctx: int, has_bos: bool) -> int:
    """`period`, or the largest up to 50 that the context holds twice, after BOS if there is one.

    Raises:
        InputError: the context does not hold two blocks of `period` tokens.
    """
    largest = (n_ctx - int(has_bos)) // 2
    chosen = min(LONGEST_DEFAULT, largest) if period is None else period
    if not 2 <= chosen <= largest:
        raise InputError(
            f"period must be between 2 and {largest}, not {chosen}: the model's context holds {n_ctx} tokens"
            f"{', one of them BOS' if has_bos else ''}, and the block is shown twice."
        )
    return chosen
