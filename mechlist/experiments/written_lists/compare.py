"""Measures of two kinds of lists behind the same prompts, by item, and their differences over topics."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Shaped

from mechlist.datasets.lists.factors import with_fillers
from mechlist.datasets.lists.list_set import ListSet
from mechlist.experiments.list_predictions import predict
from mechlist.metrics.by_topic import ENDS, LEVEL
from mechlist.metrics.ratios import clusters_of, ratio_draws
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


class Sums(NamedTuple):
    """Of a measure over lists, cell by cell: the sum in each list, and over how many items it runs."""

    above: Float[np.ndarray, "list *cell"]
    below: Shaped[np.ndarray, "list *cell"]


class Compared(NamedTuple):
    """Means of both sources and their difference, own minus written; each with the ends of its interval."""

    means: Float[np.ndarray, "source cell"]
    low: Float[np.ndarray, "source cell"]
    high: Float[np.ndarray, "source cell"]
    difference: Float[np.ndarray, " cell"]
    difference_low: Float[np.ndarray, " cell"]
    difference_high: Float[np.ndarray, " cell"]


def compare(runner: Runner, own: ListSet, written: ListSet, resamples: int) -> xr.Dataset:
    """Every measure by adjective and item, and over the items that both kinds of lists of a prompt have.

    `matched_mean` and `matched_overall` stand against written lists with the fillers of the model's own, each as long
    as the own list whose fillers it has: what only lacks fillers differs there in nothing.
    """
    items = max(own.width, written.width)
    values = [_measures(runner, lists, items, name) for lists, name in zip((own, written), SOURCES, strict=True)]
    variables, counts = _against(runner, (own, written), values, "", resamples)
    kept, matched = _with_own_fillers(own, written)
    if kept and own.of(kept).adjectives == own.adjectives:
        found = [values[0][kept], _measures(runner, matched, items, "matched")]
        variables |= _against(runner, (own.of(kept), matched), found, "matched_", resamples)[0]
    at = [
        [one[_rows(lists, adjective), 0].sum(axis=0) for lists, one in zip((own, written), counts, strict=True)]
        for adjective in own.adjectives
    ]
    variables["lists_at"] = (("by_adjective", "source", "item"), np.array(at))
    variables["n_lists"] = ("source", [len(lists) for lists in (own, written)])
    variables["n_topics"] = ((), len(set(own.clusters)))
    coords = {"by_adjective": own.adjectives, "measure": list(MEASURES), "item": np.arange(1, items + 1)}
    return xr.Dataset(variables, coords=coords | {"source": list(SOURCES)})


def _against(
    runner: Runner, both: tuple[ListSet, ListSet], values: Sequence[np.ndarray], prefix: str, resamples: int
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Means of two kinds of lists and their differences, as variables; and which values each list has."""
    shared = _shared_items(*both)
    by_item: list[Sums] = []
    overall: list[Sums] = []
    for value, lists in zip(values, both, strict=True):
        told, filled = np.isfinite(value), np.nan_to_num(value)
        by_item.append(Sums(filled, told))
        # Over all items only those count that both have, or the longer lists would tell of other items.
        number = np.array([shared.get(prompt.tokens, 0) for prompt in lists.prompts])
        kept = told & (np.arange(value.shape[2]) < number[:, None])[:, None]
        overall.append(Sums(np.where(kept, filled, 0).sum(axis=2), kept.sum(axis=2)))
    variables: dict[str, Any] = {}
    variables |= _variables(runner, f"{prefix}mean", by_item, both, ("measure", "item"), resamples)
    variables |= _variables(runner, f"{prefix}overall", overall, both, ("measure",), resamples)
    return variables, [np.asarray(one.below) for one in by_item]


def _with_own_fillers(own: ListSet, written: ListSet) -> tuple[list[int], ListSet]:
    """Numbers of the own lists that have an item, and of each the written list of its prompt with its fillers."""
    of_prompt = {prompt.tokens: number for number, prompt in enumerate(written.prompts)}
    whole = [one.n_whole_items for one in own.parsed]
    fillers = own.fillers
    kept, chosen, wanted = [], [], []
    for number, (prompt, items) in enumerate(zip(own.prompts, whole, strict=True)):
        if items and prompt.tokens in of_prompt:
            kept.append(number)
            chosen.append(of_prompt[prompt.tokens])
            wanted.append([has == 1 for has in fillers[number, :items].tolist()])
    return kept, with_fillers(written.of(chosen), wanted) if kept else written


def _measures(runner: Runner, lists: ListSet, items: int, name: str) -> Float[np.ndarray, "list measure item"]:
    """NaN beyond the items of these lists, up to the `items` of the longest of both kinds."""
    predictions = predict(runner, lists, label=f"Reading {name} lists")
    found = [
        lists.by_item(predictions.entropy, "line_break"),
        lists.by_item(predictions.entropy, "item_last"),
        lists.by_item(predictions.end, "line_break"),
        lists.by_item(predictions.filler, "item_last"),
        lists.fillers,
    ]
    return np.pad(np.stack(found, axis=1), ((0, 0), (0, 0), (0, items - lists.width)), constant_values=np.nan)


def _shared_items(own: ListSet, written: ListSet) -> dict[tuple[int, ...], int]:
    """Items that both kinds of lists of a prompt have."""
    most = written.most_items()
    return {prompt: min(number, most.get(prompt, 0)) for prompt, number in own.most_items().items()}


def _rows(lists: ListSet, adjective: str) -> Bool[np.ndarray, " list"]:
    return np.array(lists.adjective) == adjective


def _compared(
    sums: Sequence[Sums], topics: Sequence[np.ndarray], resamples: int, generators: Sequence[np.random.Generator]
) -> Compared:
    """Ratio of sums [list cell] of each source, whose lists differ in number.

    Both have the same topics, and are drawn again with the same ones: the difference is within topics.
    """
    drawn, known = [], []
    for (above, told), labels, generator in zip(sums, topics, generators, strict=True):
        below = told.astype(float)
        drawn.append(ratio_draws(above, below, labels, resamples=resamples, generator=generator))
        known.append(clusters_of(below, labels) > 1)
    ends = [d.interval(LEVEL, k) for d, k in zip(drawn, known, strict=True)]
    apart = drawn[0].less(drawn[1])
    gap = apart.interval(LEVEL, known[0] & known[1])
    return Compared(
        np.stack([d.whole for d in drawn]),
        np.stack([e.low for e in ends]),
        np.stack([e.high for e in ends]),
        apart.whole,
        gap.low,
        gap.high,
    )


def _variables(
    runner: Runner, stem: str, sums: Sequence[Sums], both: Sequence[ListSet], dims: tuple[str, ...], resamples: int
) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Both means and their difference for each adjective, as variables over the dimensions of a list's cells."""
    shape, found = sums[0].above.shape[1:], []
    for adjective in both[0].adjectives:
        rows = [_rows(lists, adjective) for lists in both]
        chosen = [Sums(*(part[row].reshape(row.sum(), -1) for part in of)) for of, row in zip(sums, rows, strict=True)]
        topics = [lists.clusters[row] for lists, row in zip(both, rows, strict=True)]
        generators = [runner.numpy_generator(f"written lists {adjective}") for _ in both]
        found.append(_compared(chosen, topics, resamples, generators))
    out: dict[str, tuple[tuple[str, ...], Any]] = {}
    for name, field in zip(ENDS, ("means", "low", "high"), strict=True):
        values = np.stack([getattr(one, field).reshape(2, *shape) for one in found])
        out[f"{stem}{name}"] = (("by_adjective", "source", *dims), values)
        field = f"difference{name}"
        values = np.stack([getattr(one, field).reshape(shape) for one in found])
        out[f"{stem}_{field}"] = (("by_adjective", *dims), values)
    return out
