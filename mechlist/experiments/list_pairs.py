"""Lists as patching takes them: the same text after "short" and after "long", the roles, and where it is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mechlist.datasets.lists.directions import Direction
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.role_positions import CountFrom, named_roles
from mechlist.datasets.lists.roles import positions
from mechlist.errors import InputError
from mechlist.metrics.answers import LogitDifference
from mechlist.patching.arguments import PatchArguments
from mechlist.text import visible

At = Literal["break", "item"]
Side = Literal["denoising", "noising"]
SIDE_NAMES: dict[str, str] = {
    "denoising": "short put into long (denoising)",
    "noising": "long put into short (noising)",
}
"""As sentences name them."""


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

    def arguments(self, side: Side, site: str, per: str) -> PatchArguments:
        """What is patched at a site: short put into long (denoising), or long into short (noising)."""
        base, source = (self.long, self.short) if side == "denoising" else (self.short, self.long)
        # A single set of tokens stands for every list.
        metric = LogitDifference(
            answer=[self.direction.answer], wrong=[self.direction.wrong], position=(self.lengths - 1).tolist()
        )
        return PatchArguments(
            base=base, source=source, site=site, per=per, metric=metric, lengths=self.lengths, roles=dict(self.roles)
        )

    @property
    def coords(self) -> dict[str, Any]:
        """Labels over the dimension `list`."""
        return {"topic": ("list", [visible(topic) for topic in self.topic]), "n_items": ("list", self.n_items)}


def list_pairs(
    data: ListSet, adjective: str, at: At, *, count_from: CountFrom = "end", role_items: int = 2
) -> ListPairs:
    """The lists written after one adjective, with both, measured at their last line break or last token of an item.

    Args:
        data: lists.
        adjective: short or long: whose lists.
        at: `break` for direction A at the last item's line break, `item` for B at the last token of the last item.
        count_from: which items have roles of their own: those nearest to the last, or to the first.
        role_items: how many.

    Raises:
        InputError: no list with the adjective or with the position, or as `ListSet.swapped`.
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


def _own(roles: Mapping[str, list[list[int]]], lengths: Sequence[int]) -> str:
    """The role that most lists have at their last position: items counted from the start may differ."""
    found = [
        name for name, where in roles.items() for of_list, n in zip(where, lengths, strict=True) if n - 1 in of_list
    ]
    return max(dict.fromkeys(found), key=found.count)
