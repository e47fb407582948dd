"""What SAEs of `list-tiny` are trained on: what it was trained on itself, and lists and prompts about random names."""

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.prompts import ADJECTIVES, list_prompts
from mechlist.datasets.topics import STUDY, load_topics
from mechlist.decode import generate
from mechlist.runner import Runner
from mechlist.training.list_data import Material, step_batches

BLOCKS, LONGEST_BLOCK = 0.25, 96
"""Share of the known tokens in blocks that repeat, and tokens of the longest row of them, as list-tiny was trained."""
CAPITALS = 0.7
"""How often a random name begins with a capital word."""
LONGEST_LIST = 160
"""Tokens after which a list about a random name is cut off."""
_PAD = -1
"""No token: rows lose it again before they are run."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the tokens of a step."""

    lists: float
    """In lists that list-tiny writes about random names, so that the features also know what it does with topics that
    it never saw. Each time a list is drawn it gets another name."""
    prompts: float
    """In prompts alone, with random names: words that no topic has are in no list."""

    @property
    def known(self) -> float:
        """In what list-tiny was trained on."""
        return 1 - self.lists - self.prompts

    def __str__(self) -> str:
        return (
            f"{self.known:.0%} as list-tiny was trained on, {self.lists:.0%} lists that it wrote about random names, "
            f"{self.prompts:.0%} prompts with such names alone"
        )


@dataclass(frozen=True)
class Names:
    """Tokens that random names are made of."""

    words: list[int]
    """All of the vocabulary."""
    capitals: list[int]
    """A blank and a capital letter: what a topic mostly begins with."""

    def draw(self, generator: np.random.Generator) -> list[int]:
        """One to four tokens, the first of them mostly a capital word."""
        first = self.capitals if self.capitals and generator.random() < CAPITALS else self.words
        more = generator.choice(self.words, int(generator.integers(0, 4))) if generator.random() < 0.5 else []
        return [int(generator.choice(first)), *map(int, more)]


@dataclass(frozen=True)
class MadeUp:
    """Prompts whose topic is a random name, and lists that the model wrote after such."""

    names: Names
    starts: list[tuple[list[int], list[int]]]
    """Of each list, the prompt before and after the name."""
    lists: list[list[int]]

    def rows(self, lists: float | int, prompts: float | int, generator: np.random.Generator) -> list[Tensor]:
        """So many tokens in lists, and so many in prompts alone; each under a name of its own."""
        out: list[Tensor] = []
        for left, whole in ((lists, True), (prompts, False)):
            while left > 0:
                number = int(generator.integers(len(self.lists)))
                before, after = self.starts[number]
                row = [*before, *self.names.draw(generator), *after, *(self.lists[number] if whole else [])]
                out.append(torch.tensor(row))
                left -= len(row)
        return out


def made_up(runner: Runner, own: Material, number: int, seed: int, lists: list[list[int]] | None) -> MadeUp:
    """Prompts under random names and the lists that the model writes after them, or `lists` that it wrote before."""
    generator = np.random.default_rng([seed, number])
    tokenizer = runner.tokenizer
    texts = {token: tokenizer.decode([token]) for token in own.words}
    names = Names(list(texts), [token for token, text in texts.items() if re.match(r" [A-Z]", text)])
    known = list_prompts(tokenizer, list(load_topics(STUDY)), ADJECTIVES)
    chosen = [known[int(i)] for i in generator.integers(len(known), size=number)]
    starts = [([*p.tokens[: p.topic_span.start]], [*p.tokens[p.topic_span.stop :]]) for p in chosen]
    if lists is None:
        prompts = [[*before, *names.draw(generator), *after] for before, after in starts]
        ends = list_tokens(tokenizer).ends
        found = generate(runner, prompts, max_new_tokens=LONGEST_LIST, stop_tokens=ends, label="Writing lists")
        lists = [list(completions[0].tokens) for completions in found]
    return MadeUp(names, starts, lists)


def rows_of_step(own: Material, made: MadeUp, tokens: int, mixture: Mixture, seed: tuple[int, ...]) -> list[Tensor]:
    """Rows with about so many tokens."""
    batches = step_batches(own, _PAD, round(tokens * mixture.known), BLOCKS, LONGEST_BLOCK, seed)
    known = [row[row != _PAD] for batch in batches for row in batch.tokens]
    generator = np.random.default_rng([*seed, len(made.lists)])
    return known + made.rows(tokens * mixture.lists, tokens * mixture.prompts, generator)
