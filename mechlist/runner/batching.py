"""Batches by token budget: prompts sorted by length, padded on the right, bounded by memory.

The plan depends only on the lengths and the budget, so a resumed run makes the same batches. With causal attention a
padded row computes what it computes alone, up to the order of additions inside a matrix product.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.types import format_bytes

WASTE = 0.2
"""Share of padding above which a new batch starts, once the batch is large enough to be worth its overhead."""
SMALL = 256
"""Tokens below which a batch takes any length: starting another would cost more than the padding."""


def plan_batches(
    lengths: Sequence[int], bytes_per_row: Callable[[int], int], memory: int, max_tokens: int
) -> list[list[int]]:
    """Group prompt numbers into batches, longest prompts first (so that running out of memory shows early).

    Args:
        lengths: tokens of each prompt.
        bytes_per_row: memory that one row of a given (padded) length takes.
        memory: bytes that one batch may take.
        max_tokens: padded tokens that one batch may hold.

    Raises:
        InputError: a single prompt needs more than `memory`.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    width = used = 0
    for i in order:
        rows = len(batches[-1]) + 1 if batches else 1
        padding = rows * width - used - lengths[i]
        fits = (
            bool(batches)
            and rows * bytes_per_row(width) <= memory
            and rows * width <= max_tokens
            and (padding <= WASTE * rows * width or rows * width <= SMALL)
        )
        if not fits:
            batches.append([])
            width, used = lengths[i], 0
            if bytes_per_row(width) > memory:
                raise InputError(
                    f"memory is too small: one prompt of {width} tokens needs about "
                    f"{format_bytes(bytes_per_row(width))}, and {format_bytes(memory)} of the bound are for it."
                )
        batches[-1].append(i)
        used += lengths[i]
    return batches


def pad_right(rows: Sequence[Int[Tensor, " _"]], pad: int = 0) -> Int[Tensor, "row position"]:
    """Stack sequences of unequal length; the padding follows each row and no real token attends to it."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=pad)


def check_prompts(
    prompts: Sequence[Sequence[int]] | Sequence[Tensor] | Tensor, n_ctx: int, d_vocab: int
) -> list[Int[Tensor, " _"]]:
    """The prompts as a list of one-dimensional token tensors on the CPU.

    Raises:
        InputError: no prompts, an empty prompt, one longer than the context, a token id outside the vocabulary.
    """
    rows = [torch.as_tensor(p, dtype=torch.long, device="cpu") for p in prompts]
    if not rows:
        raise InputError("prompts must hold at least one prompt, not none.")
    for i, row in enumerate(rows):
        if isinstance(given := prompts[i], Tensor) and given.dtype.is_floating_point:
            raise InputError(f"Prompt {i} must hold token ids, which are integers, not {given.dtype}.")
        if row.ndim != 1:
            raise InputError(f"Prompt {i} must be one sequence of token ids, not a tensor of shape {list(row.shape)}.")
        if len(row) == 0:
            raise InputError(f"Prompt {i} is empty: a prompt needs at least one token.")
        if len(row) > n_ctx:
            raise InputError(f"Prompt {i} has {len(row)} tokens, the model's context holds {n_ctx}.")
        if row.min() < 0 or row.max() >= d_vocab:
            bad = int(row.min()) if row.min() < 0 else int(row.max())
            raise InputError(f"Prompt {i} has the token id {bad}, outside the vocabulary of {d_vocab}.")
    return rows


def real_lengths(
    tokens: Int[Tensor, "prompt position"], lengths: Int[Tensor, "..."] | None, name: str = "lengths"
) -> Int[Tensor, " prompt"]:
    """Real tokens of each prompt that is padded on the right: all of them where there are no `lengths`.

    Raises:
        InputError: lengths that are not one a prompt, or more tokens than there are; `name` is how it calls them.
    """
    whole = torch.full((len(tokens),), tokens.shape[1])
    if lengths is None:
        return whole
    chosen = torch.as_tensor(lengths, dtype=torch.long)
    if chosen.shape != whole.shape or ((chosen < 1) | (chosen > whole)).any():
        raise InputError(
            f"{name} must be from 1 to {tokens.shape[1]}, one for each of the {len(tokens)} prompts, not "
            f"{chosen.tolist()}."
        )
    return chosen
