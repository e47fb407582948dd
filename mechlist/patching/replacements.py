"""What is put in the place of an activation: zero, a mean, another run, or what is given by hand.

Each replacement is made `ready` once for the prompts of a sweep: what it takes from the model is computed, and what
chance decides is drawn. What is ready is `put` in, layer by layer and block by block of the prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.runner.batching import real_lengths
from mechlist.runner.memory import captured_bytes
from mechlist.runner.positions import QUERY_HOOKS


@runtime_checkable
class Ready(Protocol):
    """A replacement of which nothing is left to compute or to draw."""

    def put(self, layer: int, there: Tensor, source: Tensor | None, prompts: slice) -> Tensor:
        """What is put in the place of the activation `there`, of a block of the prompts.

        `source` is the source run's activation where there is such a run.
        """
        ...


@dataclass(frozen=True, eq=False)
class Target:
    """The runs that are changed, and where: what a replacement is made ready for."""

    runner: Runner
    base: Int[Tensor, "prompt position"]
    lengths: Int[Tensor, " prompt"]
    hooks: Sequence[str]
    """Of the site, by layer."""


@dataclass(frozen=True, eq=False)
class Source:
    """The runs of other prompts, position for position or as they are aligned; ready as they are."""

    tokens: Int[Tensor, "prompt position"]
    positions: Int[Tensor, "prompt position"] | None = None
    """Of each base position the source's; -1 where what is there stays. None where they are the same."""
    by_query: bool = False
    """Whether the site is [prompt head query key], where a query and its key must both have a counterpart."""

    def put(self, layer: int, there: Tensor, source: Tensor | None, prompts: slice) -> Tensor:  # noqa: ARG002
        """What the source run has there."""
        assert source is not None
        if self.positions is None:
            return source
        axis = 2 if self.by_query else 1
        own = self.positions[prompts, : there.shape[axis]].to(there.device)
        row, taken = torch.arange(len(own), device=own.device), own.clamp(min=0)
        if not self.by_query:
            put = source[row[:, None], taken]
            return torch.where((own >= 0).view(*own.shape, *[1] * (there.ndim - 2)), put, there)
        put = source[row[:, None, None], :, taken[:, :, None], taken[:, None]].permute(0, 3, 1, 2)
        both = (own >= 0)[:, None, :, None] & (own >= 0)[:, None, None]
        return torch.where(both, put, there)


@dataclass(frozen=True)
class Zero:
    """Zero, as in the model as it was published; for attention scores, of the keys that the query may see."""

    def ready(self, target: Target) -> "Zeros":
        """The same, once it is known what processing has taken out of the site."""
        site = target.hooks[0].rsplit("hook_", 1)[-1]
        return Zeros([target.runner.language_model.nothing(site, layer) for layer in range(len(target.hooks))])


@dataclass(frozen=True, eq=False)
class Zeros:
    """Zero that is ready."""

    values: Sequence[Float[Tensor, "head d_head"] | None]
    """By layer, where it is not zero here; see `LanguageModel.nothing`."""

    def put(self, layer: int, there: Tensor, source: Tensor | None, prompts: slice) -> Tensor:  # noqa: ARG002
        """Zero, but for scores of keys that the query may not see."""
        value = self.values[layer]
        if value is not None:
            return value.to(there).expand_as(there)
        # These are minus infinity, or the type's least number, and stay so.
        return torch.where(there < torch.finfo(there.dtype).min / 2, there, torch.zeros_like(there))


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean over the prompts of a data set, position by position."""

    tokens: Int[Tensor, "..."]
    """Padded on the right if they are not of one length."""
    lengths: Int[Tensor, "..."] | None = None
    """Real tokens of each."""
    pooled: bool = False
    """One mean over all positions of all prompts, for sets whose positions do not correspond."""

    def ready(self, target: Target) -> "Means":
        """The means at the site; see `means`."""
        return Means(means(target.runner, self, target.hooks, int(target.lengths.max()), target.base.shape[1]))

    def real(self, runner: Runner, length: int) -> Int[Tensor, " prompt"]:
        """Real tokens of each prompt of the set, for prompts of up to `length` tokens that are changed.

        Raises:
            InputError: a set that is no set of prompts; positions that no prompt of it reaches.
        """
        sizes = _sizes(runner, self.tokens, self.lengths)
        if int(sizes.max()) < length and not self.pooled:
            raise InputError(
                f"The data set's longest prompt has {int(sizes.max())} tokens, so there is no mean at the positions up "
                f"to {length - 1}: give longer prompts, or pool the positions."
            )
        return sizes


@dataclass(frozen=True, eq=False)
class Resample:
    """The run of another prompt of a data set, drawn at random for each prompt by the Runner's seed."""

    tokens: Int[Tensor, "..."]
    """Padded on the right if they are not of one length."""
    lengths: Int[Tensor, "..."] | None = None
    """Real tokens of each."""

    def ready(self, target: Target) -> Source:
        """The prompts that were drawn; see `donors`."""
        return Source(donors(target.runner, self, target.base, target.lengths))


@dataclass(frozen=True, eq=False)
class Given:
    """Activations given by hand, one tensor a layer, shaped as the hook's for the prompts that are changed."""

    values: Sequence[Float[Tensor, "prompt ..."]]

    def ready(self, target: Target) -> "Values":
        """The same, once there are as many as there are layers."""
        if len(self.values) != len(target.hooks):
            raise InputError(f"Given activations must be one tensor for each of the {len(target.hooks)} layers.")
        return Values(self.values, target.hooks, len(target.base))

    def select(self, prompts: Sequence[int]) -> "Given":
        """Of some of the prompts that are changed, in this order."""
        return replace(self, values=[value[list(prompts)] for value in self.values])


Replacement = Zero | Mean | Resample | Given


@dataclass(frozen=True, eq=False)
class Means:
    """A mean that is ready: one for all prompts, by layer."""

    values: Sequence[Float[Tensor, "one ..."]]

    def put(self, layer: int, there: Tensor, source: Tensor | None, prompts: slice) -> Tensor:  # noqa: ARG002
        """The mean, the same in every prompt."""
        return self.values[layer].to(there).expand_as(there)


@dataclass(frozen=True, eq=False)
class Values:
    """Given activations that are ready."""

    values: Sequence[Float[Tensor, "prompt ..."]]
    hooks: Sequence[str]
    prompts: int

    def put(self, layer: int, there: Tensor, source: Tensor | None, prompts: slice) -> Tensor:  # noqa: ARG002
        """The block's own.

        Raises:
            InputError: a layer's are of another shape than the activation.
        """
        value = self.values[layer]
        if value.shape != (self.prompts, *there.shape[1:]):
            raise InputError(
                f"Given activations must have the shape {[self.prompts, *there.shape[1:]]} at {self.hooks[layer]}, not "
                f"{list(value.shape)}."
            )
        return value[prompts].to(there)


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
    by_query = hooks[0].endswith(QUERY_HOOKS)
    if chosen.pooled and by_query:
        raise InputError("Patterns and scores of different positions have different keys: their mean cannot be pooled.")
    sizes = chosen.real(runner, length)
    own = chosen.tokens.shape[1]
    step = max(1, runner.shares.kept // captured_bytes(runner.shape, hooks, own, own, 8))
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
    runner.rows(tokens)
    return real_lengths(tokens, lengths, "lengths of a data set")
