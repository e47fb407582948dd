"""Token trees in files: the recorded format read and written at any depth, and recorded trees grown again."""

import math
from collections import deque
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mechlist.decode.tree import Candidate, Expand, Node, TokenPath, Tree, TreeConfig
from mechlist.errors import InputError
from mechlist.text import visible
from mechlist.text_files import entry, json_text, parse_json, read_file

MOST_BYTES = 10**8
"""Of a file that is read: a tree of 100,000 nodes takes about half of it."""
_OLDER = {"branching_threshold": ("min_branch_threshold", "max_branch_threshold")}
"""A fixed threshold, as the first recorded trees had it."""


def read_tree(file: Path) -> Tree:
    """A token tree from a JSON file, its own or a recorded one, of the older format too.

    Raises:
        InputError: a file that is missing, too large, cut off, not JSON, or no token tree.
    """
    return parse_tree(read_file(file, MOST_BYTES, "a tree"), str(file))


def parse_tree(text: str, name: str) -> Tree:
    """A token tree from the text of a file, which errors call `name`; see `read_tree`."""
    try:
        return tree_from_json(parse_json(text))
    except ValueError as error:
        raise InputError(f"{name} is cut off or not JSON: {error}.") from error
    except InputError as error:
        raise InputError(f"{name} is not a token tree: {error}") from error


def tree_from_json(value: Any) -> Tree:
    """The tree that `Tree.to_json` or a recorded file describes; nodes are numbered level by level.

    Raises:
        InputError: what is missing or of another type.
    """
    metadata, root = (entry(value, name, dict, "the file") for name in ("metadata", "tree"))
    nodes: list[Node] = []
    merged: list[tuple[int, TokenPath]] = []
    waiting: deque[tuple[dict[str, Any], int | None]] = deque([(root, None)])
    below: list[list[int]] = []
    while waiting:
        given, parent = waiting.popleft()
        node = _node(given, None if parent is None else nodes[parent], parent)
        if parent is not None:
            below[parent].append(len(nodes))
        if "merged_into" in given:
            merged.append((len(nodes), tuple(entry(given, "merged_into", list, _where(node)))))
        waiting.extend((child, len(nodes)) for child in entry(given, "children", list, _where(node)))
        nodes.append(node)
        below.append([])
    nodes = [replace(node, children=tuple(children)) for node, children in zip(nodes, below, strict=True)]
    for number, path in merged:
        nodes[number] = replace(nodes[number], merged_into=_find(nodes, path, number))
    return Tree(entry(metadata, "prompt", str, "metadata"), _config(metadata), tuple(nodes))


def tree_text(tree: Tree) -> str:
    """The JSON of a tree, whatever its depth, in one line; token text stands in it as it is."""
    value = tree.to_json()
    parts = [f'{{"metadata": {json_text(value["metadata"])}, "tree": ']
    waiting: list[dict[str, Any] | str] = ["}\n", value["tree"]]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, str):
            parts.append(entry)
            continue
        own = {name: part for name, part in entry.items() if name != "children"}
        parts.append(f'{json_text(own)[:-1]}, "children": [')
        waiting.append("]}")
        for child in reversed(entry["children"]):
            waiting += [child, ", "]
        if entry["children"]:
            waiting.pop()
    return "".join(parts)


def replay(tree: Tree) -> Expand:
    """What the tree says of each of its paths, to grow it again.

    Recorded candidates are rounded, and half-precision probabilities are often equal: among equals, what the tree took
    comes first, in its order.
    """
    by_path: dict[TokenPath, int] = {(): 0}
    paths: list[TokenPath] = [()]
    for number, node in enumerate(tree.nodes[1:], start=1):
        assert node.parent is not None
        assert node.token_id is not None
        paths.append((*paths[node.parent], node.token_id))
        by_path[paths[number]] = number

    def expand(asked: list[TokenPath]) -> list[list[Candidate]]:
        return [_recorded(tree, by_path[path]) if path in by_path else [] for path in asked]

    return expand


def _recorded(tree: Tree, number: int) -> list[Candidate]:
    """The taken tokens with the probabilities that they were recorded with, then the other candidates."""
    node = tree.nodes[number]
    taken = [tree.nodes[child] for child in node.children]
    out = [Candidate(child.token_id or 0, child.text, child.prob) for child in taken]
    ids = {child.token_id for child in taken}
    exact = {round(child.prob, 4): child.prob for child in taken}
    others = [c for c in node.candidates if c.token_id not in ids]
    # A candidate that is equal to a taken one as far as it was recorded gets its digits, too.
    return out + [Candidate(c.token_id, c.text, exact.get(round(c.prob, 4), c.prob)) for c in others]


def _where(node: Node) -> str:
    return "the root" if node.parent is None else f"the node {visible(node.text)!r} at depth {node.depth}"


def _node(given: Any, parent: Node | None, number: int | None) -> Node:
    where = "the root" if parent is None else f"a child of {_where(parent)}"
    text, prob = entry(given, "text", str, where), entry(given, "prob", (int, float), where)
    if not 0 <= prob <= 1:
        raise InputError(f"'prob' of {where} must be from 0 to 1, not {prob}.")
    above = 0.0 if parent is None else parent.log_prob
    log_prob = above + (math.log(prob) if prob > 0 else -math.inf)
    if given.get("log_prob") is not None:
        log_prob = entry(given, "log_prob", (int, float), where)
    candidates = [_candidate(c, where) for c in given.get("candidates") or ()]
    return Node(
        parent=number,
        token_id=None if parent is None else entry(given, "token_id", int, where),
        text=text,
        prob=prob,
        log_prob=log_prob,
        depth=0 if parent is None else parent.depth + 1,
        candidates=tuple(candidates),
        is_finished=bool(given.get("is_finished", False)),
    )


def _candidate(given: Any, where: str) -> Candidate:
    where = f"a candidate of {where}"
    return Candidate(
        entry(given, "token_id", int, where),
        entry(given, "text", str, where),
        entry(given, "prob", (int, float), where),
    )


def _config(metadata: dict[str, Any]) -> TreeConfig:
    """The parameters that there are; what a file does not say stays at its default."""
    given = dict(metadata.get("parameters") or {})
    for old, names in _OLDER.items():
        if old in given:
            given |= dict.fromkeys(names, given.pop(old))
    known = {f.name for f in fields(TreeConfig)}
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    try:
        return TreeConfig(**{name: value for name, value in values.items() if name in known})
    except TypeError as error:
        raise InputError(f"the parameters are of other types than a tree's ({error}).") from error


def _find(nodes: list[Node], path: TokenPath, number: int) -> int:
    at = 0
    for token in path:
        below = [child for child in nodes[at].children if nodes[child].token_id == token]
        if not below:
            raise InputError(f"{_where(nodes[number])} is merged into a path that is not there.")
        at = below[0]
    return at
