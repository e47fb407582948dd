"""What is put in the place of an activation, where it is not that of a source run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.runner.batching import check_prompts
from mechlist.runner.memory import captured_bytes
from mechlist.runner.positions import QUERY_HOOKS


@dataclass(frozen=True)
class Zero:
    """Zero; for attention scores, of the keys that the query may see."""


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean over the prompts of a data set, position by position."""

    tokens: Int[Tensor, "..."]
    """Padded on the right if they are not of one length."""
    lengths: Int[Tensor, "..."] | None = None
    """Real tokens of each."""
    pooled: bool = False
    """One mean over all positions of all prompts, for sets whose positions do not correspond."""


@dataclass(frozen=True, eq=False)
class Resample:
    """The run of another prompt of a data set, drawn at random for each prompt by the Runner's seed."""

    tokens: Int[Tensor, "..."]
    """Padded on the right if they are not of one length."""
    lengths: Int[Tensor, "..."] | None = None
    """Real tokens of each."""


@dataclass(frozen=True, eq=False)
class Given:
    """Activations given by hand, one tensor a layer, shaped as the hook's for the prompts that are changed."""

    values: Sequence[Float[Tensor, "prompt ..."]]


Replacement = Zero | Mean | Resample | Given


def donors(
    runner: Runner, chosen: Resample, base: Int[Tensor, "prompt position"], lengths: Int[Tensor, " prompt"]
) -> Int[Tensor, "prompt position"]:
    """For each prompt another one of the set that is as long at least, cut or padded to the base's width.

    Raises:
        InputError: a prompt for which the set has none.
    """
    sizes = _sizes(runner, chosen.tokens, chosen.lengths)
    generator = runner.generator("resample")
    width = min(base.shape[1], chosen.tokens.shape[1])
    out = torch.zeros_like(base)
    for i, (row, length) in enumerate(zip(base, lengths.tolist(), strict=True)):
        fits = sizes >= length
        if length <= width:
            fits &= (chosen.tokens[:, :length] != row[:length]).any(dim=1)
        candidates = fits.nonzero()[:, 0]
        if not len(candidates):
            raise InputError(
                f"To resample prompt {i}, the data set must hold another prompt of {length} tokens or more; it has "
                f"{len(sizes)} of {int(sizes.max())} at most."
            )
        donor = int(candidates[torch.randint(len(candidates), (1,), generator=generator)])
        out[i, :width] = chosen.tokens[donor, :width]
    return out


def means(
    runner: Runner, chosen: Mean, hooks: Sequence[str], length: int, width: int
) -> list[Float[Tensor, "one ..."]]:
    """The mean at each hook, for prompts of `length` tokens padded to `width`, in float32.

    They are [1 position ...], [1 head query key], or of one position where they are pooled.

    Raises:
        InputError: positions that no prompt of the set reaches; patterns or scores pooled over positions.
    """
    sizes = _sizes(runner, chosen.tokens, chosen.lengths)
    by_query = hooks[0].endswith(QUERY_HOOKS)
    if chosen.pooled and by_query:
        raise InputError("Patterns and scores of different positions have different keys: their mean cannot be pooled.")
    if int(sizes.max()) < length and not chosen.pooled:
        raise InputError(
            f"The data set's longest prompt has {int(sizes.max())} tokens, so there is no mean at the positions up to "
            f"{length - 1}: give longer prompts, or pool the positions."
        )
    own = chosen.tokens.shape[1]
    step = max(1, runner.memory // 4 // captured_bytes(runner.shape, hooks, own, own, 8))
    sums: list[Tensor] = []
    counts = torch.zeros(0)
    for block in torch.arange(len(sizes)).split(step):
        kept = runner.capture([chosen.tokens[i, : sizes[i]] for i in block.tolist()], *hooks)
        values = [_fitted(kept[hook], max(own, width), by_query) for hook in hooks]
        there = (~values[0].isnan()).double().sum(dim=0)
        added = [value.double().nan_to_num(nan=0.0, neginf=-torch.inf).sum(dim=0) for value in values]
        counts = counts + there if sums else there
        sums = [a + b for a, b in zip(sums, added, strict=True)] if sums else added
    if chosen.pooled:
        return [(s.sum(dim=0) / counts.sum(dim=0)).float()[None, None] for s in sums]
    # Nothing is put in where no prompt of the set has anything: that is beyond every prompt's end.
    averages = [torch.where(counts > 0, s / counts.clamp(min=1), 0.0).float()[None] for s in sums]
    return [a[..., :width, :width] if by_query else a[:, :width] for a in averages]


def _fitted(value: Tensor, width: int, by_query: bool) -> Tensor:
    """The activation of a block of prompts, padded to `width` with NaN."""
    missing = width - value.shape[-1 if by_query else 1]
    pads = (0, missing, 0, missing) if by_query else (*[0, 0] * (value.ndim - 2), 0, missing)
    return torch.nn.functional.pad(value, pads, value=torch.nan)


def _sizes(runner: Runner, tokens: Int[Tensor, "..."], lengths: Tensor | None) -> Int[Tensor, " prompt"]:
    if tokens.ndim != 2 or not len(tokens):
        raise InputError(f"A data set must be tokens [prompt, position], not of shape {list(tokens.shape)}.")
    check_prompts(tokens, runner.shape.n_ctx, runner.shape.d_vocab)
    sizes = torch.full((len(tokens),), tokens.shape[1]) if lengths is None else lengths
    if sizes.shape != (len(tokens),) or ((sizes < 1) | (sizes > tokens.shape[1])).any():
        raise InputError(
            f"lengths of a data set must be from 1 to {tokens.shape[1]}, one for each of its {len(tokens)} prompts."
        )
    return sizes
