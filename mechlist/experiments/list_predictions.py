"""What a model expects at every place of given lists, and where in an item a list can end; teacher-forced."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.datasets.lists.parse import Item, ListTokens
from mechlist.datasets.lists.process import PROCESSES
from mechlist.decode import Sampling
from mechlist.experiments.whole_lists import Lists, WholeList
from mechlist.runner import Runner
from mechlist.runner.batch import Batch

AT_ONCE = 32
"""Places whose whole distributions are looked at together."""

Places = Float[np.ndarray, "list place"]


class Readings(NamedTuple):
    """Of the next token after each place of each list; place 0 is the prefilled hyphen. NaN beyond a list."""

    end: Places
    """Probability of the end of the turn, by the model itself."""
    drawn_end: Places
    """The same by the rules that a list is drawn with; NaN where they are not known."""
    end_first: Places
    """1 where the end is the most probable token, else 0."""
    filler: Places
    """Probability of a blank."""
    entropy: Places
    """In nats."""
    end_logit: Places
    """Logit of end of turn minus that of the hyphen."""
    filler_logit: Places
    """Logit of a blank minus that of the line break."""


class Stages(NamedTuple):
    """Probability that a list ends after item 1, 2, ..., given that it got to the stage; NaN where it is not seen.

    The two stages share out every place at which an end gives a list of so many items, so the hazard of item k is
    1 - (1 - inside)(1 - at_break).
    """

    inside: Float[np.ndarray, "list item"]
    """Without a line break: after a token of the item or its filler."""
    at_break: Float[np.ndarray, "list item"]
    """At the line break, or behind it before the next item has begun."""


def read(runner: Runner, lists: Lists, *, drawn: Sequence[Sampling | None] | None = None, label: str) -> Readings:
    """One forward pass over every list, with the runner's interventions.

    Args:
        runner: with the model whose expectations are read.
        lists: that are read.
        drawn: rules of drawing, one a list, for `drawn_end`; without, those that the list was drawn with.
        label: what the progress bar says.
    """
    rules = [one.sampling for one in lists] if drawn is None else list(drawn)
    marks, ends = lists[0].marks, end_tokens(lists[0].marks)
    starts = [one.prompt.hyphen for one in lists]
    counts = [_places(one) for one in lists]
    width = max(counts)
    # A list that is shorter than the longest repeats its last place.
    positions = torch.tensor(
        [[start + min(place, n - 1) for place in range(width)] for start, n in zip(starts, counts, strict=True)]
    )
    vocab = runner.shape.d_vocab_out

    def function(batch: Batch) -> dict[str, Tensor]:
        logits = batch.logits()
        out = torch.empty(*logits.shape[:2], len(Readings._fields), dtype=torch.float64)
        for row, number in enumerate(batch.rows.index.tolist()):
            for start in range(0, counts[number], AT_ONCE):
                piece = logits[row, start : min(start + AT_ONCE, counts[number])].float()
                out[row, start : start + len(piece)] = _of_piece(piece, marks, ends, rules[number]).cpu()
            out[row, counts[number] :] = torch.nan
        return {"values": out}

    found = runner.map(
        [one.tokens for one in lists],
        function,
        positions=positions,
        row_bytes=lambda _, kept: 4 * kept * vocab + 48 * min(kept, AT_ONCE) * vocab,
        label=label,
    )["values"].numpy()
    return Readings(*np.moveaxis(found, 2, 0))


def stages(end: Places, lists: Lists, items: int) -> Stages:
    """From the probability of the end at every place to that after every item, for items 1 to `items`."""
    inside, at_break = np.full((2, len(lists), items), np.nan)
    for number, one in enumerate(lists):
        written = one.parsed.items
        for index, item in enumerate(written[:items]):
            ended = one.parsed.ended is not None and index == len(written) - 1
            if item.line_break is None and not ended:
                continue  # The line was cut off: what would have come next is not known.
            behind = written[index + 1].content.start if index + 1 < len(written) else _places(one)
            close = behind if item.line_break is None else item.line_break
            inside[number, index] = _any(end[number, item.content.start : close])
            if item.line_break is not None:
                at_break[number, index] = _any(end[number, close:behind])
    return Stages(inside, at_break)


def by_item(values: Places, lists: Lists, role: str, items: int) -> Float[np.ndarray, "list item"]:
    """Values at the line break or at the last token (`item_last`) of each item; NaN where a list has none.

    An item that was cut off has no last token; an item in which the list ended has one.
    """
    found = np.full((len(lists), items), np.nan)
    for number, one in enumerate(lists):
        written = one.parsed.items
        for index, item in enumerate(written[:items]):
            ended = one.parsed.ended is not None and index == len(written) - 1
            place = item.line_break if role == "line_break" else _last(item, ended=ended)
            if place is not None:
                found[number, index] = values[number, place]
    return found


def fillers(lists: Lists, items: int) -> Float[np.ndarray, "list item"]:
    """1 where an item has a filler, 0 where it has none; NaN where there is no item, or its line was cut off."""
    found = np.full((len(lists), items), np.nan)
    for number, one in enumerate(lists):
        for index, item in enumerate(one.parsed.items[:items]):
            if item.line_break is not None:
                found[number, index] = item.filler is not None
    return found


def final_places(lists: Lists) -> Int[np.ndarray, " list"]:
    """The place after which each list ended; -1 where it did not."""
    return np.array([-1 if one.parsed.ended is None else one.parsed.ended - 1 for one in lists])


def true_stages(lists: Lists, capacities: dict[str, int], items: int) -> Stages:
    """The same as `stages` by the process that wrote the training lists of `list-tiny`, once an item's filler is seen.

    A list that has as many items as its topic ends surely. NaN for topics and adjectives that are not the process's.
    """
    inside, at_break = np.full((2, len(lists), items), np.nan)
    for number, one in enumerate(lists):
        process, capacity = PROCESSES.get(one.prompt.adjective), capacities.get(one.prompt.topic)
        if process is None or capacity is None:
            continue
        hazards = {filler: process.hazard_given(capacity, filler=filler) for filler in (False, True)}
        for index, item in enumerate(one.parsed.items[:items]):
            if item.line_break is not None:
                inside[number, index] = 0.0
                at_break[number, index] = hazards[item.filler is not None][index] if index < capacity else 1.0
    return Stages(inside, at_break)


def _last(item: Item, *, ended: bool) -> int | None:
    return item.content[-1] if ended or item.line_break is not None else None


def _places(one: WholeList) -> int:
    """Places whose next token is, or would be, part of the list."""
    return len(one.completion) + 1 if one.parsed.ended is None else one.parsed.ended


def _any(chances: Float[np.ndarray, " place"]) -> float:
    return float(1 - np.prod(1 - chances))


def end_tokens(marks: ListTokens) -> Int[Tensor, " token"]:
    """End of turn, and eos where it is another token."""
    return torch.tensor(sorted({token for token in (marks.end_of_turn, marks.eos) if token is not None}))


def _of_piece(
    logits: Float[Tensor, "place vocab"], marks: ListTokens, ends: Int[Tensor, " token"], sampling: Sampling | None
) -> Float[Tensor, "place reading"]:
    log_prob = logits.log_softmax(dim=1)
    prob = log_prob.exp()
    own = ends.to(logits.device)
    first: Bool[Tensor, " place"] = torch.isin(logits.argmax(dim=1), own)
    drawn = logits.new_full((len(logits),), torch.nan).double()
    if sampling is not None:
        drawn = sampling.probability_of(logits, ends)
    columns = [
        prob[:, own].sum(dim=1),
        drawn,
        first,
        prob[:, marks.blank],
        -torch.where(log_prob.isneginf(), 0.0, prob * log_prob).sum(dim=1),
        logits[:, marks.end_of_turn] - logits[:, marks.hyphen],
        logits[:, marks.blank] - logits[:, marks.line_break],
    ]
    return torch.stack([column.double() for column in columns], dim=1)
