"""Which positions of a prompt: all, some common to every prompt, or some of each prompt's own."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError

Positions = None | int | Sequence[int] | Tensor
"""None is every position; ints count from the prompt's start, negative ones from its last real token;
Int[Tensor, "prompt n"] gives each prompt its own."""

QUERY_HOOKS = ("hook_pattern", "hook_attn_scores")


def resolve(positions: Positions, lengths: Sequence[int]) -> Int[Tensor, "prompt n"] | None:
    """Positions of every prompt as non-negative numbers, or None for all.

    Raises:
        InputError: a position outside a prompt, or a tensor that does not fit the prompts.
    """
    if positions is None:
        return None
    try:
        given = torch.as_tensor(positions, device="cpu")
        if given.is_floating_point() and given.numel():
            raise ValueError("fractions")
        chosen = given.long()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"positions must be whole numbers, as many for each prompt as for the others, not {positions}."
        ) from error
    if chosen.ndim < 2:
        chosen = chosen.reshape(1, -1).expand(len(lengths), -1)
    if chosen.shape[0] != len(lengths) or chosen.ndim != 2:
        raise InputError(f"positions must have one row a prompt ({len(lengths)}), not shape {list(chosen.shape)}.")
    ends = torch.tensor(list(lengths)).unsqueeze(1)
    absolute = torch.where(chosen < 0, chosen + ends, chosen)
    outside = (absolute < 0) | (absolute >= ends)
    if outside.any():
        prompt, column = (int(x) for x in outside.nonzero()[0])
        raise InputError(
            f"Position {int(chosen[prompt, column])} is outside prompt {prompt}, which has {lengths[prompt]} tokens."
        )
    return absolute


def position_axis(hook: str) -> int:
    """Axis of an activation along which positions run (queries, for attention patterns and scores)."""
    return 2 if hook.endswith(QUERY_HOOKS) else 1


def gather(
    activation: Float[Tensor, "row ..."], chosen: Int[Tensor, "row n"] | None, axis: int = 1
) -> Float[Tensor, "row ..."]:
    """Entries of `activation` at the chosen positions of each row; the whole of it for None."""
    if chosen is None:
        return activation
    moved = activation.movedim(axis, 1)
    rows = torch.arange(len(chosen), device=activation.device).unsqueeze(1)
    return moved[rows, chosen.to(activation.device)].movedim(1, axis)


def padded_axes(hook: str, ndim: int, every_position: bool) -> list[int]:
    """Axes of an activation that end in padding: positions, unless they were chosen, and the keys of patterns."""
    return [position_axis(hook)] * every_position + [ndim - 1] * hook.endswith(QUERY_HOOKS)


def real_entries(shape: Sequence[int], axes: Sequence[int], lengths: Int[Tensor, " row"]) -> Bool[Tensor, "..."]:
    """Where an activation of this shape belongs to tokens and not to padding, to broadcast against it."""
    real = torch.ones([1] * len(shape), dtype=torch.bool, device=lengths.device)
    for axis in axes:
        wide = [len(lengths), *[1] * (len(shape) - 1)]
        wide[axis] = shape[axis]
        real = real & (torch.arange(shape[axis], device=lengths.device) < lengths.unsqueeze(1)).view(wide)
    return real
