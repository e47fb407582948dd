"""What a run is judged by: a number for each prompt, from a few logits that the metric names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError

PerPrompt = int | Int[Tensor, " prompt"]
"""The same for every prompt, or one for each."""


@dataclass(frozen=True)
class Measure:
    """A metric made ready for certain prompts."""

    read: Int[Tensor, "prompt n"]
    """Positions whose logits are needed, counted from the start."""
    columns: Int[Tensor, " column"] | None
    """Tokens whose logits are needed; None for all."""
    of: Callable[[Float[Tensor, "row n column"], Int[Tensor, " row"]], Float[Tensor, " row"]]
    """The metric of rows from these logits, and the prompt that each row belongs to."""


@runtime_checkable
class Metric(Protocol):
    """A number for each prompt."""

    @property
    def unit(self) -> str:
        """Of the number."""
        ...

    def prepare(self, lengths: Int[Tensor, " prompt"], d_vocab: int) -> Measure:
        """What is needed for prompts of these lengths.

        Raises:
            InputError: positions or tokens that the prompts or the model do not have.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitDifference:
    """Logit of the answer minus logit of a wrong answer at one position, after any softcap."""

    answer: PerPrompt
    """Token id."""
    wrong: PerPrompt
    """Token id."""
    position: PerPrompt = -1
    """Of the prediction; negative ones count from the last real token."""
    unit: str = "logits"

    def prepare(self, lengths: Int[Tensor, " prompt"], d_vocab: int) -> Measure:
        """See Metric; answer and wrong answer must be different tokens in every prompt."""
        answer, wrong = (_each(getattr(self, name), name, len(lengths)) for name in ("answer", "wrong"))
        for name, tokens in (("answer", answer), ("wrong", wrong)):
            if ((tokens < 0) | (tokens >= d_vocab)).any():
                raise InputError(f"{name} must be token ids from 0 to {d_vocab - 1}, not {tokens.tolist()}.")
        same = (answer == wrong).nonzero()
        if len(same):
            i = int(same[0])
            raise InputError(f"answer and wrong must be different tokens; for prompt {i} both are {int(answer[i])}.")
        columns = torch.cat([answer, wrong]).unique()
        up, down = torch.searchsorted(columns, answer), torch.searchsorted(columns, wrong)

        def of(logits: Float[Tensor, "row 1 column"], prompt: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
            first, second = (logits[:, 0].gather(1, i[prompt].to(logits.device)[:, None])[:, 0] for i in (up, down))
            return first.float() - second.float()

        return Measure(_positions(self.position, lengths)[:, None], columns, of)


def _positions(position: PerPrompt, lengths: Int[Tensor, " prompt"]) -> Int[Tensor, " prompt"]:
    """Positions counted from the start."""
    chosen = _each(position, "position", len(lengths))
    absolute = torch.where(chosen < 0, chosen + lengths, chosen)
    outside = ((absolute < 0) | (absolute >= lengths)).nonzero()
    if len(outside):
        i = int(outside[0])
        raise InputError(f"position {int(chosen[i])} is outside prompt {i}, which has {int(lengths[i])} tokens.")
    return absolute


def _each(value: PerPrompt, name: str, prompts: int) -> Int[Tensor, " prompt"]:
    """One for each prompt."""
    tensor = torch.as_tensor(value, dtype=torch.long)
    if tensor.ndim == 0:
        return tensor.repeat(prompts)
    if tensor.shape != (prompts,):
        raise InputError(
            f"{name} must be one number, or one for each of the {prompts} prompts, not of shape {list(tensor.shape)}."
        )
    return tensor
