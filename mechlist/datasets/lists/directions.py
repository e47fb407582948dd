"""Directions in the logits of lists: two sets of tokens, and the role of the positions at which they are compared."""

from dataclasses import dataclass

from mechlist.datasets.lists.parse import ListTokens
from mechlist.errors import InputError

ITEM_ROLES = ("hyphen", "item_first", "item_last", "filler", "line_break")
"""Roles that stand once in an item, so that an item's number says where they are."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Mean logit of the answers minus mean logit of the wrong ones, after each token with a role."""

    name: str
    answer: tuple[int, ...]
    wrong: tuple[int, ...]
    role: str
    """Of the position that predicts; one of `ITEM_ROLES`."""

    def __post_init__(self) -> None:
        for side in ("answer", "wrong"):
            if not getattr(self, side):
                raise InputError(f"{side} must hold one token at least, not none.")
        both = sorted(set(self.answer) & set(self.wrong))
        if both:
            raise InputError(f"answer and wrong must be different tokens; both have {both[0]}.")
        if self.role not in ITEM_ROLES:
            raise InputError(f"role must be one of {', '.join(ITEM_ROLES)}, not {self.role!r}.")


def list_directions(special: ListTokens) -> tuple[Direction, Direction]:
    """The study's two: to end after a line break that closes an item; a filler after its last token."""
    return (
        Direction(
            name="A: end of turn - hyphen", answer=(special.end_of_turn,), wrong=(special.hyphen,), role="line_break"
        ),
        Direction(name="B: blank - line break", answer=(special.blank,), wrong=(special.line_break,), role="item_last"),
    )
