"""The steps of the entropy experiment: each returns a part of the result."""

from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechlist.datasets.lists.list_set import ListSet
from mechlist.experiments.effects import comparable_fillers
from mechlist.experiments.list_predictions import read_logits
from mechlist.metrics.by_topic import at_last, clustered_means, counted_from, matched_last
from mechlist.runner import Runner

PLACES = {"last item token": "item_last", "line break": "line_break"}
"""Positions that predict, by their role: two different things."""
RUNS = ("as written", "adjective swapped")
QUANTITIES = {"entropy": "nats", "varentropy": "nats²"}
ENDS = ("start", "end")


class Moments(NamedTuple):
    """Of the surprisal of the next token, -log p."""

    entropy: Float[Tensor, "*batch"]
    """Its mean, in nats."""
    varentropy: Float[Tensor, "*batch"]
    """Its variance, E[(log p)^2] - H^2, in squared nats."""


def surprisal_moments(logits: Float[Tensor, "*batch vocab"]) -> Moments:
    """Entropy and varentropy of softmax(logits); an outcome of probability 0 adds to neither."""
    log_prob = logits.log_softmax(-1)
    prob = log_prob.exp()
    surprisal = torch.where(prob > 0, -log_prob, 0.0)
    entropy = (prob * surprisal).sum(-1)
    # About the mean, because the difference of two squares loses its digits.
    return Moments(entropy, (prob * (surprisal - entropy.unsqueeze(-1)).square()).sum(-1))


def entropies(runner: Runner, lists: ListSet) -> xr.Dataset:
    """By list, run, place and item, counted from the start; NaN where a list has no such item or no swap."""
    shape = (len(lists), len(RUNS), len(PLACES), lists.width)
    found = {name: np.full(shape, np.nan, dtype=np.float32) for name in QUANTITIES}
    where = np.stack([lists.positions(role) for role in PLACES.values()], axis=1)
    sides = [(0, lists, np.arange(len(lists)))]
    if lists.swappable:
        # The swap keeps every position.
        sides.append((1, lists.swapped(), np.array(lists.swappable)))
    for run, of_run, numbers in sides:
        positions = torch.from_numpy(where[numbers].reshape(len(numbers), -1))
        read = read_logits(
            runner,
            of_run.rows,
            positions,
            lambda logits, _: surprisal_moments(logits)._asdict(),
            label=f"Entropy, {RUNS[run]}",
        )
        for name in QUANTITIES:
            found[name][numbers, run] = read[name].numpy().reshape(len(numbers), *shape[2:])
    dims = ("list", "run", "place", "item")
    variables: dict[str, Any] = {name: (dims, found[name], {"units": unit}) for name, unit in QUANTITIES.items()}
    variables["filler"] = (("list", "item"), lists.fillers)
    coords = {"run": list(RUNS), "place": list(PLACES), "item": np.arange(1, shape[3] + 1)}
    return xr.Dataset(variables, {**lists.coords("n_items"), **coords})


def means(results: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """Mean curves over the lists of each adjective, by the end from which items are counted."""
    curves = {
        name: xr.concat([_means(counted_from(results[name], end), generator) for end in ENDS], dim="end")
        for name in QUANTITIES
    }
    return _named(curves).assign_coords(end=list(ENDS))


def last_items(results: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """Of last items: means (`..._last`), the change that the other adjective makes in a list, and `matched_last`."""
    found: dict[str, xr.Dataset] = {}
    for name in QUANTITIES:
        last = at_last(results[name])
        found[f"{name}_last"] = _means(last, generator)
        swap = last.sel(run=RUNS[1], drop=True) - last.sel(run=RUNS[0], drop=True)
        found[f"{name}_change"] = _means(swap, generator)
        written = results[name].sel(run=RUNS[0], drop=True)
        matched = matched_last(written, comparable_fillers(results), generator, by="adjective")
        found[f"{name}_matched"] = matched.rename(adjective="by_adjective")
    return _named(found)


def _means(values: xr.DataArray, generator: np.random.Generator) -> xr.Dataset:
    """By adjective, under a name that does not clash with the adjective of each list."""
    return clustered_means(values, generator, by="adjective").rename(adjective="by_adjective")


def _named(means: dict[str, xr.Dataset]) -> xr.Dataset:
    """`entropy_mean`, `entropy_low` and so on."""
    return xr.Dataset({f"{name}_{part}": of[part] for name, of in means.items() for part in of.data_vars})
