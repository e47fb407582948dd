"""One list up to where it is looked at, as written and with the other adjective, and the places that decide."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mechlist.datasets.chat import chat_tokens, list_tokens
from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import SWAP, list_prompt, list_sentence
from mechlist.datasets.lists.recorded import read_recorded
from mechlist.datasets.topics import choose_topics
from mechlist.errors import InputError


@dataclass(frozen=True)
class OneList:
    """A request and the list that answers it, as tokens."""

    tokens: tuple[int, ...]
    start: int
    """Position of the prefilled hyphen."""
    special: ListTokens
    adjective: str
    adjective_index: int | None
    other_adjective: int | None
    """Token of the adjective that may take the place of this one; None where there is none."""

    @property
    def places(self) -> list[tuple[int, int]]:
        """Position of each item's last token, and of the line break behind it."""
        breaks = [i for i in range(self.start, len(self.tokens)) if self.tokens[i] == self.special.line_break]
        return [(i - 1 - (self.tokens[i - 1] == self.special.blank), i) for i in breaks]

    def cut(self, item: int) -> "OneList":
        """The list up to the line break behind an item, counted from 1."""
        return replace(self, tokens=self.tokens[: self.places[item - 1][1] + 1])

    def swapped(self) -> "OneList":
        """The same list behind the other adjective.

        Raises:
            InputError: there is no other.
        """
        if self.adjective_index is None or self.other_adjective is None:
            raise InputError(f"Only short and long can be swapped for each other, not {self.adjective or 'none'!r}.")
        at = self.adjective_index
        tokens = (*self.tokens[:at], self.other_adjective, *self.tokens[at + 1 :])
        return replace(self, tokens=tokens, adjective=SWAP[self.adjective])


def made_list(tokenizer: Any, topic: str, adjective: str, items: int, *, filler: bool) -> OneList:
    """A list of a topic's best-known items, with a filler on the last or on none, and the line break behind it.

    Raises:
        InputError: a topic that there is not or that has fewer items; a tokenizer that does not write items as lines.
    """
    (names,) = choose_topics((), (topic,)).values()
    if items > len(names):
        raise InputError(f"item must be at most {len(names)}, the items of {topic!r} that are known, not {items}.")
    prompt, special = list_prompt(tokenizer, topic, adjective), list_tokens(tokenizer)
    text = "\n".join(f"-{name}" for name in names[:items]) + (" \n" if filler else "\n")
    tokens = chat_tokens(tokenizer, list_sentence(topic, adjective), text)
    one = OneList(
        tokens, prompt.hyphen, special, adjective, prompt.adjective_index, _other(tokenizer, topic, adjective)
    )
    if tokens[: len(prompt.tokens)] != prompt.tokens or len(one.places) != items:
        raise InputError(f"The tokenizer does not write the items of {topic!r} as lines of their own.")
    return one


def recorded_list(tokenizer: Any, file: Path, topic: str, number: int) -> OneList:
    """The `number`-th recorded list of a topic, counted from 1; of the file's first topic without one.

    Raises:
        InputError: a file that cannot be read or is of another tokenizer; a list that there is not.
    """
    found, special = read_recorded(file), list_tokens(tokenizer)
    if found.tokens != special:
        raise InputError(f"{file} must be in the model's own tokens: its hyphen, line break and others are not.")
    topic = topic or next(iter(found.topics))
    if topic not in found.topics:
        raise InputError(f"topic must be one of {', '.join(found.topics)}, those of {file}, not {topic!r}.")
    lists = found.topics[topic]
    if not 1 <= number <= len(lists):
        raise InputError(f"number must be from 1 to {len(lists)}, the recorded lists of {topic!r}, not {number}.")
    tokens = tuple(lists[number - 1])
    start = len(tokens) - len(found.completion(tokens))
    ends = [i for i in range(start, len(tokens)) if tokens[i] in special.ends]
    tokens = tokens[: ends[0]] if ends else tokens
    other = _other(tokenizer, topic, found.adjective)
    return OneList(tokens, start, special, found.adjective, found.adjective_index, other)


def _other(tokenizer: Any, topic: str, adjective: str) -> int | None:
    if adjective not in SWAP:
        return None
    prompt = list_prompt(tokenizer, topic, SWAP[adjective])
    return None if prompt.adjective_index is None else prompt.tokens[prompt.adjective_index]
