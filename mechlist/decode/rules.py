"""Rules that change logits before a token is chosen: words that are banned, made less or more likely."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.datasets.chat import is_unknown
from mechlist.errors import InputError
from mechlist.text import visible


@runtime_checkable
class LogitRule(Protocol):
    """What changes the logits of a row, given what has been written there."""

    @property
    def name(self) -> str:
        """Everything that the result depends on; names finished batches in a run's journal."""
        ...

    def change(
        self, logits: Float[Tensor, "row vocab"], written: Int[Tensor, "row step"]
    ) -> Float[Tensor, "row vocab"]:
        """The logits to choose from, minus infinity for what is not allowed; `logits` is not changed in place.

        Args:
            logits: raw, after any softcap.
            written: tokens since the prompt, on the CPU.
        """
        ...


def ruled(
    rule: LogitRule,
    logits: Float[Tensor, "row vocab"],
    written: Int[Tensor, "row step"],
    going: Bool[Tensor, " row"] | None = None,
) -> Float[Tensor, "row vocab"]:
    """The logits under a rule, of the rows that are `going` (all without); others stay as they are.

    Raises:
        InputError: the rule leaves some row no token.
    """
    rows = torch.arange(len(logits)) if going is None else going.nonzero()[:, 0]
    there = rows.to(logits.device)
    changed = rule.change(logits[there], written[rows])
    if not (changed > -torch.inf).any(dim=1).all():
        raise InputError(f"The rule leaves no token to choose after {written.shape[1]} new ones: allow more of them.")
    out = logits.clone()
    out[there] = changed
    return out


@dataclass(frozen=True)
class WordRule:
    """Adds to the logit of the last token of each word, wherever the tokens before it have been written."""

    changes: Mapping[tuple[int, ...], float | int]
    """By the tokens of a word, in logits; minus infinity bans it."""

    def __post_init__(self) -> None:
        if not self.changes or any(not word for word in self.changes):
            raise InputError("changes must hold one word at least, each of one token or more.")
        if any(math.isnan(change) or change == math.inf for change in self.changes.values()):
            raise InputError(f"changes must be numbers, or minus infinity for a ban, not {[*self.changes.values()]}.")

    @property
    def name(self) -> str:
        """See LogitRule."""
        return f"words {sorted(self.changes.items())}"

    def change(
        self, logits: Float[Tensor, "row vocab"], written: Int[Tensor, "row step"]
    ) -> Float[Tensor, "row vocab"]:
        """See LogitRule."""
        out = logits.clone()
        for word, change in self.changes.items():
            begun, steps = torch.tensor(word[:-1], dtype=torch.long), len(word) - 1
            if written.shape[1] < steps:
                continue
            rows = (written[:, written.shape[1] - steps :] == begun).all(dim=1).nonzero()[:, 0]
            out[rows.to(out.device), word[-1]] += change
        return out


def word_rule(
    tokenizer: Any,
    d_vocab: int,
    *,
    banned: Sequence[str] = (),
    penalised: Sequence[str] = (),
    penalty: float | int = 2.0,
    bias: Mapping[str, float | int] | None = None,
) -> WordRule | None:
    """A rule of words as texts; None where there are none.

    A word is meant at the beginning of a line and behind a blank: both ways in which it is written. A bias is for the
    text as it stands.

    Args:
        tokenizer: of the model.
        d_vocab: tokens of the model.
        banned: never written.
        penalised: less likely by `penalty`.
        penalty: in logits.
        bias: text to what is added to its logit.

    Raises:
        InputError: a word that is empty or unknown to the tokenizer; bans that leave no token.
    """
    changes: dict[tuple[int, ...], float | int] = {}
    for words, change in ((penalised, -penalty), (banned, -math.inf)):
        for word in words:
            changes |= dict.fromkeys(spellings(tokenizer, word), change)
    changes |= {_behind(tokenizer, "a", text): change for text, change in (bias or {}).items()}
    gone = {word[0] for word, change in changes.items() if len(word) == 1 and change == -math.inf}
    if len(gone) >= d_vocab:
        raise InputError(f"banned must leave a token to choose, and covers all {d_vocab} of the vocabulary.")
    return WordRule(changes) if changes else None


def spellings(tokenizer: Any, word: str) -> list[tuple[int, ...]]:
    """The tokens of a word at the beginning of a line, and behind a blank."""
    bare = word.strip(" ")
    if not bare:
        raise InputError(f"Words must be text with more than blanks, not {word!r}.")
    return list(dict.fromkeys([_behind(tokenizer, "\n", bare), _behind(tokenizer, "a", f" {bare}")]))


def _behind(tokenizer: Any, anchor: str, text: str) -> tuple[int, ...]:
    """The tokens of a text behind another: alone, some tokenizers put a blank in front of it."""
    first, whole = (tuple(tokenizer.encode(t, add_special_tokens=False)) for t in (anchor, anchor + text))
    apart = whole[: len(first)] == first
    found = whole[len(first) :] if apart else tuple(tokenizer.encode(text, add_special_tokens=False))
    if not found or is_unknown(tokenizer, found[-1]):
        raise InputError(f"Words must be text that the tokenizer knows, not {visible(text)!r}.")
    return found
