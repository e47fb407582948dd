"""Prompts for models without chat template: a text of one's own, and the tokens that end a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechlist.errors import InputError

ADJECTIVE, TOPIC = "{adjective}", "{topic}"
_PROBES = ("names", "cats")
"""Topics whose prompts differ in nothing but the topic."""


@dataclass(frozen=True)
class Templated:
    """A tokenizer with the text of a list's prompt, in the place of a tokenizer with a chat template."""

    tokenizer: Any
    template: str
    """Up to where the model begins to write, with one `{adjective}` and one `{topic}`."""
    end_tokens: tuple[int, ...]
    """Tokens that end a list: the one that decision A compares with the hyphen, and perhaps another."""

    def __post_init__(self) -> None:
        for part in (ADJECTIVE, TOPIC):
            if self.template.count(part) != 1:
                raise InputError(
                    f"template must hold {part} once, and holds it {self.template.count(part)} times: it is a text "
                    f"with one {ADJECTIVE} and one {TOPIC}, up to where the list begins."
                )
        size = len(self.tokenizer)
        if not 1 <= len(self.end_tokens) <= 2 or len(set(self.end_tokens)) < len(self.end_tokens):
            raise InputError(
                "end_tokens must be one token or two different ones that end a list after a line break, not "
                f"{list(self.end_tokens)}: without chat template there is no end of turn."
            )
        for token in self.end_tokens:
            if not 0 <= token < size:
                raise InputError(f"end_tokens must be in the vocabulary, from 0 to {size - 1}, not {token}.")

    @property
    def name_or_path(self) -> str:
        """Of the tokenizer."""
        return self.tokenizer.name_or_path

    @property
    def bos_token_id(self) -> int | None:
        """Of the tokenizer."""
        return self.tokenizer.bos_token_id

    @property
    def eos_token_id(self) -> int | None:
        """The second token that ends a list; without, the tokenizer's own."""
        return self.end_tokens[1] if len(self.end_tokens) > 1 else self.tokenizer.eos_token_id

    @property
    def unk_token_id(self) -> int | None:
        """Of the tokenizer."""
        return self.tokenizer.unk_token_id

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """As the tokenizer does."""
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """As the tokenizer does."""
        return self.tokenizer.decode(tokens)

    def tokens(self, topic: str, adjective: str, prefill: str = "") -> tuple[int, ...]:
        """Of the prompt and what the list begins with, tokenised as one text.

        Where there is no adjective, there is no blank behind it either.
        """
        gone = f"{ADJECTIVE} " if f"{ADJECTIVE} " in self.template else ADJECTIVE
        told = self.template.replace(ADJECTIVE, adjective) if adjective else self.template.replace(gone, "")
        return encoded(self.tokenizer, told.replace(TOPIC, topic) + prefill)

    @property
    def header(self) -> tuple[int, ...]:
        """Tokens between topic and list.

        Raises:
            InputError: a template that ends with the topic.
        """
        one, other = (self.tokens(topic, "short") for topic in _PROBES)
        size = shared_start(one[::-1], other[::-1])
        if not size:
            raise InputError(
                f"template must hold text behind {TOPIC}, such as a colon and a line break, and holds none."
            )
        return one[len(one) - size :]

    def topic_span(self, topic: str, adjective: str) -> range:
        """Where the topic stands in the prompt.

        Raises:
            InputError: as `header`; or what stands behind the topic stands before it too.
        """
        own, header = self.tokens(topic, adjective), self.header
        start = min(shared_start(own, self.tokens(probe, adjective)) for probe in _PROBES)
        end = len(own) - len(header)
        first = next(i for i in range(len(own)) if own[i : i + len(header)] == header)
        if first < end:
            raise InputError(
                f"template must hold a text behind {TOPIC} that stands nowhere before it, which tells where a recorded "
                f"list begins; {self.decode(header)!r} stands there already."
            )
        return range(start, end)


def list_tokenizer(tokenizer: Any, template: Path | None, end_tokens: Sequence[int]) -> Any:
    """The tokenizer, or with a template the two together.

    Raises:
        InputError: a file that cannot be read; a template or end tokens as `Templated`; end tokens without template.
    """
    if template is None:
        if end_tokens:
            raise InputError("end_tokens are for prompts by a template, and do nothing without: leave them out.")
        return tokenizer
    try:
        text = template.expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"template must be a file of text: {template} cannot be read ({error}).") from error
    return Templated(tokenizer, text, tuple(end_tokens))


def encoded(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a text, with BOS in front once where the tokenizer puts it in front of any text."""
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    bos = tokenizer.bos_token_id
    if bos is None or ids[:1] == (bos,) or tokenizer.encode("")[:1] != [bos]:
        return ids
    return (bos, *ids)


def shared_start(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens at the start that two sequences have in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
