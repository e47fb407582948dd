"""Lists as patching takes them: two runs that differ in one factor, the roles, and where it is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mechlist.datasets.lists.directions import Direction
from mechlist.datasets.lists.factors import RUNS, Factor, aligned, factor_pair, reordered
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.role_positions import CountFrom, named_roles
from mechlist.datasets.lists.roles import Roles, positions
from mechlist.errors import InputError
from mechlist.metrics.answers import LogitDifference
from mechlist.patching.arguments import PatchArguments
from mechlist.text import visible

At = Literal["break", "item"]
Side = Literal["denoising", "noising"]


@dataclass(frozen=True, eq=False)
class Run:
    """One of the two runs of every list, cut behind the position that is measured."""

    tokens: Int[Tensor, "list position"]
    lengths: Int[Tensor, " list"]
    roles: dict[str, list[list[int]]]
    """Positions by the names that results have."""
    parts: tuple[Roles, ...]
    """Of every position."""


@dataclass(frozen=True, eq=False)
class ListPairs:
    """Lists in two runs that differ in one factor."""

    factor: Factor
    runs: tuple[Run, Run]
    """As `RUNS` names them."""
    direction: Direction
    own: str
    """The role of the position that is measured."""
    topic: list[str]
    n_items: list[int]
    """Of the first run."""
    left_out: int
    """Lists without that position, or without what the factor needs."""
    lists: tuple[ListSet, ListSet]
    """Of both runs, whole."""

    @property
    def short(self) -> Int[Tensor, "list position"]:
        """Tokens of the first run, after short where the factor is the adjective."""
        return self.runs[0].tokens

    @property
    def long(self) -> Int[Tensor, "list position"]:
        """Tokens of the second run, after long where the factor is the adjective."""
        return self.runs[1].tokens

    @property
    def lengths(self) -> Int[Tensor, " list"]:
        """Of the first run; the second has the same where the factor is the adjective."""
        return self.runs[0].lengths

    @property
    def roles(self) -> dict[str, list[list[int]]]:
        """Of the first run, which has every role that the second has."""
        return self.runs[0].roles

    def arguments(self, side: Side, site: str, per: str) -> PatchArguments:
        """What is patched at a site: the first run put into the second (denoising), or the second into the first."""
        base, source = self.runs[::-1] if side == "denoising" else self.runs
        # A single set of tokens stands for every list.
        metric = LogitDifference(
            answer=[self.direction.answer], wrong=[self.direction.wrong], position=(base.lengths - 1).tolist()
        )
        width = base.tokens.shape[1]
        same = self.factor == "adjective"
        return PatchArguments(
            base=base.tokens,
            source=source.tokens,
            site=site,
            per=per,
            metric=metric,
            lengths=base.lengths,
            roles=dict(base.roles),
            source_positions=None if same else aligned(base.parts, source.parts, base.lengths.tolist(), width),
        )

    def irrelevant(self, arguments: PatchArguments, side: Side, generator: np.random.Generator) -> PatchArguments:
        """Arguments of this side with the changed run's own lists put in, their items in another order.

        A change that is not to matter, as large in tokens as lists allow: adjective, number of items and fillers stay.
        """
        number = 1 if side == "denoising" else 0
        base, other = self.runs[number], reordered(self.lists[number], generator)
        width = base.tokens.shape[1]
        return replace(
            arguments,
            source=_padded(other, range(len(other)), width),
            source_positions=aligned(base.parts, other.roles, base.lengths.tolist(), width),
        )

    def own_role(self, side: Side) -> dict[str, list[list[int]]]:
        """The position that is measured, as the only role of the run that is changed."""
        base = self.runs[1 if side == "denoising" else 0]
        return {self.own: [[n - 1] for n in base.lengths.tolist()]}

    @property
    def coords(self) -> dict[str, Any]:
        """Labels over the dimension `list`."""
        return {"topic": ("list", [visible(topic) for topic in self.topic]), "n_items": ("list", self.n_items)}


def list_pairs(
    data: ListSet,
    adjective: str,
    at: At,
    *,
    factor: Factor = "adjective",
    fewer: int = 4,
    count_from: CountFrom = "end",
    role_items: int = 2,
) -> ListPairs:
    """The lists written after one adjective in two runs, measured at their last line break or last token of an item.

    Args:
        data: lists.
        adjective: short or long: whose lists.
        at: `break` for direction A at the last item's line break, `item` for B at the last token of the last item.
        factor: what the two runs differ in; see `factor_pair`.
        fewer: items that the shorter run lacks, where the factor is the count.
        count_from: which items have roles of their own: those nearest to the last, or to the first.
        role_items: how many.

    Raises:
        InputError: no list with the adjective or with the position, or as `factor_pair`.
    """
    chosen = data.select(adjective)
    both = factor_pair(chosen, factor, fewer)
    direction = data.directions[0 if at == "break" else 1]
    where = [torch.from_numpy(positions(one.roles, direction.role, item_from_end=0)) for one in both]
    kept = ((where[0] >= 0) & (where[1] >= 0)).nonzero()[:, 0].tolist()
    if not kept:
        raise InputError(f"at must be a place that some list has: none of the {len(where[0])} lists has its last {at}.")
    lengths = [one[kept] + 1 for one in where]
    width = max(int(one.max()) for one in lengths)
    parts = [tuple(one.roles[i] for i in kept) for one in both]
    named = [named_roles(of, n.tolist(), count_from, role_items) for of, n in zip(parts, lengths, strict=True)]
    every = [{name: of.get(name, [[] for _ in kept]) for name in named[0]} for of in named]
    tokens = [_padded(one, kept, width) for one in both]
    runs = [Run(*of_run) for of_run in zip(tokens, lengths, every, parts, strict=True)]
    return ListPairs(
        factor=factor,
        runs=(runs[0], runs[1]),
        direction=direction,
        own=_own(named[0], lengths[0].tolist()),
        topic=[both[0].topic[i] for i in kept],
        n_items=[one.n_items for one in parts[0]],
        left_out=len(chosen) - len(kept),
        lists=(both[0].of(kept), both[1].of(kept)),
    )


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers from 0 to `count` - 1, evenly spread."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, most)).round()})


def side_name(results: xr.Dataset, side: str) -> str:
    """What is put into what, as sentences name it: `short put into long (denoising)`."""
    one, other = run_names(results) if side == "denoising" else run_names(results)[::-1]
    return f"{one} put into {other} ({side})"


def run_names(results: xr.Dataset) -> tuple[str, str]:
    """What the first and the second run have; those of results without a factor are of the adjective."""
    return RUNS[results.attrs.get("factor", "adjective")]


def _padded(lists: ListSet, kept: Sequence[int], width: int) -> Int[Tensor, "list position"]:
    tokens = lists.tokens[list(kept), :width]
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]))


def _own(roles: Mapping[str, list[list[int]]], lengths: Sequence[int]) -> str:
    """The role that most lists have at their last position: items counted from the start may differ."""
    found = [
        name for name, where in roles.items() for of_list, n in zip(where, lengths, strict=True) if n - 1 in of_list
    ]
    return max(dict.fromkeys(found), key=found.count)
