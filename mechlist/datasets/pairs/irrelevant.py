"""Tokens of a prompt that should not matter to its answer, and what can stand in their place: a null for patching."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mechlist.datasets.chat import is_unknown

INSTRUCTION: Mapping[str, tuple[str, ...]] = {
    "names": ("words", "items", "titles", "entries", "terms", "answers", "information"),
    "need": ("use", "reason", "call", "cause"),
    "for": ("of",),
    "any": ("some", "the", "other"),
    "other": ("more", "further", "extra", "any"),
    "information": ("details", "text", "data", "facts", "comments", "names"),
    "provide": ("give", "write", "show", "need"),
    "Just": ("Only", "Simply", "Please"),
}
"""Words of the study's request for a list, with others that ask for no other list.

Some are words of the request themselves: a tokenizer of few words has no others."""

Change = Mapping[int, int]
"""Tokens by the position at which they are put in."""


def single_tokens(tokenizer: Any, words: Iterable[str]) -> dict[str, int]:
    """Those of the words that the tokenizer writes as one known token after a blank, with their tokens."""
    before = _encode(tokenizer, "the")
    written = {word: _encode(tokenizer, f"the {word}") for word in words}
    return {
        word: ids[-1]
        for word, ids in written.items()
        if len(ids) == len(before) + 1 and ids[:-1] == before and not is_unknown(tokenizer, ids[-1])
    }


def same_kind(tokenizer: Any, *kinds: Sequence[str]) -> dict[int, list[int]]:
    """Tokens of words, each with those of the others of its kind, as far as the tokenizer writes them as one."""
    found = [list(single_tokens(tokenizer, kind).values()) for kind in kinds]
    return {token: [other for other in kind if other != token] for kind in found for token in kind}


def instruction_words(tokenizer: Any) -> dict[int, list[int]]:
    """Tokens of the words of a request for a list, with those that can stand in their place."""
    others = single_tokens(tokenizer, dict.fromkeys(word for words in INSTRUCTION.values() for word in words))
    own = single_tokens(tokenizer, INSTRUCTION)
    return {token: [others[other] for other in INSTRUCTION[word] if other in others] for word, token in own.items()}


def changes(tokens: Sequence[int], others: Mapping[int, Sequence[int]], positions: Iterable[int]) -> list[Change]:
    """Every way to put one other token in the place of one that stands at the positions, wherever it stands there.

    Args:
        tokens: of the prompt.
        others: what can stand in the place of a token.
        positions: where tokens may be changed.
    """
    places: dict[int, list[int]] = {}
    for position in positions:
        if tokens[position] in others:
            places.setdefault(tokens[position], []).append(position)
    return [dict.fromkeys(where, other) for token, where in places.items() for other in others[token]]


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
