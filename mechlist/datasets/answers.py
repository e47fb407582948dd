"""Continuations of a prompt as single tokens, by text or by id: `" Paris"`, `","`, `"id:286"`.

What a text is depends on what stands before it: SentencePiece writes " was" alone as two tokens and behind a word as
one. So an answer is tokenised with its prompt, and what follows the prompt is taken.
"""

import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from mechlist.errors import InputError
from mechlist.text import visible

_ID = re.compile(r"id:(\d+)")


@runtime_checkable
class Texts(Protocol):
    """What turns text into tokens and back, such as a Runner."""

    def to_tokens(self, text: str, *, prepend_bos: bool | None = None) -> list[int]:
        """Token ids of a text, with BOS as is the model's habit unless `prepend_bos` says otherwise."""
        ...

    def token_texts(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Of the model."""
        ...


def answer_token(model: Texts, name: str, text: str, *, vocabulary: int, prompt: str = "", where: str = "") -> int:
    """The one token that an answer is.

    In this order: the id that is named; what the tokenizer puts behind the prompt; the text by itself; a piece of the
    vocabulary with exactly this text, such as the inside of a word.

    Args:
        model: turns text into tokens.
        name: the parameter's.
        text: of the answer, with its leading blank if it has one; or `id:286`.
        vocabulary: tokens that the model can predict.
        prompt: that the answer follows.
        where: said in front of what was received, such as "in pair 2 ".

    Raises:
        InputError: no token or several, or one that the model cannot predict.
    """
    found = _ID.fullmatch(text)
    token = int(found[1]) if found else _token(model, text, prompt)
    if token is None:
        parts = model.to_tokens(text, prepend_bos=False) if text else []
        raise InputError(
            f"{name} must be one token; {where}{text!r} is {len(parts)}: {model.token_texts(parts)}. A token can be "
            "named by its id, as in id:286."
        )
    if token >= vocabulary:
        raise InputError(
            f"{name} must be a token from id:0 to id:{vocabulary - 1}, those that the model can predict, not {text!r}"
            + ("." if found else f", which is id:{token}.")
        )
    return token


def _token(model: Texts, text: str, prompt: str) -> int | None:
    if not text:
        return None
    if prompt:
        before, whole = model.to_tokens(prompt), model.to_tokens(prompt + text)
        if len(whole) == len(before) + 1 and whole[:-1] == before:
            return whole[-1]
    alone = model.to_tokens(text, prepend_bos=False)
    if len(alone) == 1:
        return alone[0]
    return _piece(model, text)


def _piece(model: Texts, text: str) -> int | None:
    """A token of the vocabulary that shows as exactly this text."""
    convert = getattr(model.tokenizer, "convert_tokens_to_ids", None)
    if convert is None:
        return None
    for written in (text, text.replace(" ", "▁"), text.replace(" ", "Ġ").replace("\n", "Ċ")):
        token = convert(written)
        if isinstance(token, int) and token != model.tokenizer.unk_token_id and model.token_texts([token]) == [text]:
            return token
    return None


def likely_mistakes(model: Texts, prompt: str, answer: str, *, where: str = "") -> list[str]:
    """What looks like a slip in a prompt and its answer: a blank that is missing, or one too many; a sentence each."""
    said = []
    if prompt.endswith((" ", "\t")):
        said.append(
            f"{where}the prompt {_end(prompt)} ends with a blank, which most tokenizers write as a token of its own: "
            "words are predicted with their blank in front."
        )
    elif answer[:1].isalpha() and prompt[-1:].isalnum() and not _ID.fullmatch(answer):
        blank = _token(model, f" {answer}", prompt)
        if blank is not None and blank != _token(model, answer, prompt):
            said.append(
                f"{where}{answer!r} would go on with the word at the end of {_end(prompt)}; {f' {answer}'!r}, with a "
                "blank in front, was probably meant."
            )
    return said


def _end(prompt: str) -> str:
    shown = visible(prompt)
    return repr(shown if len(shown) <= 30 else f"…{shown[-29:]}")
