"""Which choices of a token tree matter: how far the continuations of its alternatives part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mechlist.decode.generation import generate
from mechlist.decode.sampling import Sampling
from mechlist.decode.tree import Tree
from mechlist.errors import InputError
from mechlist.metrics.diversity import Spread, spread, token_distances
from mechlist.runner import Runner


@dataclass(frozen=True)
class Importance:
    """Of one node with several children."""

    node: int
    spread: Spread
    """Of the continuations behind it; `between` is how far its choice parts them."""
    continuations: int
    """From which that was measured."""


def branchings(tree: Tree) -> list[int]:
    """Nodes with several children."""
    return [i for i, node in enumerate(tree.nodes) if len(node.children) > 1]


def leaf_importance(tree: Tree) -> list[Importance]:
    """Of every branching, from the leaves of the tree itself.

    Leaves count by their probability, children by theirs. Where a tree takes the greedy token alone, a child has one
    leaf, and all of the spread is between the children.
    """
    leaves = _leaves_below(tree)
    return [_from_leaves(tree, number, leaves) for number in branchings(tree)]


def resampled_importance(
    runner: Runner,
    tree: Tree,
    prompt: Sequence[int],
    *,
    nodes: Sequence[int] | None = None,
    samples: int = 8,
    max_new_tokens: int = 20,
    sampling: Sampling | None = None,
) -> list[Importance]:
    """The same from continuations that the model writes behind each alternative, all of them batched.

    Args:
        runner: with the model.
        tree: whose branchings are looked at.
        prompt: token ids of the tree's prompt.
        nodes: branchings; all of the tree by default.
        samples: continuations of each alternative.
        max_new_tokens: limit of each.
        sampling: how they are drawn; from the model's whole distribution by default.

    Raises:
        InputError: fewer than two samples, a node without a choice, or no room in the model's context.
    """
    if samples < 2:
        raise InputError(f"samples must be at least 2, not {samples}: one says nothing about the spread.")
    chosen = branchings(tree) if nodes is None else list(nodes)
    single = [number for number in chosen if len(tree.nodes[number].children) < 2]
    if single:
        raise InputError(f"nodes must be branchings, which have several children, and {single[0]} has not.")
    if not chosen:
        return []
    # What a stop token ends has no continuation.
    children = [child for number in chosen for child in tree.nodes[number].children]
    going = [child for child in children if not _stops(tree, child)]
    written = generate(
        runner,
        [[*prompt, *tree.tokens(child)] for child in going],
        max_new_tokens=max_new_tokens,
        samples=samples,
        sampling=sampling,
        stop_tokens=tree.config.stop_tokens,
        label="Continuing the alternatives",
    )
    tails = {child: [c.tokens for c in found] for child, found in zip(going, written, strict=True)}
    return [_from_samples(tree, number, tails, samples) for number in chosen]


def _stops(tree: Tree, number: int) -> bool:
    return tree.nodes[number].token_id in tree.config.stop_tokens


def _leaves_below(tree: Tree) -> list[list[int]]:
    """Leaves under each node, itself if it is one."""
    below: list[list[int]] = [[] if node.children else [i] for i, node in enumerate(tree.nodes)]
    for number in range(len(tree.nodes) - 1, 0, -1):
        parent = tree.nodes[number].parent
        assert parent is not None
        below[parent] += below[number]
    return below


def _from_leaves(tree: Tree, number: int, leaves: list[list[int]]) -> Importance:
    children = tree.nodes[number].children
    of_child = [sorted(leaves[child]) for child in children]
    depth = tree.nodes[number].depth
    texts = [tree.tokens(leaf)[depth:] for below in of_child for leaf in below]
    weight = [
        np.exp(tree.nodes[leaf].log_prob - max(tree.nodes[other].log_prob for other in below))
        for below in of_child
        for leaf in below
    ]
    group = np.repeat(np.arange(len(children)), [len(below) for below in of_child])
    found = spread(token_distances(texts), group, np.array(weight), _shares(tree, number), sampled=False)
    return Importance(number, found, len(texts))


def _from_samples(tree: Tree, number: int, tails: dict[int, list[tuple[int, ...]]], samples: int) -> Importance:
    texts, group = [], []
    for i, child in enumerate(tree.nodes[number].children):
        token = tree.tokens(child)[-1:]
        texts += [token + tail for tail in tails.get(child, [()] * samples)]
        group += [i] * samples
    weight = np.ones(len(texts))
    found = spread(token_distances(texts), np.array(group), weight, _shares(tree, number), sampled=True)
    return Importance(number, found, len(texts))


def _shares(tree: Tree, number: int) -> np.ndarray:
    probs = np.array([float(tree.nodes[child].prob) for child in tree.nodes[number].children])
    return probs / probs.sum()
