"""Texts of a factorial design: lists that differ in lines, fillers, tokens and repeated items, made from token ids."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import ListPrompt, list_prompts, list_text_tokens
from mechlist.errors import InputError

EARLIER = ("none", "half", "all")
"""Which of the items before the last carry a filler; half are the first, the third, and so on."""
KINDS = ("best known", "few tokens", "many tokens", "first again", "one item")
"""Which items: the best known; those of fewest or most tokens; the best known with the first as the last once more; the
best known one in every line."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A list up to the line break behind its last item, with the levels of its factors."""

    prompt: ListPrompt
    special: ListTokens
    kind: str
    """One of `KINDS`."""
    items: int
    filler: bool
    """Whether the last item carries one."""
    earlier: str
    """One of `EARLIER`."""
    words: str
    """The list as text."""
    tokens: tuple[int, ...]
    """Prompt and list."""
    content: int
    """Tokens of all items, without hyphens, fillers and line breaks."""
    earlier_fillers: int
    repeats: int
    """Items that stood before."""

    @property
    def line_break(self) -> int:
        """Position of the last token, a line break."""
        return len(self.tokens) - 1

    @property
    def item_last(self) -> int:
        """Position of the last token of the last item."""
        return self.line_break - 1 - self.filler


@dataclass(frozen=True)
class Levels:
    """What texts of a topic and an adjective there are."""

    kind: str
    items: range
    filler: tuple[bool, ...] = (False,)
    earlier: tuple[str, ...] = ("none",)

    def cells(self) -> Iterator[tuple[int, bool, str]]:
        """Items, filler on the last, fillers on earlier ones."""
        return product(self.items, self.filler, self.earlier)


def design_texts(
    tokenizer: Any, topics: Mapping[str, Sequence[str]], adjectives: Sequence[str], levels: Sequence[Levels]
) -> list[Text]:
    """Every text of the levels behind every prompt; a topic lacks those for which it has too few items.

    Texts are put together from the token ids of their items, and compared with what the tokenizer writes.

    Raises:
        InputError: a tokenizer without chat template; an item that merges with what stands beside it.
    """
    special = list_tokens(tokenizer)
    content: dict[str, dict[str, tuple[int, ...]]] = {}
    texts: list[Text] = []
    for prompt in list_prompts(tokenizer, list(topics), adjectives):
        if prompt.topic not in content:
            content[prompt.topic] = {
                name: _item_tokens(tokenizer, prompt, name, special) for name in topics[prompt.topic]
            }
        of_topic = content[prompt.topic]
        for level in levels:
            for items, filler, earlier in level.cells():
                names = _names(level.kind, of_topic, items, level.items.stop - 1)
                if names is not None:
                    texts.append(_text(prompt, level.kind, names, of_topic, special, filler, earlier))
    for text in _longest(texts):
        _check_written(tokenizer, text)
    return texts


def shared_rows(texts: Sequence[Text]) -> tuple[list[Int[Tensor, " _"]], Int[np.ndarray, " text"]]:
    """Sequences that hold all texts, a text that begins another being read in it; and the one that each is read in."""
    order = sorted({text.tokens for text in texts})
    rows: list[tuple[int, ...]] = []
    held: dict[tuple[int, ...], int] = {}
    for tokens in reversed(order):
        # In this order, what begins with a sequence stands right before it here.
        if not rows or rows[-1][: len(tokens)] != tokens:
            rows.append(tokens)
        held[tokens] = len(rows) - 1
    return [torch.tensor(row) for row in rows], np.array([held[text.tokens] for text in texts])


def _longest(texts: Sequence[Text]) -> list[Text]:
    """A text for each of the shared rows."""
    rows, _ = shared_rows(texts)
    by_tokens = {text.tokens: text for text in texts}
    return [by_tokens[tuple(row.tolist())] for row in rows]


def _names(kind: str, content: Mapping[str, Sequence[int]], items: int, most: int) -> list[str] | None:
    """Items of a text; None where the topic has too few for the longest text of its kind and level."""
    known = list(content)
    if len(known) < (items if kind == "best known" else most):
        return None
    if kind == "few tokens":
        return sorted(known, key=lambda name: len(content[name]))[:items]
    if kind == "many tokens":
        return sorted(known, key=lambda name: -len(content[name]))[:items]
    if kind == "first again":
        return [*known[: items - 1], known[0]]
    return known[:1] * items if kind == "one item" else known[:items]


def _text(
    prompt: ListPrompt,
    kind: str,
    names: Sequence[str],
    content: Mapping[str, tuple[int, ...]],
    special: ListTokens,
    filler: bool,
    earlier: str,
) -> Text:
    last = len(names) - 1
    carries = [{"none": False, "half": place % 2 == 0, "all": True}[earlier] for place in range(last)] + [filler]
    tokens, words = list(prompt.tokens), ""
    for place, (name, blank) in enumerate(zip(names, carries, strict=True)):
        # The prompt ends with the first hyphen.
        tokens += [special.hyphen] * (place > 0) + [*content[name]] + [special.blank] * blank + [special.line_break]
        words += f"-{name}{' ' * blank}\n"
    return Text(
        prompt=prompt,
        special=special,
        kind=kind,
        items=len(names),
        filler=filler,
        earlier=earlier,
        words=words,
        tokens=tuple(tokens),
        content=sum(len(content[name]) for name in names),
        earlier_fillers=sum(carries[:-1]),
        repeats=len(names) - len(set(names)),
    )


def _item_tokens(tokenizer: Any, prompt: ListPrompt, name: str, special: ListTokens) -> tuple[int, ...]:
    """An item's own tokens, as it stands between hyphen and line break."""
    tokens = _written(tokenizer, prompt, f"-{name}\n")
    start = len(prompt.tokens)
    if tokens[:start] != prompt.tokens or tokens[-1] != special.line_break or len(tokens) < start + 2:
        raise InputError(f"The item {name!r} of {prompt.topic!r} merges with the hyphen or the line break beside it.")
    return tokens[start:-1]


def _check_written(tokenizer: Any, text: Text) -> None:
    """Whether the tokenizer writes the text as it was put together."""
    if _written(tokenizer, text.prompt, text.words) != text.tokens:
        raise InputError(
            f"The tokenizer must write each line of a list by itself, and of {text.prompt.topic!r} it merges an item "
            f"or a filler with what stands beside it: {text.words!r}."
        )


def _written(tokenizer: Any, prompt: ListPrompt, words: str) -> tuple[int, ...]:
    return list_text_tokens(tokenizer, prompt.topic, prompt.adjective, words)
