"""The texts of the design, what a model says after each, and what the known process would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.datasets.lists.design import EARLIER, KINDS, Levels, Text, shared_rows
from mechlist.datasets.lists.process import PROCESSES
from mechlist.experiments.list_predictions import read_logits
from mechlist.runner import Runner

Values = Float[np.ndarray, " text"]


class Said(NamedTuple):
    """Logit differences after each text."""

    end: Values
    """A: end of turn minus hyphen, at the line break."""
    filler: Values
    """B: blank minus line break, at the last token of the last item."""


@dataclass(frozen=True)
class Topics:
    """Items by topic, of those that have enough for the design; and how many items the others have."""

    used: Mapping[str, Sequence[str]]
    left_out: Mapping[str, int]


def enough_items(topics: Mapping[str, Sequence[str]], items: int) -> Topics:
    """Topics with so many items at least."""
    used = {topic: names for topic, names in topics.items() if len(names) >= items}
    return Topics(used, {topic: len(names) for topic, names in topics.items() if topic not in used})


def levels(min_items: int, max_items: int, curve_items: int) -> list[Levels]:
    """All fillers with the best-known items; without fillers, items of few or many tokens and repeated ones.

    Beyond the design's most items, texts with and without a filler on the last item follow, up to `curve_items`.
    """
    design = range(min_items, max_items + 1)
    both = (False, True)
    return [
        Levels(KINDS[0], design, both, EARLIER),
        *(Levels(kind, design) for kind in KINDS[1:]),
        Levels(KINDS[0], range(max_items + 1, curve_items + 1), both),
    ]


def read(runner: Runner, texts: Sequence[Text]) -> Said:
    """A and B after every text, in one batched pass over the sequences that hold them."""
    special = texts[0].special
    rows, held = shared_rows(texts)
    asked = np.array([[text.line_break, text.item_last] for text in texts])
    where, column = _columns(asked, held, len(rows))

    def of(logits: Float[Tensor, "token vocab"], numbers: Int[Tensor, " token"]) -> dict[str, Tensor]:  # noqa: ARG001
        ends = logits[:, special.end_of_turn] - logits[:, special.hyphen]
        fills = logits[:, special.blank] - logits[:, special.line_break]
        return {"said": torch.stack([ends, fills], dim=1).double()}

    found = read_logits(runner, rows, torch.from_numpy(where), of, label="Reading texts")["said"].numpy()
    at_break, at_item = (found[held, column[:, i], i] for i in range(2))
    return Said(at_break, at_item)


def truth(texts: Sequence[Text], capacities: Mapping[str, int]) -> Said:
    """The same by the process that wrote the training lists of `list-tiny`: logits of its probabilities.

    NaN where an adjective is not the process's, and where the topic has no item left, so that the list surely ends.
    """
    out = np.full((2, len(texts)), np.nan)
    known: dict[tuple[str, int, bool], tuple[np.ndarray, np.ndarray]] = {}
    for i, text in enumerate(texts):
        process, capacity = PROCESSES.get(text.prompt.adjective), capacities[text.prompt.topic]
        if process is None or text.items >= capacity:
            continue
        key = text.prompt.adjective, capacity, text.filler
        if key not in known:
            known[key] = process.hazard_given(capacity, filler=text.filler), process.filler(capacity)
        chances = np.array([chance[text.items - 1] for chance in known[key]])
        out[:, i] = np.log(chances / (1 - chances))
    return Said(*out)


def factors(texts: Sequence[Text]) -> Float[np.ndarray, "text term"]:
    """What each text has of each of the `TERMS`."""
    rows = [(t.items, t.filler, t.earlier_fillers, t.content, t.repeats) for t in texts]
    return np.array(rows, dtype=np.float64)


def _columns(
    asked: Int[np.ndarray, "text n"], held: Int[np.ndarray, " text"], rows: int
) -> tuple[Int[np.ndarray, "row asked"], Int[np.ndarray, "text n"]]:
    """Positions that are asked of each row, each once and -1 behind them; and the column of each that is asked."""
    of_row = [sorted(set(asked[held == row].ravel().tolist())) for row in range(rows)]
    where = np.full((rows, max(map(len, of_row))), -1, dtype=np.int64)
    for line, positions in zip(where, of_row, strict=True):
        line[: len(positions)] = positions
    place = [{position: i for i, position in enumerate(positions)} for positions in of_row]
    column = [[place[row][p] for p in positions] for row, positions in zip(held.tolist(), asked.tolist(), strict=True)]
    return where, np.array(column)
