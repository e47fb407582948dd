"""What lists are like that were written with features changed, against those of the same random numbers without."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechlist.datasets.lists.list_set import ListSet
from mechlist.experiments.sae_ablation.sets import CHOSEN, CLEAN
from mechlist.metrics.by_topic import ENDS
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.runner import Runner

QUANTITIES = {"items": "items", "fillers": "share of items", "diversity": "nats", "topic diversity": "nats"}
"""Items of a list; share of its items with a filler; Shannon index of its items, and of the items of all lists of the
same prompt together."""

Items = Sequence[tuple[int, ...]]


def measured(lists: ListSet, samples: int) -> Float[np.ndarray, "quantity list"]:
    """The `QUANTITIES` of every list, of which `samples` stand together for each prompt; NaN where one has none."""
    items = [_items(lists, row) for row in range(len(lists))]
    fillers = lists.fillers
    told = np.isfinite(fillers).sum(axis=1)
    share = np.divide(np.nansum(fillers, axis=1), told, out=np.full(len(lists), np.nan), where=told > 0)
    groups = [items[start : start + samples] for start in range(0, len(items), samples)]
    pooled = [shannon([item for one in group for item in one]) for group in groups]
    return np.stack(
        [
            lists.n_items.astype(float),
            share,
            np.array([shannon(one) for one in items]),
            np.repeat(pooled, samples),
        ]
    )


def shannon(items: Items) -> float:
    """Shannon index of what stands in the list, in nats: -sum p log p over different items; NaN for none."""
    counts = np.array(list(Counter(items).values()), dtype=float)
    if not len(counts):
        return np.nan
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum()) + 0.0


def compared(runner: Runner, written: Mapping[str, ListSet], samples: int, resamples: int) -> xr.Dataset:
    """Values of every list by set, mean change against the clean ones, and change beyond that of each control.

    Each list is compared with the one of the same prompt and random numbers; intervals are over topics. A list that was
    cut off counts with what it has.
    """
    names, clean = list(written), written[CLEAN]
    every = np.stack([measured(lists, samples) for lists in written.values()], axis=1)
    change = every - every[:, [names.index(CLEAN)]]
    beyond = change[:, [names.index(CHOSEN)]] - change
    dims = ("quantity", "set")
    variables: dict[str, Any] = {
        "value": ((*dims, "written"), every),
        "ended": (("set", "written"), np.stack([lists.ended for lists in written.values()])),
    }
    for name, array in {"change": change, "beyond": beyond}.items():
        means = np.full((*array.shape[:2], 3), np.nan)
        for cell in np.ndindex(array.shape[:2]):
            means[cell] = _mean(runner, array[cell], clean.clusters, resamples)
        variables |= {f"{name}{end}": (dims, means[..., i]) for i, end in enumerate(ENDS)}
    coords = {
        "quantity": list(QUANTITIES),
        "unit": ("quantity", list(QUANTITIES.values())),
        "set": names,
        "written_topic": ("written", clean.clusters.tolist()),
        "written_adjective": ("written", list(clean.adjective)),
    }
    return xr.Dataset(variables, coords)


def _mean(
    runner: Runner, values: Float[np.ndarray, " list"], topics: np.ndarray, resamples: int
) -> tuple[float, float, float]:
    kept = np.isfinite(values)
    if not kept.any():
        return np.nan, np.nan, np.nan
    generator = runner.numpy_generator("lists with features changed")
    low, high = bootstrap_interval(values[kept], clusters=topics[kept], resamples=resamples, generator=generator)
    return float(values[kept].mean()), float(low), float(high)


def _items(lists: ListSet, row: int) -> Items:
    """Content of the items that are whole."""
    tokens, one = lists.rows[row].tolist(), lists.parsed[row]
    return [tuple(tokens[item.content.start : item.content.stop]) for item in one.items[: one.n_whole_items]]
