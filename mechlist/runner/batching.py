"""Batches by token budget: prompts sorted by length, padded on the right, bounded by memory.

The plan depends only on the lengths and the budget, so a resumed run makes the same batches. With causal attention a
padded row computes what it computes alone, up to the order of additions inside a matrix product.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.text import shortened
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


Prompts = str | Tensor | np.ndarray | Mapping[str, Any] | Sequence[Any]
"""One prompt or several: texts, token ids as lists, tensors or arrays, or what a Hugging Face tokenizer gives. What a
list holds is checked where it is read, in a sentence."""


def check_prompts(
    prompts: Prompts, n_ctx: int, d_vocab: int, encode: Callable[[str], list[int]] | None = None
) -> list[Int[Tensor, " _"]]:
    """The prompts as a list of one-dimensional token tensors on the CPU.

    Args:
        prompts: one or several, in any of their forms. Of what a tokenizer gives, padding on either side is taken off
            by its attention mask; its ids stay as they are otherwise.
        n_ctx: tokens that a prompt may have.
        d_vocab: token ids that there are.
        encode: token ids of a text.

    Raises:
        InputError: no prompts, an empty prompt, one longer than the context, a token id outside the vocabulary; a text
            without `encode`.
    """
    given = _apart(prompts)
    if not given:
        raise InputError("prompts must hold at least one prompt, not none.")
    return [_checked(_row(prompt, i, encode), i, n_ctx, d_vocab) for i, prompt in enumerate(given)]


def _apart(prompts: Prompts) -> list[Any]:
    """Each prompt by itself; a text, and ids that stand in one row, are one."""
    if isinstance(prompts, Mapping):
        return _unpadded(prompts)
    one = isinstance(prompts, str) or (isinstance(prompts, Tensor | np.ndarray) and prompts.ndim == 1)
    if one:
        return [prompts]
    each = [row for prompt in prompts for row in (_unpadded(prompt) if isinstance(prompt, Mapping) else [prompt])]
    # Numbers of any kind: Python's, NumPy's, and tensors of one number.
    flat = bool(each) and not isinstance(each[0], Sequence) and np.ndim(each[0]) == 0
    return [each] if flat else each


def _unpadded(encoded: Mapping[str, Any]) -> list[Any]:
    """Rows of what a Hugging Face tokenizer gives."""
    if "input_ids" not in encoded:
        raise InputError(f"prompts as a mapping must hold input_ids, as tokenizers give them, not {list(encoded)}.")
    rows, mask = _apart(encoded["input_ids"]), encoded.get("attention_mask")
    if mask is None:
        return rows
    masks = _apart(mask)
    if len(masks) != len(rows) or any(len(m) != len(r) for m, r in zip(masks, rows, strict=True)):
        raise InputError("attention_mask must have the shape of input_ids.")
    kept = (torch.as_tensor(m).bool().cpu() for m in masks)
    return [torch.as_tensor(row).cpu()[real] for row, real in zip(rows, kept, strict=True)]


def _row(prompt: Any, i: int, encode: Callable[[str], list[int]] | None) -> Tensor:
    if isinstance(prompt, str):
        if encode is None:
            raise InputError(f"Prompt {i} is text, and token ids are wanted here.")
        prompt = encode(prompt)
    if len(prompt) == 0:
        raise InputError(f"Prompt {i} is empty: a prompt needs at least one token.")
    try:
        row = torch.as_tensor(prompt, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Prompt {i} must be a text or one sequence of token ids, not {shortened(repr(prompt), 80)}."
        ) from error
    if row.is_floating_point() or row.is_complex() or row.dtype == torch.bool:
        raise InputError(f"Prompt {i} must hold token ids, which are integers, not {row.dtype}.")
    if row.ndim != 1:
        raise InputError(f"Prompt {i} must be one sequence of token ids, not a tensor of shape {list(row.shape)}.")
    return row.long()


def _checked(row: Tensor, i: int, n_ctx: int, d_vocab: int) -> Tensor:
    if len(row) > n_ctx:
        raise InputError(f"Prompt {i} has {len(row)} tokens, the model's context holds {n_ctx}.")
    if row.min() < 0 or row.max() >= d_vocab:
        bad = int(row.min()) if row.min() < 0 else int(row.max())
        raise InputError(f"Prompt {i} has the token id {bad}, outside the vocabulary of {d_vocab}.")
    return row


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
