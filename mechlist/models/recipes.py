"""What a reference number is measured on: tokens of a text, pairs of answers, repeated blocks, an ablated head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.language_model import Hook, LanguageModel

Head = tuple[int, int]
"""Layer and head."""

_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prompt and two single tokens whose logits at its end are compared."""

    __pydantic_config__: ClassVar[Any] = _STRICT

    prompt: str
    answer: str
    wrong: str


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One head's values (`v`) or mixed values (`z`) set to zero."""

    __pydantic_config__: ClassVar[Any] = _STRICT

    head: Head
    site: Literal["v", "z"] = "z"
    position: int | None = None
    """Where; None is everywhere."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Random blocks shown twice: rows r + r, or [BOS] + r + r.

    `torch.Generator().manual_seed(s)` and the global `torch.manual_seed(s)` draw the same numbers on the CPU.
    """

    __pydantic_config__: ClassVar[Any] = _STRICT

    period: int
    rows: int
    seed: int
    low: int = 0
    high: int | None = None
    """Tokens are drawn uniformly from low to high - 1; None is the size of the vocabulary."""
    bos: bool = True


def tokens_of(view: LanguageModel, text: str, bos: bool) -> Int[Tensor, "1 position"]:
    """Token ids of `text`, after BOS if `bos`.

    Raises:
        InputError: no tokenizer, no BOS token, or more tokens than the context holds.
    """
    ids = _tokenizer(view)(text, add_special_tokens=False)["input_ids"]
    return _row(view, torch.tensor(ids), bos)


def token_of(view: LanguageModel, text: str) -> int:
    """The one token that `text` is.

    Raises:
        InputError: no tokenizer, or not one token.
    """
    ids = _tokenizer(view)(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise InputError(f"{text!r} must be one token of the model's tokenizer, not {len(ids)}")
    return ids[0]


def rows_of(view: LanguageModel, blocks: Blocks) -> Iterator[Int[Tensor, "1 position"]]:
    """The rows one by one: together their logits over a large vocabulary would fill the memory."""
    high = view.shape.d_vocab if blocks.high is None else blocks.high
    if not 0 <= blocks.low < high <= view.shape.d_vocab:
        raise InputError(f"tokens from {blocks.low} to {high - 1} are not all in a vocabulary of {view.shape.d_vocab}")
    generator = torch.Generator().manual_seed(blocks.seed)
    drawn = torch.randint(blocks.low, high, (blocks.rows, blocks.period), generator=generator)
    for block in drawn:
        yield _row(view, block.repeat(2), blocks.bos)


def final_logits(
    view: LanguageModel, tokens: Int[Tensor, "batch position"], hooks: Sequence[Hook] = ()
) -> Float[Tensor, "batch vocab"]:
    """Logits at the last position."""
    return view.unembed(view.residual(tokens, hooks)[:, -1]).float()


def capture(
    view: LanguageModel, tokens: Int[Tensor, "batch position"], names: Sequence[str], hooks: Sequence[Hook] = ()
) -> dict[str, Tensor]:
    """Activations at the hook points `names`, with `hooks` acting first."""
    found: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any) -> None:
        found[hook.name] = activation

    for name in names:
        if name not in view.hook_names:
            raise InputError(f"the model has no hook {name}")
    view.residual(tokens, [*hooks, *((name, keep) for name in names)])
    return found


def zero(view: LanguageModel, ablation: Ablation) -> list[Hook]:
    """The hook that ablates; the activation itself is left as it was."""
    layer, head = checked(view, ablation.head)

    def ablate(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        where = slice(None) if ablation.position is None else ablation.position
        changed = activation.clone()
        changed[:, where, head] = 0
        return changed

    return [(f"blocks.{layer}.attn.hook_{ablation.site}", ablate)]


def checked(view: LanguageModel, head: Head) -> Head:
    """The head itself.

    Raises:
        InputError: the model does not have it.
    """
    layer, index = head
    if not (0 <= layer < view.shape.n_layers and 0 <= index < view.shape.n_heads):
        raise InputError(f"the model has no head L{layer}H{index}")
    return head


def _tokenizer(view: LanguageModel) -> Any:
    if view.tokenizer is None:
        raise InputError("the model has no tokenizer")
    return view.tokenizer


def _row(view: LanguageModel, ids: Int[Tensor, " token"], bos: bool) -> Int[Tensor, "1 position"]:
    if bos and view.bos_token_id is None:
        raise InputError("the model has no BOS token")
    start = [view.bos_token_id] if bos else []
    row = torch.cat([torch.tensor(start, dtype=torch.long), ids.long()]).to(view.device)
    if len(row) > view.shape.n_ctx:
        raise InputError(f"{len(row)} tokens do not fit in the model's context of {view.shape.n_ctx}")
    return row.unsqueeze(0)
