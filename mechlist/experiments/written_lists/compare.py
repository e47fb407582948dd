"""Measures of two kinds of lists behind the same prompts, by item, and their differences over topics."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechlist.experiments import whole_lists as lists_of
from mechlist.experiments.list_hazard.hazards import numpy_generator
from mechlist.experiments.list_predictions import by_item, fillers, read
from mechlist.experiments.whole_lists import Lists
from mechlist.metrics.ratios import clusters_of, quantiles, resampled_ratios
from mechlist.runner import Runner

SOURCES = ("own", "written")
MEASURES = (
    "entropy at line break",
    "entropy at last token of item",
    "P(end) at line break",
    "P(filler) at last token of item",
    "filler on item",
)
"""Entropies in nats; the last is not what the model expects, but what the list has."""
LEVEL = 0.95


class Compared(NamedTuple):
    """Means of both sources and their difference, own minus written; each with the ends of its interval."""

    means: Float[np.ndarray, "source cell"]
    low: Float[np.ndarray, "source cell"]
    high: Float[np.ndarray, "source cell"]
    difference: Float[np.ndarray, " cell"]
    difference_low: Float[np.ndarray, " cell"]
    difference_high: Float[np.ndarray, " cell"]


def compare(runner: Runner, own: Lists, written: Lists, resamples: int) -> xr.Dataset:
    """Every measure by adjective and item, and over the items that both kinds of lists of a prompt have."""
    items = int(max(lists_of.n_items(own).max(), lists_of.n_items(written).max()))
    both = (own, written)
    values = [_measures(runner, lists, items, name) for lists, name in zip(both, SOURCES, strict=True)]
    shared = _shared_items(own, written)
    adjectives = lists_of.adjectives_in(own)
    by_index: list[Compared] = []
    overall: list[Compared] = []
    for adjective in adjectives:
        rows = [np.array([one.adjective == adjective for one in lists]) for lists in both]
        topics = [lists_of.clusters(lists)[row] for lists, row in zip(both, rows, strict=True)]
        chosen = [value[row] for value, row in zip(values, rows, strict=True)]
        cells = [value.reshape(len(value), -1) for value in chosen]
        told = [np.isfinite(cell) for cell in cells]
        sums = [np.nan_to_num(cell) for cell in cells]
        generator = f"written lists {adjective}"
        by_index.append(_compared(runner, sums, told, topics, resamples, generator))
        # Over all items only those count that both have, or the longer lists would tell of other items.
        inside = [
            told_of.reshape(value.shape)
            & (np.arange(items) < np.array([shared[one.prompt.tokens] for one in lists])[row][:, None])[:, None]
            for told_of, value, lists, row in zip(told, chosen, both, rows, strict=True)
        ]
        sums = [np.where(kept, np.nan_to_num(value), 0).sum(2) for kept, value in zip(inside, chosen, strict=True)]
        overall.append(_compared(runner, sums, [kept.sum(2) for kept in inside], topics, resamples, generator))
    variables: dict[str, Any] = {}
    variables |= _variables("mean", by_index, ("by_adjective", "measure", "item"), (len(MEASURES), items))
    variables |= _variables("overall", overall, ("by_adjective", "measure"), (len(MEASURES),))
    at = [
        [
            np.isfinite(value[np.array([one.adjective == adjective for one in lists]), 0]).sum(axis=0)
            for lists, value in zip(both, values, strict=True)
        ]
        for adjective in adjectives
    ]
    variables["lists_at"] = (("by_adjective", "source", "item"), np.array(at))
    variables["n_lists"] = ("source", [len(lists) for lists in both])
    variables["n_topics"] = ((), len(set(lists_of.clusters(own))))
    coords = {"by_adjective": adjectives, "measure": list(MEASURES), "item": np.arange(1, items + 1)}
    return xr.Dataset(variables, coords=coords | {"source": list(SOURCES)})


def _measures(runner: Runner, lists: Lists, items: int, name: str) -> Float[np.ndarray, "list measure item"]:
    readings = read(runner, lists, drawn=[None] * len(lists), label=f"Reading {name} lists")
    found = [
        by_item(readings.entropy, lists, "line_break", items),
        by_item(readings.entropy, lists, "item_last", items),
        by_item(readings.end, lists, "line_break", items),
        by_item(readings.filler, lists, "item_last", items),
        fillers(lists, items),
    ]
    return np.stack(found, axis=1)


def _shared_items(own: Lists, written: Lists) -> dict[tuple[int, ...], int]:
    """Items that both kinds of lists of a prompt have."""
    numbers: list[dict[tuple[int, ...], int]] = []
    for lists in (own, written):
        longest: dict[tuple[int, ...], int] = {}
        for one in lists:
            longest[one.prompt.tokens] = max(longest.get(one.prompt.tokens, 0), len(one.parsed.items))
        numbers.append(longest)
    return {prompt: min(number, numbers[1].get(prompt, 0)) for prompt, number in numbers[0].items()}


def _compared(
    runner: Runner,
    above: list[np.ndarray],
    below: list[np.ndarray],
    topics: list[np.ndarray],
    resamples: int,
    purpose: str,
) -> Compared:
    """Ratio of sums [list cell] of each source, whose lists differ in number.

    Both have the same topics, and are drawn again with the same ones: the difference is within topics.
    """
    means, drawn, known = [], [], []
    for a, told, labels in zip(above, below, topics, strict=True):
        b = told.astype(float)
        total = b.sum(axis=0)
        means.append(np.divide(a.sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0))
        generator = numpy_generator(runner, purpose)
        drawn.append(resampled_ratios(a, b, labels, resamples=resamples, generator=generator))
        known.append(clusters_of(b, labels) > 1)
    ends = [quantiles(d, k, LEVEL) for d, k in zip(drawn, known, strict=True)]
    gap = quantiles(drawn[0] - drawn[1], known[0] & known[1], LEVEL)
    return Compared(
        np.stack(means),
        np.stack([e.low for e in ends]),
        np.stack([e.high for e in ends]),
        means[0] - means[1],
        gap.low,
        gap.high,
    )


def _variables(
    stem: str, found: list[Compared], dims: tuple[str, ...], shape: tuple[int, ...]
) -> dict[str, tuple[tuple[str, ...], Any]]:
    out: dict[str, tuple[tuple[str, ...], Any]] = {}
    for name, field in zip(("", "_low", "_high"), ("means", "low", "high"), strict=True):
        values = np.stack([getattr(one, field).reshape(2, *shape) for one in found])
        out[f"{stem}{name}"] = ((dims[0], "source", *dims[1:]), values)
        field = f"difference{name}"
        out[f"{stem}_{field}"] = (dims, np.stack([getattr(one, field).reshape(shape) for one in found]))
    return out
