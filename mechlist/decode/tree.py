"""Token trees: the continuations of a prompt that a model finds likely, branch by branch.

The next-token probabilities come from a function, so that a tree can be grown from a model
(`mechlist.decode.tree_model`), from a recorded tree (`mechlist.decode.tree_file`) or from numbers made by hand.
"""

import dataclasses
import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from mechlist.errors import InputError

SHOWN_CANDIDATES = 10
"""Candidates that a node keeps, at most."""
BATCH = 64
"""Paths whose candidates are asked for at once, at most."""

TokenPath = tuple[int, ...]
"""Token ids behind the prompt."""
Order = Literal["breadth", "best"]


@dataclass(frozen=True)
class Candidate:
    """A token that may come next."""

    token_id: int
    text: str
    prob: float | int


Expand = Callable[[list[TokenPath]], list[list[Candidate]]]
"""Next-token candidates of each path, path () being the prompt. An empty list is a leaf that is not finished."""


@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """How a tree grows; the defaults are those of the recorded trees."""

    min_branch_threshold: float | int = 0.1
    """Tokens more probable than the threshold become branches. This is the threshold while the queue is empty."""
    max_branch_threshold: float | int = 0.5
    """The threshold once as many paths wait as `soft_queue_limit`; between, it is in proportion."""
    soft_queue_limit: int = 30
    """Waiting paths at which the threshold is highest."""
    candidate_threshold: float | int = 0.01
    """Tokens more probable than this are kept as candidates of a node, ten at most."""
    max_depth: int = 1000
    """Tokens behind the prompt after which a path is left as it is."""
    max_completed_paths: int = 5
    """Finished paths at which the tree stops growing."""
    stop_tokens: tuple[int, ...] = ()
    """Tokens that finish a path."""
    order: Order = "breadth"
    """Which path goes on next: the one that has waited longest, so that the shortest paths finish first; or the most
    probable one."""
    merge: bool = False
    """Do not go on with a path whose text another path has already, in other tokens."""
    max_nodes: int | None = None
    """Nodes at which the tree stops growing."""

    def __post_init__(self) -> None:
        low, high = self.min_branch_threshold, self.max_branch_threshold
        if not 0 <= low <= high <= 1:
            raise InputError(
                "min_branch_threshold and max_branch_threshold must be from 0 to 1, the first not above the second, "
                f"not {low} and {high}."
            )
        if not 0 <= self.candidate_threshold <= 1:
            raise InputError(f"candidate_threshold must be from 0 to 1, not {self.candidate_threshold}.")
        for name in ("soft_queue_limit", "max_depth", "max_completed_paths", "max_nodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}.")
        if self.order not in get_args(Order):
            raise InputError(f"order must be one of {', '.join(get_args(Order))}, not {self.order!r}.")

    def threshold(self, waiting: int) -> float:
        """Probability that a branch must be above, while so many paths wait."""
        share = min(1.0, waiting / self.soft_queue_limit)
        return self.min_branch_threshold + share * (self.max_branch_threshold - self.min_branch_threshold)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A token of a tree; the root stands for the prompt."""

    parent: int | None
    token_id: int | None
    text: str
    prob: float | int
    """Given what stands before."""
    log_prob: float | int
    """Of the path from the prompt on, in nats: the product of many probabilities underflows."""
    depth: int
    children: tuple[int, ...] = ()
    """The most probable first."""
    candidates: tuple[Candidate, ...] = ()
    """Of a node that was gone on with; the most probable first."""
    is_finished: bool = False
    """Whether the path ended with a stop token, and was counted as completed."""
    merged_into: int | None = None
    """The node that has the same text and was gone on with."""

    @property
    def is_open(self) -> bool:
        """Whether the path stops without an end: it still waited, or reached a limit."""
        return not self.children and not self.is_finished and self.merged_into is None


@dataclass(frozen=True)
class Mass:
    """Where the probability of all continuations is; the four add up to 1."""

    finished: float
    """Paths that ended."""
    open: float
    """Paths that stop without an end."""
    merged: float
    """Paths that go on under another node."""
    left: float
    """Whatever turned off the tree: tokens that were not taken."""


@dataclass(frozen=True)
class Segment:
    """A chain of tokens without a branch between them: one edge of the compact view."""

    nodes: tuple[int, ...]
    """Of the tree, from the first to the last."""
    parent: int | None
    """The segment that it branches off from."""
    children: tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """A tree that has grown; nodes stand in the order in which they were made, parents before children."""

    prompt: str
    config: TreeConfig
    nodes: tuple[Node, ...]

    def path(self, number: int) -> tuple[int, ...]:
        """Numbers of the nodes from the root's child to this one."""
        return _path(self.nodes, number)

    def tokens(self, number: int) -> TokenPath:
        """Token ids of the path to a node."""
        return _tokens(self.nodes, number)

    def text(self, number: int) -> str:
        """Text behind the prompt up to a node."""
        return "".join(self.nodes[n].text for n in self.path(number))

    @property
    def leaves(self) -> list[int]:
        """Nodes without children, in the order of their depth and probability."""
        return [i for i, node in enumerate(self.nodes) if not node.children]

    @cached_property
    def mass(self) -> Mass:
        """Probability mass that the tree covers, and what is left."""
        shares = {"finished": 0.0, "open": 0.0, "merged": 0.0}
        for i in self.leaves:
            node = self.nodes[i]
            kind = "finished" if node.is_finished else "open" if node.merged_into is None else "merged"
            shares[kind] += math.exp(node.log_prob)
        return Mass(**shares, left=max(0.0, 1.0 - sum(shares.values())))

    def segments(self) -> list[Segment]:
        """The compact view: chains of one child drawn as one edge; parents before children."""
        chains: list[tuple[int, ...]] = []
        parents: list[int | None] = []
        starts: deque[tuple[int, int | None]] = deque([(0, None)])
        while starts:
            first, parent = starts.popleft()
            chain = [first]
            while first != 0 and len(self.nodes[chain[-1]].children) == 1:
                chain.append(self.nodes[chain[-1]].children[0])
            starts.extend((child, len(chains)) for child in self.nodes[chain[-1]].children)
            chains.append(tuple(chain))
            parents.append(parent)
        children: list[list[int]] = [[] for _ in chains]
        for number, parent in enumerate(parents):
            if parent is not None:
                children[parent].append(number)
        return [Segment(*parts) for parts in zip(chains, parents, map(tuple, children), strict=True)]

    def to_json(self) -> dict[str, Any]:
        """The tree in the recorded format, with log-probabilities, what the tree covers, and merged nodes marked.

        It is as deep as the tree; `mechlist.decode.tree_file.tree_text` writes a tree of any depth.
        """
        made: list[dict[str, Any]] = []
        for node in self.nodes:
            made.append(self._node_json(node))
            if node.parent is not None:
                made[node.parent]["children"].append(made[-1])
        parameters = dataclasses.asdict(self.config) | {"stop_tokens": list(self.config.stop_tokens)}
        mass = dataclasses.asdict(self.mass)
        return {"metadata": {"prompt": self.prompt, "parameters": parameters, "mass": mass}, "tree": made[0]}

    def _node_json(self, node: Node) -> dict[str, Any]:
        merged = {} if node.merged_into is None else {"merged_into": list(self.tokens(node.merged_into))}
        return {
            "text": node.text,
            "prob": node.prob,
            "cumulative_prob": math.exp(node.log_prob),
            "log_prob": node.log_prob,
            "token_id": node.token_id,
            "depth": node.depth,
            "is_finished": node.is_finished,
            **merged,
            "candidates": [{"text": c.text, "prob": c.prob, "token_id": c.token_id} for c in node.candidates],
            "children": [],
        }


def _path(nodes: Sequence[Node], number: int) -> tuple[int, ...]:
    found: list[int] = []
    parent = nodes[number].parent
    while parent is not None:
        found.append(number)
        number, parent = parent, nodes[parent].parent
    return tuple(reversed(found))


def _tokens(nodes: Sequence[Node], number: int) -> TokenPath:
    ids = (nodes[n].token_id for n in _path(nodes, number))
    return tuple(token for token in ids if token is not None)


def grow_tree(expand: Expand, config: TreeConfig, *, prompt: str = "", batch: int = BATCH) -> Tree:
    """Grow a tree of likely continuations.

    Paths wait in a queue. One is taken out at a time; the tokens more probable than the threshold, which rises with the
    number of paths that waited before it was taken, become its branches, or else the most probable token alone. A path
    at `max_depth` is left; one that ends with a stop token is completed.

    Candidates are asked for in batches ahead of their turn, and looked at in their turn: the tree is the same for any
    `batch`, for an `expand` whose answer for a path does not depend on the others.

    Args:
        expand: next-token candidates of several paths, in any order; among equal probabilities its order is kept.
        config: thresholds and limits.
        prompt: text of the root.
        batch: paths in one call of `expand`, at most.

    Raises:
        InputError: candidates that are no probabilities, or not one list a path.
    """
    if batch < 1:
        raise InputError(f"batch must be at least 1, not {batch}.")
    growing = _Growing(config, prompt)
    asked = _Asked(expand, growing, batch)
    queue = _Queue(growing)
    queue.put(0)
    completed = 0
    while len(queue) and completed < config.max_completed_paths and not growing.is_full:
        threshold = config.threshold(len(queue))
        number = queue.take()
        if growing.depth[number] >= config.max_depth or growing.merge(number):
            continue
        if growing.finish(number):
            completed += 1
            continue
        for child in growing.branch(number, asked.of(number, queue), threshold):
            queue.put(child)
    return growing.tree()


class _Growing:
    """A tree in the making."""

    def __init__(self, config: TreeConfig, prompt: str) -> None:
        self.config, self.prompt = config, prompt
        self.nodes = [Node(parent=None, token_id=None, text=prompt, prob=1.0, log_prob=0.0, depth=0)]
        self.depth = [0]
        self._texts = [""]
        self._first_of: dict[str, int] = {}

    @property
    def is_full(self) -> bool:
        return self.config.max_nodes is not None and len(self.nodes) >= self.config.max_nodes

    def goes_on(self, number: int) -> bool:
        """Whether a node that waits will be gone on with, as far as is known."""
        stops = self.nodes[number].token_id in self.config.stop_tokens
        return not stops and self.depth[number] < self.config.max_depth

    def merge(self, number: int) -> bool:
        """Whether another node has the same text; else this one is the first that has it."""
        if not self.config.merge:
            return False
        first = self._first_of.setdefault(self._texts[number], number)
        # A token without text leaves a path with the text of its own parent, which is no other way to the same text.
        if first == number or self._is_below(number, first):
            return False
        self.nodes[number] = dataclasses.replace(self.nodes[number], merged_into=first)
        return True

    def _is_below(self, number: int, ancestor: int) -> bool:
        parent = self.nodes[number].parent
        while parent is not None and parent > ancestor:
            parent = self.nodes[parent].parent
        return parent == ancestor

    def finish(self, number: int) -> bool:
        """Whether a node ends its path."""
        if self.nodes[number].token_id not in self.config.stop_tokens:
            return False
        self.nodes[number] = dataclasses.replace(self.nodes[number], is_finished=True)
        return True

    def branch(self, number: int, candidates: Sequence[Candidate], threshold: float) -> list[int]:
        """Give a node its children; their numbers."""
        node = self.nodes[number]
        likely = [c for c in candidates if c.prob > self.config.candidate_threshold][:SHOWN_CANDIDATES]
        taken = [c for c in candidates if c.prob > threshold] or list(candidates[:1])
        children = [self._add(number, candidate) for candidate in taken]
        self.nodes[number] = dataclasses.replace(node, candidates=tuple(likely), children=tuple(children))
        return children

    def _add(self, parent: int, candidate: Candidate) -> int:
        log_prob = math.log(candidate.prob) if candidate.prob > 0 else -math.inf
        self.nodes.append(
            Node(
                parent=parent,
                token_id=candidate.token_id,
                text=candidate.text,
                prob=candidate.prob,
                log_prob=self.nodes[parent].log_prob + log_prob,
                depth=self.depth[parent] + 1,
            )
        )
        self.depth.append(self.depth[parent] + 1)
        self._texts.append(self._texts[parent] + candidate.text if self.config.merge else "")
        return len(self.nodes) - 1

    def tree(self) -> Tree:
        return Tree(self.prompt, self.config, tuple(self.nodes))


class _Queue:
    """Nodes that wait. The one that came first goes on first, or the most probable, and the first of equals."""

    def __init__(self, growing: _Growing) -> None:
        self._growing = growing
        self._waiting: list[tuple[float | int, int]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, number: int) -> None:
        best = self._growing.config.order == "best"
        heapq.heappush(self._waiting, (-self._growing.nodes[number].log_prob if best else 0.0, number))

    def take(self) -> int:
        return heapq.heappop(self._waiting)[1]

    def ahead(self, count: int) -> list[int]:
        """The next ones, which stay where they are."""
        return [number for _, number in heapq.nsmallest(count, self._waiting)]


class _Asked:
    """Candidates of nodes, asked for together with those of the nodes that come next."""

    def __init__(self, expand: Expand, growing: _Growing, batch: int) -> None:
        self._expand, self._growing, self._batch = expand, growing, batch
        self._known: dict[int, list[Candidate]] = {}

    def of(self, number: int, queue: _Queue) -> list[Candidate]:
        """The most probable first."""
        if number not in self._known:
            self._ask([number, *self._next(queue)])
        return self._known.pop(number)

    def _next(self, queue: _Queue) -> list[int]:
        found: list[int] = []
        for number in queue.ahead(2 * self._batch):
            if len(found) >= self._batch - 1:
                break
            if number not in self._known and self._growing.goes_on(number):
                found.append(number)
        return found

    def _ask(self, numbers: list[int]) -> None:
        answers = self._expand([_tokens(self._growing.nodes, number) for number in numbers])
        if len(answers) != len(numbers):
            raise InputError(f"expand must give one list for each of the {len(numbers)} paths, not {len(answers)}.")
        for number, candidates in zip(numbers, answers, strict=True):
            wrong = next((c.prob for c in candidates if not 0 <= c.prob <= 1 + 1e-6), None)
            if wrong is not None:
                raise InputError(f"expand must give probabilities from 0 to 1, not {wrong}.")
            # The sort is stable: what is equally probable stays in the order given.
            self._known[number] = sorted(candidates, key=lambda c: -c.prob)
