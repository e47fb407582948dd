"""A response and how it came to be: every choice starts a new one, and the last can be taken back."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mechlist.decode.records import Alternative, Record, RecordedToken, to_json
from mechlist.decode.tree import Tree
from mechlist.errors import InputError
from mechlist.text import visible

GoOn = Callable[[Record, int, Alternative], Record]
"""The record that has another token in a place, with what follows it."""


@dataclass(frozen=True)
class Step:
    """A response, and the choice that it came from."""

    record: Record
    said: str = ""
    """The choice in words; none of the first."""
    place: int | None = None
    """Of the token that was chosen; what stands before it was kept."""


@dataclass(frozen=True)
class Path:
    """Responses one behind the other; the last one is shown."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, record: Record) -> "Path":
        """The path that begins with a record."""
        return cls((Step(record),))

    @property
    def now(self) -> Step:
        """What is shown."""
        return self.steps[-1]

    def chosen(self, place: int, number: int, go_on: GoOn) -> "Path":
        """The path with another token in a place.

        Args:
            place: of the token, from 0.
            number: of its alternatives.
            go_on: gives what follows.

        Raises:
            InputError: no such token or alternative; the token that stands there already; whatever `go_on` says.
        """
        record = self.now.record
        if not 0 <= place < len(record.tokens):
            raise InputError(f"The response has {len(record.tokens)} tokens; there is none number {place + 1}.")
        token = record.tokens[place]
        if not 0 <= number < len(token.alternatives):
            raise InputError(
                f"Token {place + 1} has {len(token.alternatives)} alternatives; there is none number {number + 1}."
            )
        other = token.alternatives[number]
        if same(token, other):
            raise InputError(f"“{visible(other.token)}” stands there already: choose another token.")
        said = f"token {place + 1}: “{visible(other.token)}” in place of “{visible(token.token)}”"
        return replace(self, steps=(*self.steps, Step(go_on(record, place, other), said, place)))

    def undone(self) -> "Path":
        """The path without its last choice."""
        return self.at(len(self.steps) - 2)

    def at(self, number: int) -> "Path":
        """The path up to a step."""
        return replace(self, steps=self.steps[: max(1, number + 1)])

    def to_json(self) -> dict[str, Any]:
        """The response that is shown, as a record, with the choices that led to it."""
        return to_json(self.now.record) | {"path": [step.said for step in self.steps[1:]]}


def same(token: RecordedToken, other: Alternative) -> bool:
    """Whether an alternative is the token itself."""
    if token.token_id is not None and other.token_id is not None:
        return token.token_id == other.token_id
    return token.token == other.token


def cannot_go_on(record: Record, place: int, other: Alternative) -> Record:  # noqa: ARG001 (the signature of GoOn)
    """What stands in for a model where there is none.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"What follows “{visible(other.token)}” was not recorded, and only a model can write it: start the app with "
        "--model."
    )


def record_of(tree: Tree, leaf: int) -> Record:
    """A path of a tree as a record: each token with the candidates that its parent kept."""
    tokens = []
    for number in tree.path(leaf):
        node = tree.nodes[number]
        assert node.parent is not None
        parent = tree.nodes[node.parent]
        own = [Alternative(n.text, _log(n.prob), n.token_id) for n in (tree.nodes[c] for c in parent.children)]
        taken = {one.token_id for one in own}
        others = [Alternative(c.text, _log(c.prob), c.token_id) for c in parent.candidates if c.token_id not in taken]
        ordered = sorted([*own, *others], key=lambda a: -a.log_prob)
        tokens.append(RecordedToken(node.text, _log(node.prob), tuple(ordered), node.token_id))
    return Record(tree.prompt, tree.text(leaf), tuple(tokens))


def likeliest_leaf(tree: Tree, number: int = 0) -> int:
    """The leaf that the most probable tokens lead to, from a node on."""
    while tree.nodes[number].children:
        number = tree.nodes[number].children[0]
    return number


def routes(tree: Tree) -> GoOn:
    """Goes on along the branches of a recorded tree: behind a choice, the most probable tokens."""

    def go_on(record: Record, place: int, other: Alternative) -> Record:
        at = 0
        for token in record.tokens[:place]:
            at = _child(tree, at, token.token_id, token.token)
        return record_of(tree, likeliest_leaf(tree, _child(tree, at, other.token_id, other.token)))

    return go_on


def _child(tree: Tree, number: int, token_id: int | None, text: str) -> int:
    for child in tree.nodes[number].children:
        node = tree.nodes[child]
        if node.token_id == token_id if token_id is not None else node.text == text:
            return child
    raise InputError(
        f"The recorded tree does not go on with “{visible(text)}”: it was a candidate that was not followed. Start the "
        "app with --model to write what follows."
    )


def _log(prob: float | int) -> float:
    return math.log(prob) if prob > 0 else -math.inf
