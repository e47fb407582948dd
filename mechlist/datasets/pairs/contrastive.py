"""Contrastive pairs: one list after two prompts that differ in the adjective's token (SOURCES.md S1; 001, Patching)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechlist.datasets.chat import chat_tokens
from mechlist.datasets.lists.prompts import ListPrompt, PromptedList, list_prompt, list_sentence
from mechlist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ContrastivePair:
    """Two sequences of one length, position for position."""

    topic: str
    clean_adjective: str
    corrupt_adjective: str
    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    hyphen: int
    """Index of the prefilled hyphen in both."""

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.corrupt):
            raise InputError(
                f"clean and corrupt must have the same number of tokens, not {len(self.clean)} and {len(self.corrupt)}."
            )
        if not self.differing:
            raise InputError("clean and corrupt must differ in a token, and are the same.")
        if not 0 <= self.hyphen < len(self.clean):
            raise InputError(f"hyphen must be an index of the {len(self.clean)} tokens, not {self.hyphen}.")

    @property
    def differing(self) -> tuple[int, ...]:
        """Indices at which the two differ."""
        return tuple(i for i, (a, b) in enumerate(zip(self.clean, self.corrupt, strict=True)) if a != b)


def swapped_prompt(tokenizer: Any, prompt: ListPrompt, to: str) -> ListPrompt:
    """The prompt with another adjective in the place of its own, as the tokenizer writes the new text.

    Raises:
        InputError: a swap that changes the number of tokens, as to or from no adjective, or any token but the
            adjective's; a prompt that is not what this tokenizer writes.
    """
    text = list_sentence(prompt.topic, prompt.adjective)
    if chat_tokens(tokenizer, text, "-") != prompt.tokens:
        raise InputError(f"prompt must be what the tokenizer writes for {text!r}, and has other tokens.")
    tokens = chat_tokens(tokenizer, list_sentence(prompt.topic, to), "-")
    if len(tokens) != len(prompt.tokens):
        raise InputError(
            f"A swap must keep the number of tokens: the prompt for {prompt.topic!r} has {len(prompt.tokens)} with "
            f"{_shown(prompt.adjective)} and {len(tokens)} with {_shown(to)}."
        )
    other = list_prompt(tokenizer, prompt.topic, to)
    _check_swap(prompt, other)
    return other


def swap_adjective(tokenizer: Any, sequence: Sequence[int], prompt: ListPrompt, to: str) -> tuple[int, ...]:
    """The sequence, which begins with the prompt, with the adjective's one token swapped; nothing else changes.

    Raises:
        InputError: a sequence that does not begin with the prompt, or as in `swapped_prompt`.
    """
    return swapped_prompt(tokenizer, prompt, to).with_completion(prompt.completion_of(sequence))


def contrastive_pair(clean: PromptedList, corrupt: ListPrompt) -> ContrastivePair:
    """A list after its own prompt and after another one; needs no tokenizer (`ListPrompt.with_adjective`).

    Raises:
        InputError: prompts that differ in anything but the adjective's token.
    """
    _check_swap(clean.prompt, corrupt)
    return ContrastivePair(
        topic=clean.prompt.topic,
        clean_adjective=clean.prompt.adjective,
        corrupt_adjective=corrupt.adjective,
        clean=clean.tokens,
        corrupt=corrupt.with_completion(clean.completion),
        hyphen=corrupt.hyphen,
    )


def contrastive_pairs(tokenizer: Any, lists: Sequence[PromptedList], to: str = "long") -> tuple[ContrastivePair, ...]:
    """Each list after its own prompt (clean) and after the one with the adjective `to` (corrupt).

    Raises:
        InputError: a list whose adjective is `to` already, or as in `swapped_prompt`.
    """
    swapped: dict[ListPrompt, ListPrompt] = {}
    for one in lists:
        if one.prompt not in swapped:
            swapped[one.prompt] = swapped_prompt(tokenizer, one.prompt, to)
    return tuple(contrastive_pair(one, swapped[one.prompt]) for one in lists)


def _check_swap(prompt: ListPrompt, other: ListPrompt) -> None:
    """The two prompts must differ in the adjective's token, and in nothing else."""
    if prompt.adjective == other.adjective:
        raise InputError(f"A swap needs another adjective than {_shown(prompt.adjective)}, which the prompt has.")
    if len(prompt.tokens) != len(other.tokens):
        raise InputError(
            f"A swap must keep the number of tokens: the prompts have {len(prompt.tokens)} and {len(other.tokens)}."
        )
    differing = [i for i, (a, b) in enumerate(zip(prompt.tokens, other.tokens, strict=True)) if a != b]
    if differing != [prompt.adjective_index]:
        raise InputError(
            f"A swap must change the adjective's token at index {prompt.adjective_index} and no other; from "
            f"{prompt.adjective!r} to {other.adjective!r} it changes those at {differing}."
        )


def _shown(adjective: str) -> str:
    return repr(adjective) if adjective else "no adjective"
