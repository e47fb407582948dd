"""How stable a circuit is: chosen on one half of the prompts and measured on the other, and on prompts drawn again."""

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from mechlist.patching.circuits.nodes import Nodes
from mechlist.patching.edges import EdgeTask

RESAMPLES = 100
"""Of clusters of prompts; a circuit is chosen for each."""

Select = Callable[[Float[Tensor, "sender receiver"]], Bool[Tensor, "sender receiver"]]
"""A circuit from the mean scores of edges."""


def held_out(
    task: EdgeTask,
    scores: Float[Tensor, "prompt sender receiver"],
    labels: Shaped[np.ndarray, " prompt"],
    select: Select,
) -> xr.Dataset:
    """The metric of every prompt in the circuit that is chosen on the half of the clusters that it is not in.

    Args:
        task: the prompts.
        scores: of all edges in each.
        labels: clusters of prompts.
        select: what chooses.

    Returns:
        `held_out(prompt)`, and `halves_jaccard`: what the two circuits share of the edges that either has. Nothing with
        fewer than two clusters.
    """
    names = np.unique(labels)
    if len(names) < 2:
        return xr.Dataset()
    order = task.runner.numpy_generator("halves of the prompts").permutation(len(names))
    first = torch.from_numpy(np.isin(labels, names[order[: len(names) // 2]]))
    circuits = torch.stack([select(scores[half].double().mean(0)) for half in (first, ~first)])
    values = task.values(task.nodes.reads & ~circuits).double()
    either = int((circuits[0] | circuits[1]).sum())
    shared = int((circuits[0] & circuits[1]).sum()) / either if either else float("nan")
    return xr.Dataset(
        {"held_out": ("prompt", torch.where(first, values[1], values[0]).numpy()), "halves_jaccard": ((), shared)}
    )


def selected(
    nodes: Nodes,
    scores: Float[Tensor, "prompt sender receiver"],
    labels: Shaped[np.ndarray, " prompt"],
    select: Select,
    generator: np.random.Generator,
) -> Float[np.ndarray, " edge"]:
    """Of each edge the share of resamples of clusters in which it is in the circuit; NaN with fewer than two."""
    names, of_prompt = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        return np.full(len(nodes.edges), np.nan)
    sums = torch.zeros(len(names), len(nodes.edges), dtype=torch.float64)
    sender, receiver = nodes.edges.T
    sums.index_add_(0, torch.from_numpy(of_prompt), scores[:, sender, receiver].double())
    sizes = torch.from_numpy(np.bincount(of_prompt)).double()
    total = torch.zeros(len(nodes.edges), dtype=torch.float64)
    for _ in range(RESAMPLES):
        counts = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        weight = torch.from_numpy(counts).double()
        mean = torch.zeros(nodes.reads.shape, dtype=torch.float64)
        mean[sender, receiver] = (weight @ sums) / (weight @ sizes)
        total += select(mean)[sender, receiver]
    return (total / RESAMPLES).numpy()
