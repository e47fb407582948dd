"""Lists as patching takes them: the same text after "short" and after "long", the roles, and where it is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.datasets.lists.role_positions import CountFrom, role_positions
from mechlist.datasets.lists.roles import Roles, positions
from mechlist.errors import InputError
from mechlist.experiments.list_directions import Direction
from mechlist.experiments.list_runs import ListData
from mechlist.metrics.answers import LogitDifference
from mechlist.text import visible

At = Literal["break", "item"]
Side = Literal["denoising", "noising"]
EARLIER, LATER = "earlier items", "later items"
"""Roles of all items without roles of their own."""


@dataclass(frozen=True, eq=False)
class ListPairs:
    """Lists after both adjectives, cut behind the position that is measured."""

    short: Int[Tensor, "list position"]
    long: Int[Tensor, "list position"]
    lengths: Int[Tensor, " list"]
    roles: dict[str, list[list[int]]]
    direction: Direction
    own: str
    """The role of the position that is measured."""
    topic: list[str]
    n_items: list[int]
    left_out: int
    """Lists without that position."""

    def asked(self, side: Side) -> dict[str, Any]:
        """Arguments of `patch_grid`: short put into long (denoising), or long into short (noising)."""
        base, source = (self.long, self.short) if side == "denoising" else (self.short, self.long)
        # A single set of tokens stands for every list.
        metric = LogitDifference(
            answer=[self.direction.answer], wrong=[self.direction.wrong], position=(self.lengths - 1).tolist()
        )
        return {"base": base, "source": source, "metric": metric, "lengths": self.lengths, "roles": dict(self.roles)}

    @property
    def coords(self) -> dict[str, Any]:
        """Labels over the dimension `list`."""
        return {"topic": ("list", [visible(topic) for topic in self.topic]), "n_items": ("list", self.n_items)}


def list_pairs(
    data: ListData, adjective: str, at: At, *, count_from: CountFrom = "end", role_items: int = 2
) -> ListPairs:
    """The lists written after one adjective, with both, measured at their last line break or last token of an item.

    Args:
        data: lists.
        adjective: short or long: whose lists.
        at: `break` for direction A at the last item's line break, `item` for B at the last token of the last item.
        count_from: which items have roles of their own: those nearest to the last, or to the first.
        role_items: how many.

    Raises:
        InputError: no list with the adjective or with the position, or as `ListData.swapped`.
    """
    chosen = data.select(adjective)
    other = chosen.swapped()
    direction = data.directions[0 if at == "break" else 1]
    where = torch.from_numpy(positions(chosen.roles, direction.role, item_from_end=0))
    kept = (where >= 0).nonzero()[:, 0]
    if not len(kept):
        raise InputError(f"at must be a place that some list has: none of the {len(where)} lists has its last {at}.")
    lengths, roles = where[kept] + 1, [chosen.roles[i] for i in kept.tolist()]
    width = int(lengths.max())
    own, swapped = (tokens[kept, :width] for tokens in (chosen.tokens, other.tokens))
    found = named_roles(roles, lengths.tolist(), count_from, role_items)
    return ListPairs(
        short=own if adjective == "short" else swapped,
        long=swapped if adjective == "short" else own,
        lengths=lengths,
        roles=found,
        direction=direction,
        own=_own(found, lengths.tolist()),
        topic=[chosen.topic[i] for i in kept.tolist()],
        n_items=[one.n_items for one in roles],
        left_out=len(where) - len(kept),
    )


def named_roles(
    roles: Sequence[Roles], lengths: Sequence[int], count_from: CountFrom, items: int
) -> dict[str, list[list[int]]]:
    """Positions by role before each length; all items but the nearest `items` share one role, so nothing is left out.

    Roles that no list has there are left out.
    """
    if items < 1:
        raise InputError(f"role_items must be at least 1, not {items}.")
    every = role_positions(roles, count_from=count_from)
    named = role_positions(roles, count_from=count_from, items=items)
    others = [where for name, where in every.items() if name not in named]
    pooled = [sorted(p for where in others for p in where[i]) for i in range(len(roles))]
    out: dict[str, list[list[int]]] = {}
    for name, where in named.items():
        # Items counted from the end stand behind the earlier ones, and from the start before the later ones.
        if count_from == "end" and EARLIER not in out and _of_item(name):
            out[EARLIER] = pooled
        out[name] = where
    if count_from == "start":
        out[LATER] = pooled
    cut = {
        name: [[p for p in of_list if p < length] for of_list, length in zip(where, lengths, strict=True)]
        for name, where in out.items()
    }
    return {name: where for name, where in cut.items() if any(where)}


def _of_item(name: str) -> bool:
    return name.startswith(("item ", "last item "))


def _own(roles: Mapping[str, list[list[int]]], lengths: Sequence[int]) -> str:
    """The role that most lists have at their last position: items counted from the start may differ."""
    found = [
        name for name, where in roles.items() for of_list, n in zip(where, lengths, strict=True) if n - 1 in of_list
    ]
    return max(dict.fromkeys(found), key=found.count)
