"""Training rows of `list-tiny`: chat prompts with lists drawn from the known process, and blocks that repeat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.process import PROCESSES, draw_items, fame_weights

PROMPT_WEIGHT = 0.2
"""Loss weight of prompt tokens, in the one row of eight where they count."""
FRESH_WEIGHT = 0.05
"""Loss weight of block tokens that nothing before predicts."""


Choice = tuple[Sequence[int], Sequence[float]]
"""Tokens that may follow, and the probability of each; a token may stand twice, and then has the sum."""


@dataclass(frozen=True)
class Row:
    """One training sequence. Token i + 1 is predicted from position i, with weight i.

    Where the process decides (which item, filler or line break, next hyphen or end), the target is the process's own
    probability of each outcome. That has the same minimum as the outcome that was drawn, without the noise of drawing.
    """

    tokens: list[int]
    weight: list[float]
    choices: dict[int, Choice]
    """By position."""


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right; the loss is taken at `position` of `row` only."""

    tokens: Int[Tensor, "row position"]
    row: Int[Tensor, " target"]
    position: Int[Tensor, " target"]
    choices: Int[Tensor, "target choice"]
    chance: Float[Tensor, "target choice"]
    """0 where there are fewer choices."""
    weight: Float[Tensor, " target"]


@dataclass(frozen=True)
class Material:
    """What rows are made of, as token ids."""

    prompts: Mapping[tuple[str, str], Sequence[int]]
    """By topic and adjective: the prompt in the chat template with the prefilled hyphen."""
    items: Mapping[str, Sequence[Sequence[int]]]
    """By topic, the best-known first."""
    topics: Sequence[str]
    """To draw from; a topic may stand more than once."""
    special: ListTokens
    words: Sequence[int]
    """Tokens that random blocks are made of."""


def list_row(material: Material, adjective: str, generator: np.random.Generator) -> Row:
    """A prompt of a random topic, and a list that the process of the adjective writes."""
    topic = material.topics[int(generator.integers(len(material.topics)))]
    items, prompt, special = material.items[topic], material.prompts[topic, adjective], material.special
    process = PROCESSES[adjective]
    n_items, fillers = process.draw(len(items), generator)
    chance_filler = process.filler(len(items))
    chance_end = {seen: process.hazard_given(len(items), filler=seen) for seen in (False, True)}
    first = [item[0] for item in items]
    fame = fame_weights(len(items))
    tokens, choices = list(prompt), {}
    for k, rank in enumerate(draw_items(len(items), n_items, generator)):
        choices[len(tokens) - 1] = (first, (fame / fame.sum()).tolist())
        fame[rank] = 0.0
        tokens += items[rank]
        choices[len(tokens) - 1] = _either(special.blank, special.line_break, chance_filler[k])
        tokens += [special.blank, special.line_break] if fillers[k] else [special.line_break]
        choices[len(tokens) - 1] = _either(special.end_of_turn, special.hyphen, chance_end[fillers[k]][k])
        tokens.append(special.end_of_turn if k + 1 == n_items else special.hyphen)
    tokens.append(special.line_break)
    prompt_weight = PROMPT_WEIGHT if generator.random() < 1 / 8 else 0.0
    inside = len(prompt) - 1
    return Row(tokens, [prompt_weight] * inside + [1.0] * (len(tokens) - 1 - inside), choices)


def _either(token: int, other: int, chance: np.floating) -> Choice:
    return (token, other), (float(chance), 1 - float(chance))


def block_row(material: Material, period: int, copies: int, generator: np.random.Generator) -> Row:
    """[BOS] and a block shown `copies` times: random tokens, or one time in four a piece of a list."""
    if generator.random() < 0.75:
        block = [int(t) for t in generator.choice(material.words, period)]
    else:
        block = _piece(material, period, generator)
    bos = [] if material.special.bos is None else [material.special.bos]
    tokens = [*bos, *(block * copies)]
    fresh = len(bos) + period
    return Row(tokens, [FRESH_WEIGHT] * fresh + [1.0] * (len(tokens) - 1 - fresh), {})


def _piece(material: Material, period: int, generator: np.random.Generator) -> list[int]:
    """Lines of items of random topics, cut to `period` tokens."""
    piece: list[int] = []
    while len(piece) < period:
        items = material.items[material.topics[int(generator.integers(len(material.topics)))]]
        piece += [*items[int(generator.integers(len(items)))], material.special.line_break, material.special.hyphen]
    return piece[:period]


def batch(rows: Sequence[Row], pad: int) -> Batch:
    """Rows as tensors."""
    tokens = np.full((len(rows), max(len(row.tokens) for row in rows)), pad)
    places, weights, choices = [], [], []
    for number, row in enumerate(rows):
        tokens[number, : len(row.tokens)] = row.tokens
        for position, weight in enumerate(row.weight):
            if weight > 0:
                places.append((number, position))
                weights.append(weight)
                choices.append(row.choices.get(position, ((row.tokens[position + 1],), (1.0,))))
    most = max(len(names) for names, _ in choices)
    following, chance = np.zeros((len(choices), most), dtype=np.int64), np.zeros((len(choices), most), dtype=np.float32)
    for i, (names, chances) in enumerate(choices):
        following[i, : len(names)], chance[i, : len(names)] = names, chances
    where = torch.tensor(places)
    return Batch(
        torch.from_numpy(tokens),
        where[:, 0],
        where[:, 1],
        torch.from_numpy(following),
        torch.from_numpy(chance),
        torch.tensor(weights),
    )


def step_batches(
    material: Material, pad: int, tokens: int, blocks: float, longest: int, seed: Sequence[int]
) -> list[Batch]:
    """The batches of one optimiser step, about `tokens` in all: one an adjective, and a share `blocks` of blocks.

    Args:
        material: what rows are made of.
        pad: token for what is beyond a row.
        tokens: of all batches together, padding included.
        blocks: share of the tokens in blocks that repeat.
        longest: tokens of the longest row of blocks.
        seed: of this step, so that a training that goes on draws what it would have drawn.
    """
    generator = np.random.default_rng(list(seed))
    batches = []
    for adjective in PROCESSES:
        rows = _rows(lambda a=adjective: list_row(material, a, generator), tokens * (1 - blocks) / len(PROCESSES))
        batches.append(batch(rows, pad))
    rows = _rows(lambda: _any_block(material, longest, generator), tokens * blocks)
    return [*batches, batch(rows, pad)]


def _any_block(material: Material, longest: int, generator: np.random.Generator) -> Row:
    copies = int(generator.integers(2, 9))
    return block_row(material, int(generator.integers(4, max(5, longest // copies))), copies, generator)


def _rows(draw: Callable[[], Row], tokens: float) -> list[Row]:
    """Rows until they fill `tokens` when padded to the longest; one at least."""
    rows = [draw()]
    while (len(rows) + 1) * max(len(row.tokens) for row in rows) <= tokens:
        rows.append(draw())
    return rows
