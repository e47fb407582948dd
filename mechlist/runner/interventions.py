"""Changes to activations during a forward pass; they compose in the order in which their contexts were entered."""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.runner.positions import QUERY_HOOKS, padded_axes, position_axis, real_entries

_HEAD_HOOKS = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k", "hook_result", *QUERY_HOOKS)


@dataclass(frozen=True)
class Rows:
    """Which prompts a batch holds, so that an intervention can find its own value for each row."""

    index: Int[Tensor, " row"]
    """Number of each row's prompt, in the order the prompts were given."""
    lengths: Int[Tensor, " row"]
    """Real tokens of each row; what follows is padding."""


@dataclass(frozen=True)
class Intervention:
    """Call `change(activation, rows)` at `hook` and go on with what it returns (never changed in place)."""

    hook: str
    change: Callable[[Tensor, Rows], Tensor]


def replace(
    hook: str,
    value: Float[Tensor, "prompt ..."] | float,
    *,
    heads: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Intervention:
    """Set an activation to `value`: a number (0 ablates), or one slice a prompt.

    Args:
        hook: name of a hook point.
        value: a number, or a tensor whose rows are prompts, shaped like the activation at `heads` and `positions`.
            It may be padded to the longest prompt, as `Runner.capture` gives it: padding is left as it is.
        heads: only these heads (key/value heads for hook_k and hook_v).
        positions: only these positions, the same in every prompt; negative ones count from its last real token.

    Raises:
        InputError: (when it runs) heads or positions that the activation does not have, a value that does not fit.
    """

    def change(activation: Tensor, rows: Rows) -> Tensor:
        where = _selection(hook, activation, rows, heads, positions)
        out = activation.clone()
        if isinstance(value, Tensor):
            out[where] = _fitted(hook, value, activation[where], rows, every_position=positions is None)
        else:
            out[where] = value
        return out

    return Intervention(hook, change)


def add(hook: str, vector: Float[Tensor, "..."], *, positions: Sequence[int] | None = None) -> Intervention:
    """Add `vector` to an activation (steering), everywhere or at some positions of every prompt."""

    def change(activation: Tensor, rows: Rows) -> Tensor:
        where = _selection(hook, activation, rows, None, positions)
        out = activation.clone()
        out[where] = out[where] + vector.to(out)
        return out

    return Intervention(hook, change)


def seen_as(intervention: Intervention, prompt: Int[Tensor, " row"]) -> Intervention:
    """The intervention that takes row r for prompt `prompt[r]`."""

    def change(activation: Tensor, rows: Rows) -> Tensor:
        return intervention.change(activation, Rows(prompt[rows.index], rows.lengths))

    return Intervention(intervention.hook, change)


def find_hooks(there: Iterable[str], patterns: Sequence[str], known: Iterable[str]) -> list[str]:
    """Hook points by name or shell-style pattern, in the order in which they are there.

    Args:
        there: every hook point.
        patterns: names and patterns.
        known: names that may be meant by one that there is not.

    Raises:
        InputError: a name or pattern that matches no hook point.
    """
    found: list[str] = []
    for pattern in patterns:
        names = [name for name in there if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not names:
            close = difflib.get_close_matches(pattern, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputError(f"The model has no hook {pattern!r}.{hint}")
        found += [name for name in names if name not in found]
    return found


def _selection(
    hook: str, activation: Tensor, rows: Rows, heads: Sequence[int] | None, positions: Sequence[int] | None
) -> tuple[Tensor, ...]:
    """Index of the chosen heads and positions, which keeps the activation's own order of axes."""
    chosen: dict[int, Tensor] = {}
    if positions is not None:
        chosen[position_axis(hook)] = _positions(positions, rows)
    if heads is not None:
        axis = _head_axis(hook, activation)
        chosen[axis] = _heads(hook, heads, activation.shape[axis])
    if not chosen:
        return ()
    # Every axis up to the last chosen one gets an index: around a slice, torch moves the indexed axes to the front.
    last = max(chosen)
    index: list[Tensor] = []
    for axis, size in enumerate(activation.shape[: last + 1]):
        which = chosen.get(axis, torch.arange(size))
        shape = [1] * (last + 1)
        shape[axis] = which.shape[-1]
        if which.ndim == 2:
            shape[0] = which.shape[0]
        index.append(which.reshape(shape).to(activation.device))
    return tuple(index)


def _fitted(hook: str, value: Tensor, current: Tensor, rows: Rows, *, every_position: bool) -> Tensor:
    """This batch's rows of `value`, cropped to the batch's length; where padding is, `current` stays.

    A value captured from prompts of unequal length is NaN beyond their ends, and attention would spread that NaN.
    """
    if value.ndim == current.ndim and int(rows.index.max()) < len(value):
        new = value[rows.index.to(value.device)].to(current)
        axes = padded_axes(hook, current.ndim, every_position)
        for axis in axes:
            new = new.narrow(axis, 0, min(new.shape[axis], current.shape[axis]))
        if all(n in (1, c) for n, c in zip(new.shape, current.shape, strict=True)):
            return torch.where(real_entries(current.shape, axes, rows.lengths), new, current)
    raise InputError(
        f"The value for {hook} must have one row a prompt, each of shape {list(current.shape[1:])}, "
        f"not the shape {list(value.shape)}."
    )


def _positions(positions: Sequence[int], rows: Rows) -> Int[Tensor, "row n"]:
    chosen = torch.tensor(list(positions), dtype=torch.long).unsqueeze(0)
    lengths = rows.lengths.cpu().unsqueeze(1)
    absolute = torch.where(chosen < 0, chosen + lengths, chosen)
    if ((absolute < 0) | (absolute >= lengths)).any():
        raise InputError(f"positions {list(positions)} reach outside a prompt of {int(lengths.min())} tokens.")
    return absolute


def _head_axis(hook: str, activation: Tensor) -> int:
    name = hook.rsplit(".", 1)[-1]
    if name not in _HEAD_HOOKS or activation.ndim != 4:
        raise InputError(f"{hook} has no heads; heads can be chosen at {', '.join(_HEAD_HOOKS)}.")
    return 1 if name in QUERY_HOOKS else 2


def _heads(hook: str, heads: Sequence[int], count: int) -> Int[Tensor, " head"]:
    wrong = [h for h in heads if not 0 <= h < count]
    if wrong:
        raise InputError(f"{hook} has the heads 0 to {count - 1}, not {wrong[0]}.")
    return torch.tensor(list(heads), dtype=torch.long)
