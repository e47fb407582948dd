"""What experiments on a few plain prompts share: their tokens, the empty prompt, and answers as single tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Int

from mechlist.datasets.answers import answer_token
from mechlist.datasets.plain_texts import plain_texts
from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.text import visible, with_interval

LONGEST = 60
"""Letters of a prompt that a label shows."""


@dataclass(frozen=True)
class Prompts:
    """Prompts with their texts."""

    texts: tuple[str, ...]
    """Empty for the empty prompt, which is BOS alone."""
    rows: tuple[tuple[int, ...], ...]
    """Token ids of each, with BOS where the model has one."""

    @property
    def labels(self) -> list[str]:
        """What figures and tables call them: the text with what is not seen made visible."""
        return [label(text) for text in self.texts]


def read_prompts(runner: Runner, texts: Sequence[str]) -> Prompts:
    """Tokens of the texts, or of the dozen that come with mechlist.

    Raises:
        InputError: no tokenizer, an empty prompt for a model without BOS token, or a prompt beyond the context.
    """
    chosen = tuple(texts) or plain_texts()
    rows = []
    for text in chosen:
        tokens = runner.to_tokens(text) if text else empty_prompt(runner)
        if not 0 < len(tokens) <= runner.shape.n_ctx:
            raise InputError(
                f"prompt must have from 1 to {runner.shape.n_ctx} tokens, the model's context; {label(text)!r} has "
                f"{len(tokens)}."
            )
        rows.append(tuple(tokens))
    return Prompts(chosen, tuple(rows))


def empty_prompt(runner: Runner) -> list[int]:
    """BOS alone.

    Raises:
        InputError: a model without a BOS token: it has nothing to begin with.
    """
    if runner.bos_token_id is None:
        raise InputError("The empty prompt is the BOS token alone, and this model has none: give a prompt with text.")
    return [runner.bos_token_id]


def read_answers(runner: Runner, answers: Sequence[str], prompts: Prompts) -> Int[np.ndarray, " prompt"] | None:
    """The token of each prompt's answer; None where none are given.

    Args:
        runner: the model.
        answers: one text for all prompts, or one for each.
        prompts: that they belong to.

    Raises:
        InputError: more or fewer answers than prompts, an answer that is not one token, or one that the model's
            unembedding does not have.
    """
    if not answers:
        return None
    if len(answers) not in (1, len(prompts.rows)):
        raise InputError(
            f"answer must be one for all, or one for each of {len(prompts.rows)} prompts, not {len(answers)}."
        )
    texts = list(answers) if len(answers) > 1 else list(answers) * len(prompts.texts)
    tokens = [
        answer_token(runner, "answer", text, vocabulary=runner.shape.d_vocab_out, prompt=prompt)
        for text, prompt in zip(texts, prompts.texts, strict=True)
    ]
    return np.array(tokens)


def label(text: str) -> str:
    """A prompt as a label: visible characters, cut in the middle where it is long, and a name for the empty one."""
    shown = visible(text) if text else "(empty prompt)"
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2 - 1]}…{shown[-LONGEST // 2 :]}"


def told(at: xr.Dataset, name: str, form: str = "+.2f", unit: str = "", *, mean: str = "") -> str:
    """One number of results with its interval, as sentences have it: from `name`, `name_low` and `name_high`.

    Args:
        at: results in which these variables have no dimension left.
        name: of the number.
        form: format, such as `.1%`.
        unit: behind the number.
        mean: what the number's own variable has behind the name, such as `_mean`.
    """
    value, low, high = (float(at[f"{name}{end}"]) for end in (mean, "_low", "_high"))
    return with_interval(value, low, high, form, unit)
