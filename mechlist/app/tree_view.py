"""Which chains of a token tree are shown: a tree of thousands stays readable and quick by showing what is open."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mechlist.decode.tree import Segment, Tree
from mechlist.decode.tree_drawing import tree_branches
from mechlist.errors import InputError
from mechlist.figures.word_tree import Branch

FIRST_SHOWN = 40
"""Chains that are shown at first, about."""
MOST_SHOWN = 300
"""Chains that are shown at all."""
MOST_CHILDREN = 12
"""Of a chain that are shown, the most probable."""


@dataclass(frozen=True)
class TreeSheet:
    """A tree with its compact view, worked out once."""

    tree: Tree
    segments: tuple[Segment, ...]
    branches: tuple[Branch, ...]
    texts: tuple[str, ...]
    """Of each chain, for searches, folded."""

    @classmethod
    def of(cls, tree: Tree) -> "TreeSheet":
        """The sheet of a tree."""
        branches = tree_branches(tree)
        return cls(tree, tuple(tree.segments()), tuple(branches), tuple(b.text.casefold() for b in branches))


@dataclass(frozen=True)
class TreeView:
    """What a person sees of a tree; numbers are those of chains."""

    open: frozenset[int]
    """Chains whose children are shown."""
    selected: int = 0

    @classmethod
    def first(cls, sheet: TreeSheet) -> "TreeView":
        """The root and the most probable chains."""
        opened: set[int] = set()
        waiting, shown = [0], 1
        while waiting and shown < FIRST_SHOWN:
            number = max(waiting, key=lambda n: (sheet.branches[n].weight, -n))
            waiting.remove(number)
            children = sheet.segments[number].children[:MOST_CHILDREN]
            if children:
                opened.add(number)
                waiting += children
                shown += len(children)
        return cls(frozenset(opened))

    def shown(self, sheet: TreeSheet) -> list[int]:
        """Chains that are shown, parents before children; those on the way to the selected one always are."""
        way = set(way_to(sheet, self.selected))
        found, waiting = [], [0]
        while waiting:
            number = waiting.pop(0)
            found.append(number)
            children = sheet.segments[number].children
            if number in self.open:
                waiting += [c for n, c in enumerate(children) if n < MOST_CHILDREN or c in way]
            else:
                waiting += [c for c in children if c in way]
        return sorted(found)

    def select(self, number: int) -> "TreeView":
        """The same with another chain selected."""
        return replace(self, selected=number)

    def toggled(self, sheet: TreeSheet, number: int) -> "TreeView":
        """A chain opened or closed, and selected; one that is closed closes what is below it.

        Raises:
            InputError: more chains than one can look at.
        """
        if number not in self.open:
            opened = replace(self, open=self.open | {number}, selected=number)
            if len(opened.shown(sheet)) > MOST_SHOWN:
                raise InputError(f"{MOST_SHOWN} chains can be shown at a time: collapse some before you expand others.")
            return opened
        below = {n for n in self.open if number in way_to(sheet, n)}
        return replace(self, open=self.open - below, selected=number)


def way_to(sheet: TreeSheet, number: int) -> tuple[int, ...]:
    """Chains from the root to one, both among them."""
    way: list[int] = []
    at: int | None = number
    while at is not None:
        way.append(at)
        at = sheet.segments[at].parent
    return tuple(reversed(way))


def matches(sheet: TreeSheet, query: str) -> list[int]:
    """Chains that hold a text, in small or capital letters, the most probable first."""
    wanted = query.casefold()
    found = [n for n, text in enumerate(sheet.texts) if wanted in text] if wanted else []
    return sorted(found, key=lambda n: (-sheet.branches[n].weight, n))


def next_match(found: Sequence[int], selected: int) -> int | None:
    """The match behind the selected one; the first where none is selected."""
    if not found:
        return None
    return found[(found.index(selected) + 1) % len(found)] if selected in found else found[0]
