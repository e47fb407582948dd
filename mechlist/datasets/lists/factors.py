"""Pairs of lists that differ in one factor alone, and which positions of the two correspond."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.parse import Item
from mechlist.datasets.lists.role_positions import role_positions
from mechlist.datasets.lists.roles import Roles
from mechlist.errors import InputError

Factor = Literal["adjective", "count", "filler"]
RUNS: Mapping[str, tuple[str, str]] = {
    "adjective": ("short", "long"),
    "count": ("more items", "fewer items"),
    "filler": ("a filler", "no filler"),
}
"""What the two runs of each factor have; of list-tiny, the first ends rather than the second."""


def factor_pair(data: ListSet, factor: Factor, fewer: int) -> tuple[ListSet, ListSet]:
    """The same lists twice: after short and after long, with and without `fewer` items, with and without a filler.

    - adjective: the lists as they are, but for the adjective's one token.
    - count: lines of the items alone, none with a filler, up to the last line break; the shorter run lacks the first
      `fewer` items, so that both end with the same lines. Lists with no more items than that are left out.
    - filler: up to the line break of the last item, before which a blank stands or does not; fillers on earlier items
      stay as they are.

    Raises:
        InputError: no list has more than `fewer` items, or one item at all; or as `ListSet.swapped`.
    """
    if factor == "adjective":
        other = data.swapped()
        return (data, other) if data.adjective[0] == "short" else (other, data)
    least = fewer + 1 if factor == "count" else 1
    kept = [i for i, one in enumerate(data.parsed) if len(one.items) >= least]
    if not kept:
        raise InputError(
            f"fewer must be less than the items that a list has, not {fewer}: no list has more than "
            f"{int(data.n_items.max())}."
            if factor == "count"
            else "factor filler needs lists with an item, and none has one."
        )
    chosen = data.of(kept)
    if factor == "count":
        return _with_items(chosen, 0), _with_items(chosen, fewer)
    return _with_filler(chosen, filler=True), _with_filler(chosen, filler=False)


def aligned(
    base: Sequence[Roles], source: Sequence[Roles], lengths: Sequence[int], width: int
) -> Int[Tensor, "list position"]:
    """Of each position of the base lists that of the source lists with the same role, counted from the last item.

    Of several with one role the last correspond, and so on backwards. -1 where the source list has none, and from
    `lengths` on.

    Args:
        base: roles of the lists that are changed.
        source: of the same lists in the other run.
        lengths: tokens of each base list that count.
        width: positions.
    """
    found = torch.full((len(base), width), -1)
    there = role_positions(source, count_from="end")
    for name, of_base in role_positions(base, count_from="end").items():
        of_source = there.get(name, [[]] * len(base))
        for row, (own, other, length) in enumerate(zip(of_base, of_source, lengths, strict=True)):
            for position, counterpart in zip(reversed(own), reversed(other), strict=False):
                if position < length:
                    found[row, position] = counterpart
    return found


def reordered(data: ListSet, generator: np.random.Generator) -> ListSet:
    """The same lists with their items in another order: of the same number of items, fillers at the same ones.

    What is not to matter to how a list ends: every list has as many tokens as before, but other items at each place. A
    list of one item stays as it is.
    """
    rows = []
    for row, one in zip(data.rows, data.parsed, strict=True):
        order = np.arange(len(one.items))
        while len(order) > 1 and (order == np.arange(len(order))).all():
            order = generator.permutation(len(order))
        contents = [row[item.content.start : item.content.stop] for item in one.items]
        parts, done = [], 0
        for item, place in zip(one.items, order.tolist(), strict=True):
            parts += [row[done : item.content.start], contents[place]]
            done = item.content.stop
        rows.append(torch.cat([*parts, row[done:]]))
    return replace(data, rows=tuple(rows))


def with_fillers(data: ListSet, fillers: Sequence[Sequence[bool]]) -> ListSet:
    """The first items of each list with the fillers given for them, and then the end of the turn.

    Args:
        data: lists with as many items as are asked for, or more.
        fillers: of each list, whether each of the items that are kept carries one.
    """
    special = data.special
    rows = []
    for row, one, prompt, wanted in zip(data.rows, data.parsed, data.prompts, fillers, strict=True):
        out = list(prompt.tokens[:-1])
        for item, has in zip(one.items, wanted, strict=False):
            content = row[item.content.start : item.content.stop].tolist()
            out += [special.hyphen, *content, *[special.blank] * has, special.line_break]
        rows.append(torch.tensor([*out, special.end_of_turn]))
    return replace(data, rows=tuple(rows))


def _with_items(data: ListSet, left_out: int) -> ListSet:
    """The lines of the items from number `left_out` on, without fillers."""
    special = data.special

    def lines(row: Int[Tensor, " _"], items: Sequence[Item]) -> list[int]:
        out: list[int] = []
        for item in items[left_out:]:
            content = row[item.content.start : item.content.stop].tolist()
            out += [special.hyphen, *content, special.line_break]
        # The prompt ends with the first hyphen.
        return out[1:]

    columns = zip(data.rows, data.parsed, data.prompts, strict=True)
    rows = [torch.tensor([*prompt.tokens, *lines(row, one.items)]) for row, one, prompt in columns]
    return replace(data, rows=tuple(rows))


def _with_filler(data: ListSet, *, filler: bool) -> ListSet:
    """Up to the line break of the last item, with a filler before it or without."""
    end = [data.special.blank] * filler + [data.special.line_break]
    columns = zip(data.rows, data.parsed, strict=True)
    return replace(
        data, rows=tuple(torch.cat([row[: one.items[-1].content.stop], torch.tensor(end)]) for row, one in columns)
    )
