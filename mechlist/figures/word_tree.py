"""Trees of text from left to right: one leaf a line, chains of tokens along the branches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mechlist.errors import InputError
from mechlist.figures.style import finish
from mechlist.figures.token_text import LETTER, LINE, colour_axis, coloured, cut, hover_box, laid_out, letters, written
from mechlist.text import number_of, visible

ENDED, CUT_OFF = "■", "…"
"""Marks behind a leaf: the path ended, or it stops without an end."""
_GAP = 3
"""Letters between a branch and its children."""


@dataclass(frozen=True)
class Branch:
    """A chain of tokens, one edge of a tree's compact view."""

    text: str
    parent: int | None
    """Number of the branch that it goes on from; a tree begins with None."""
    value: float | int
    """Its colour: the probability of its first token."""
    weight: float | int
    """By which the leaves of a tree that is too wide are chosen: the logarithm of the path's probability."""
    hover: str = ""
    """Plain text; line breaks stay."""
    mark: str = ""
    """Behind it."""


@dataclass(frozen=True)
class Place:
    """Where a branch stands, and what is shown of it."""

    left: int
    """In letters."""
    line: float
    label: str

    @property
    def right(self) -> int:
        """Letters up to its end."""
        return self.left + letters(self.label) + 1


def word_tree(
    branches: Sequence[Branch], *, title: str, caption: str, most_leaves: int = 40, longest: int = 46
) -> go.Figure:
    """Trees of text, each chain of tokens coloured by the probability of its first token.

    Args:
        branches: parents before children; several trees stand below each other.
        title: names the prompt.
        caption: one sentence that says what to look for; how many leaves were left out is added to it.
        most_leaves: the most probable ones that are shown.
        longest: letters that are shown of a chain; the hover box has all.

    Raises:
        InputError: no branch, or a parent that does not stand before its child.
    """
    if not branches or any(b.parent is not None and not 0 <= b.parent < i for i, b in enumerate(branches)):
        raise InputError("branches must hold one at least, and each parent before its children.")
    kept, hidden = _shown(branches, most_leaves)
    places = tree_places(branches, kept, longest)
    figure = go.Figure([_connectors(branches, places), *_traces(branches, places)])
    height = LINE * (max(place.line for place in places.values()) + 1)
    values = np.array([[branches[i].value for i in kept]], dtype=float)
    figure.update_layout(coloraxis=colour_axis(values, "probability", round(height), diverging=False, confidence=True))
    figure = laid_out(figure, max(place.right for place in places.values()) + 2, height)
    left_out = f" Left out: the {number_of(hidden, 'least probable leaves')}." if hidden > 1 else ""
    return finish(figure, title=title, caption=f"{caption}{left_out}")


def _shown(branches: Sequence[Branch], most: int) -> tuple[list[int], int]:
    """The branches that lead to the most probable leaves, and how many leaves are left out."""
    inner = {b.parent for b in branches}
    leaves = sorted((i for i in range(len(branches)) if i not in inner), key=lambda i: (-branches[i].weight, i))
    kept: set[int] = set()
    for leaf in leaves[: most if len(leaves) > most + 1 else len(leaves)]:
        number: int | None = leaf
        while number is not None and number not in kept:
            kept.add(number)
            number = branches[number].parent
    return sorted(kept), len(leaves) - sum(leaf in kept for leaf in leaves)


def tree_places(branches: Sequence[Branch], kept: Sequence[int], longest: int) -> dict[int, Place]:
    """Where each branch stands: leaves one below the other in the order of the tree, parents amid their children."""
    line = _lines(branches, kept)
    places: dict[int, Place] = {}
    for i in kept:
        parent = branches[i].parent
        left = 0 if parent is None else places[parent].right + _GAP - 1
        places[i] = Place(left, line[i], _label(branches[i], longest))
    return places


def _label(branch: Branch, longest: int) -> str:
    """What is shown of a chain: its beginning, and of a prompt the end, which comes before all else."""
    text = visible(branch.text) or "∅"
    if branch.parent is not None or letters(text) <= longest // 2:
        return cut(text, longest)
    return f"…{text[-(longest // 2) :]}"


def _lines(branches: Sequence[Branch], kept: Sequence[int]) -> dict[int, float]:
    children: dict[int | None, list[int]] = {}
    for i in kept:
        children.setdefault(branches[i].parent, []).append(i)
    order, waiting = [], list(reversed(children[None]))
    while waiting:
        number = waiting.pop()
        order.append(number)
        waiting.extend(reversed(children.get(number, [])))
    line = {leaf: float(n) for n, leaf in enumerate(number for number in order if number not in children)}
    for number in reversed(order):
        if number in children:
            line[number] = (line[children[number][0]] + line[children[number][-1]]) / 2
    return line


def _connectors(branches: Sequence[Branch], places: dict[int, Place]) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    for i, place in places.items():
        parent = branches[i].parent
        if parent is None:
            continue
        above = places[parent]
        corner = above.right + 1
        x += [*(at * LETTER for at in (above.right, corner, corner, place.left)), None]
        y += [*((at + 0.5) * LINE for at in (above.line, above.line, place.line, place.line)), None]
    return go.Scatter(x=x, y=y, mode="lines", line={"width": 1, "color": "#b8bcc4"}, hoverinfo="skip")


def _traces(branches: Sequence[Branch], places: dict[int, Place]) -> list[Any]:
    """Coloured boxes, the texts in them, and the marks behind them."""
    left = np.array([place.left for place in places.values()]) * LETTER
    right = np.array([place.right for place in places.values()]) * LETTER
    middle = [(place.line + 0.5) * LINE for place in places.values()]
    boxes = [hover_box(branches[i].text, branches[i].hover) for i in places]
    values = np.array([branches[i].value for i in places], dtype=float)
    bars = coloured(left, right - left, middle, values, boxes)
    labels = written((left + right) / 2, middle, [place.label for place in places.values()])
    ends = [n for n, i in enumerate(places) if branches[i].mark]
    marks = [branches[i].mark for i in places if branches[i].mark]
    return [*bars, labels, written(right[ends] + 0.8 * LETTER, [middle[n] for n in ends], marks)]
