"""What a metric asks of a run: a number for each prompt, from the logits that it names and no others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError

Each = int | Tensor | Sequence[int] | Sequence[Sequence[int]]
"""One number for every prompt, one for each (Int[Tensor, "prompt"] or a list), or several for each: Int[Tensor,
"prompt n"], or lists that may differ in length. A single row of several stands for every prompt."""
Words = str | Sequence[str] | Sequence[Sequence[str]]
"""In the place of token ids: a text for every prompt, one for each, or several for each. Each is one token."""
TEXTS = ("answer", "wrong")
"""What metrics call tokens that may be given as texts."""
COPIES = 4
"""Copies of a piece of logits that a value of the whole vocabulary takes (softcap, softmax and its logarithm)."""


@dataclass(frozen=True)
class Logits:
    """Logits of some tokens of some rows."""

    values: Float[Tensor, "token column"]
    """After any softcap, in float32."""
    prompt: Int[Tensor, " token"]
    slot: Int[Tensor, " token"]
    """Number of the position among those that are read."""
    base: Float[Tensor, "token column"] | None
    """The same of the run without changes, where the metric asks for it."""


@dataclass(frozen=True)
class Measure:
    """A metric made ready for certain prompts."""

    read: Int[Tensor, "prompt n"]
    """Positions whose logits are needed, counted from the start."""
    weight: Float[Tensor, "prompt n"]
    """Share of each position in the prompt's number; 0 where a prompt reads fewer."""
    columns: Int[Tensor, " column"] | None
    """Tokens whose logits are needed; None for all."""
    of: Callable[[Logits], Float[Tensor, " token"]]
    """The number at each position."""
    needs_base: bool = False
    """Whether it compares with the run without changes."""

    def block(self, prompts: slice) -> "Measure":
        """The measure of a few of the prompts, counted from 0."""

        def of(logits: Logits) -> Float[Tensor, " token"]:
            return self.of(replace(logits, prompt=logits.prompt + prompts.start))

        return replace(self, read=self.read[prompts], weight=self.weight[prompts], of=of)

    def piece_bytes(self, tokens: int, d_vocab: int, most_bytes: int) -> int:
        """What the logits of so many positions take at a time."""
        each = self._token_bytes(d_vocab)
        return min(tokens, max(1, most_bytes // each)) * each

    def _token_bytes(self, d_vocab: int) -> int:
        width = d_vocab if self.columns is None else len(self.columns)
        return 4 * COPIES * (1 + self.needs_base) * width

    @torch.no_grad()
    def __call__(
        self,
        finals: Float[Tensor, "row n d_model"],
        prompt: Int[Tensor, " row"],
        base: Float[Tensor, "prompt n d_model"],
        unembed: Callable[[Tensor, Tensor | None], Tensor],
        d_vocab: int,
        most_bytes: int,
    ) -> Float[Tensor, " row"]:
        """The metric of rows, on the CPU.

        Args:
            finals: final, normalised residual stream of each row at the positions that are read.
            prompt: which prompt each row belongs to.
            base: the same of the run without changes.
            unembed: residual streams and columns to logits after any softcap.
            d_vocab: columns that `unembed` makes of None.
            most_bytes: what a piece of logits may take with its copies; one position at least is done at a time.
        """
        where = torch.arange(finals[..., 0].numel()).view(finals.shape[:2])
        values = self.values(finals.flatten(0, 1), where, prompt, base, unembed, d_vocab, most_bytes)
        return self.average(values, prompt)

    @torch.no_grad()
    def values(
        self,
        finals: Float[Tensor, "token d_model"],
        where: Int[Tensor, "row n"],
        prompt: Int[Tensor, " row"],
        base: Float[Tensor, "prompt n d_model"],
        unembed: Callable[[Tensor, Tensor | None], Tensor],
        d_vocab: int,
        most_bytes: int,
    ) -> Float[Tensor, "row n"]:
        """The number at each position, in float64 on the CPU; `where` numbers its token among `finals`.

        It is 0 where there is none (-1), and where the position has no weight. Otherwise as a call.
        """
        row, slot = ((where >= 0) & (self.weight[prompt] != 0)).nonzero().T
        columns = None if self.columns is None else self.columns.to(finals.device)
        out = torch.zeros(where.shape, dtype=torch.float64)
        size = max(1, most_bytes // self._token_bytes(d_vocab))
        for r, s in zip(row.split(size), slot.split(size), strict=True):
            own = finals[where[r, s].to(finals.device)]
            plain = self._base(base, prompt[r], s, unembed, columns) if self.needs_base else None
            out[r, s] = self.of(Logits(unembed(own, columns).float(), prompt[r], s, plain)).double().cpu()
        return out

    def average(self, values: Float[Tensor, "row n"], prompt: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """The number of each row from those at its positions."""
        return (values * self.weight[prompt].double()).sum(dim=1).float()

    @staticmethod
    def _base(
        base: Tensor,
        prompt: Tensor,
        slot: Tensor,
        unembed: Callable[[Tensor, Tensor | None], Tensor],
        columns: Tensor | None,
    ) -> Float[Tensor, "token column"]:
        """Logits of the run without changes; each position once, however many rows share it."""
        places, which = torch.stack([prompt, slot]).unique(dim=1, return_inverse=True)
        logits = unembed(base[tuple(places.to(base.device))], columns).float()
        return logits[which.to(base.device)]


@runtime_checkable
class Metric(Protocol):
    """A number for each prompt."""

    @property
    def unit(self) -> str:
        """Of the number."""
        ...

    def prepare(self, tokens: Int[Tensor, "prompt position"], lengths: Int[Tensor, " prompt"], d_vocab: int) -> Measure:
        """What is needed for these prompts, padded on the right to one length.

        Raises:
            InputError: positions or tokens that the prompts or the model do not have.
        """
        ...

    def select(self, prompts: Sequence[int]) -> "Metric":
        """The same for some of the prompts, in this order."""
        ...


def in_tokens(metric: Metric, token: Callable[[str, str], int]) -> Metric:
    """The metric with answers and wrong answers as token ids, where they are texts.

    Args:
        metric: that may have a field `answer` or `wrong`.
        token: the one token of a text; its second argument is how errors call it.
    """
    if not is_dataclass(metric):
        return metric
    held = {field.name: getattr(metric, field.name) for field in fields(metric) if field.name in TEXTS}
    changed = {name: _tokens(value, name, token) for name, value in held.items() if _has_text(value)}
    return replace(metric, **changed)


def _has_text(value: Any) -> bool:
    """Whether there is a text in it, however deep."""
    return isinstance(value, str) or (isinstance(value, Sequence) and any(map(_has_text, value)))


def _tokens(value: Any, name: str, token: Callable[[str, str], int]) -> Any:
    if isinstance(value, str):
        return token(value, name)
    return [_tokens(one, name, token) for one in value] if isinstance(value, Sequence) else value


def selected(chosen: Each | Words, prompts: Sequence[int]) -> Any:
    """The numbers of these prompts, in this order; what stands for every prompt stays."""
    if isinstance(chosen, Tensor):
        whole = chosen.ndim == 0 or (chosen.ndim == 2 and len(chosen) == 1)
        return chosen if whole else chosen[list(prompts)]
    if isinstance(chosen, int | str) or (len(chosen) == 1 and not isinstance(chosen[0], int | str)):
        return chosen
    return [chosen[i] for i in prompts]


def positions(
    chosen: Each, lengths: Int[Tensor, " prompt"]
) -> tuple[Int[Tensor, "prompt n"], Float[Tensor, "prompt n"]]:
    """Positions counted from the start, and their weights, equal within a prompt; negative ones count from its end."""
    numbers, there = each(chosen, "position", len(lengths))
    absolute = torch.where(numbers < 0, numbers + lengths[:, None], numbers)
    outside = (there & ((absolute < 0) | (absolute >= lengths[:, None]))).nonzero()
    if len(outside):
        i, j = outside[0].tolist()
        raise InputError(f"position {int(numbers[i, j])} is outside prompt {i}, which has {int(lengths[i])} tokens.")
    weight = there.float() / there.sum(dim=1, keepdim=True)
    # What is not there repeats what is, so that nothing more is computed for it.
    return torch.where(there, absolute, absolute[:, :1]), weight


def token_sets(
    chosen: Each | Words, name: str, prompts: int, d_vocab: int
) -> tuple[Int[Tensor, "prompt k"], Bool[Tensor, "prompt k"]]:
    """Tokens of each prompt, and which of them are there where prompts have different numbers."""
    tokens, there = each(chosen, name, prompts)
    if ((tokens < 0) | (tokens >= d_vocab))[there].any():
        shown = tokens[there].unique().tolist()
        raise InputError(f"{name} must be token ids from 0 to {d_vocab - 1}, not {shown}.")
    return tokens, there


def each(chosen: Each | Words, name: str, prompts: int) -> tuple[Int[Tensor, "prompt n"], Bool[Tensor, "prompt n"]]:
    """Numbers of each prompt, one at least, and which entries are numbers and not padding."""
    rows = _rows(chosen, name, prompts)
    if len(rows) == 1:
        rows = rows * prompts
    if len(rows) != prompts:
        raise InputError(f"{name} must be one number, or one for each of the {prompts} prompts, not for {len(rows)}.")
    empty = [i for i, row in enumerate(rows) if not row]
    if empty:
        raise InputError(f"{name} must hold one number at least for each prompt; prompt {empty[0]} has none.")
    width = max(map(len, rows))
    table = torch.tensor([[*row, *[row[0]] * (width - len(row))] for row in rows], dtype=torch.long)
    there = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    return table, there


def _rows(chosen: Each | Words, name: str, prompts: int) -> list[list[int]]:
    if _has_text(chosen):
        raise InputError(
            f"{name} must be token ids here, not the text {chosen!r}: there is no tokenizer to read it with."
        )
    if isinstance(chosen, Sequence) and chosen and isinstance(chosen[0], Sequence | Tensor):
        return [[int(n) for n in row] for row in chosen if not isinstance(row, int)]
    try:
        tensor = torch.as_tensor(chosen)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be whole numbers, not {chosen}.") from error
    if tensor.ndim > 2 or tensor.is_floating_point() or not tensor.numel():
        raise InputError(
            f"{name} must be whole numbers of the shape [], [prompt] or [prompt, n], not of shape "
            f"{list(tensor.shape)} and type {tensor.dtype}."
        )
    if tensor.ndim == 1 and len(tensor) != prompts:
        raise InputError(
            f"{name} must be one number, or one for each of the {prompts} prompts, not of shape {list(tensor.shape)}."
        )
    return tensor.reshape(-1, 1).tolist() if tensor.ndim < 2 else tensor.tolist()
