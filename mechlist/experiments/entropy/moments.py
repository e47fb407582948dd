"""The steps of the entropy experiment: each returns a part of the result."""

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechlist.experiments.list_means import clustered_means, counted, split
from mechlist.experiments.list_reads import read_logits
from mechlist.experiments.list_runs import ListData
from mechlist.experiments.list_sources import SWAP
from mechlist.runner import Runner

PLACES = {"last item token": "item_last", "line break": "line_break"}
"""Positions that predict, by their role: two different things (SOURCES.md S1)."""
RUNS = ("as written", "adjective swapped")
QUANTITIES = {"entropy": "nats", "varentropy": "nats²"}
ENDS = ("start", "end")


class Moments(NamedTuple):
    """Of the surprise of the next token, -log p."""

    entropy: Float[Tensor, "*batch"]
    """Its mean, in nats."""
    varentropy: Float[Tensor, "*batch"]
    """Its variance, E[(log p)^2] - H^2, in squared nats."""


def surprise_moments(logits: Float[Tensor, "*batch vocab"]) -> Moments:
    """Entropy and varentropy of softmax(logits); an outcome of probability 0 adds to neither."""
    log_prob = logits.log_softmax(-1)
    prob = log_prob.exp()
    surprise = torch.where(prob > 0, -log_prob, 0.0)
    entropy = (prob * surprise).sum(-1)
    # About the mean, because the difference of two squares loses its digits.
    return Moments(entropy, (prob * (surprise - entropy.unsqueeze(-1)).square()).sum(-1))


def entropies(runner: Runner, data: ListData) -> xr.Dataset:
    """By list, run, place and item, counted from the start; NaN where a list has no such item or no adjective."""
    shape = (len(data.rows), len(RUNS), len(PLACES), int(data.n_items.max()))
    found = {name: np.full(shape, np.nan, dtype=np.float32) for name in QUANTITIES}
    where = np.stack([data.positions(role) for role in PLACES.values()], axis=1)
    with_adjective = [i for i, adjective in enumerate(data.adjective) if adjective in SWAP]
    sides = [(0, data, np.arange(len(data.rows)))]
    if with_adjective:
        # The swap keeps every position.
        sides.append((1, data.swapped(), np.array(with_adjective)))
    for run, of_run, lists in sides:
        positions = torch.from_numpy(where[lists].reshape(len(lists), -1))
        read = read_logits(
            runner,
            of_run.rows,
            positions,
            lambda logits: surprise_moments(logits)._asdict(),
            label=f"Entropy, {RUNS[run]}",
        )
        for name in QUANTITIES:
            found[name][lists, run] = read[name].numpy().reshape(len(lists), *shape[2:])
    dims = ("list", "run", "place", "item")
    variables = {name: (dims, found[name], {"units": unit}) for name, unit in QUANTITIES.items()}
    coords = {"run": list(RUNS), "place": list(PLACES), "item": np.arange(1, shape[3] + 1)}
    return xr.Dataset(variables, {**data.coords, **coords})


def means(results: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """Mean curves over the lists of each adjective, by the end from which items are counted."""
    curves = {
        name: xr.concat([_means(counted(results[name], end), generator) for end in ENDS], dim="end")
        for name in QUANTITIES
    }
    return _named(curves).assign_coords(end=list(ENDS))


def parts(results: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """Means at the last item and over all before it, and of the change that the other adjective makes in a list."""
    swap = {name: results[name].sel(run=RUNS[1]) - results[name].sel(run=RUNS[0]) for name in QUANTITIES}
    values = {f"{name}_part": results[name] for name in QUANTITIES}
    values |= {f"{name}_change": made.drop_vars("run", errors="ignore") for name, made in swap.items()}
    return _named({name: _means(split(array), generator) for name, array in values.items()})


def _means(values: xr.DataArray, generator: np.random.Generator) -> xr.Dataset:
    """By adjective, under a name that does not clash with the adjective of each list."""
    return clustered_means(values, generator, by="adjective").rename(adjective="by_adjective")


def _named(means: dict[str, xr.Dataset]) -> xr.Dataset:
    """`entropy_mean`, `entropy_low` and so on."""
    return xr.Dataset({f"{name}_{part}": of[part] for name, of in means.items() for part in of.data_vars})
