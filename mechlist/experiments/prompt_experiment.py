"""What experiments on prompts of one's own share: the flags that say what a prompt is, and the prompt as tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mechlist.datasets.lists.prompts import list_sentence
from mechlist.decode.guided import Seam, seam
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.runner import Runner

TOPICS = ("Fruits", "Colors", "Rivers")
"""Of the lists that are asked for where no prompt is given."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with the beginning of the answer, where one is given."""

    text: str
    """As a person gave it."""
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PromptExperiment(Experiment):
    """Base of experiments on prompts; without any, a chat model is asked for short lists, their hyphen prefilled."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    chat: bool = False
    """Put prompts into the model's chat template, as messages of a user."""
    prefix: str = ""
    """Text with which the answer begins, tokenised together with its prompt."""

    def seams_of(self, runner: Runner, texts: Sequence[str]) -> list[tuple[str, Seam]]:
        """Prompts with the beginning of their answers, tokenised together and apart; without texts, requests for lists.

        Raises:
            InputError: an empty prompt; no chat template; special tokens of the chat inside a message or the prefix.
        """
        chat = self.chat or not texts
        given = texts or [list_sentence(topic, "short") for topic in TOPICS]
        prefix = self.prefix if texts else self.prefix or "-"
        try:
            found = [(text, seam(runner, text, prefix, chat=chat)) for text in given]
        except InputError as error:
            if texts:
                raise
            raise InputError(f"A prompt must be given, for the model cannot be asked for a list: {error}") from error
        if any(not one.together for _, one in found):
            raise InputError("A prompt must hold one token at least: the model has no BOS that could stand alone.")
        return found

    def prompts_of(self, runner: Runner, texts: Sequence[str]) -> list[Prompt]:
        """Prompts as tokens, each tokenised together with the beginning of its answer."""
        return [Prompt(text, one.together) for text, one in self.seams_of(runner, texts)]

    def prompt_of(self, runner: Runner, text: str) -> Prompt:
        """One prompt; without a text, the request for a short list of fruits."""
        return self.prompts_of(runner, (text,) if text else ())[0]
