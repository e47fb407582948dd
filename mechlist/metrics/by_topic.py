"""Means and shares over lists, by item from either end, with bootstrap intervals over whole topics."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Shaped

from mechlist.metrics.ratios import clusters_of, ratio_draws, ratio_interval
from mechlist.metrics.shares import share_interval

FEWEST = 5
"""Lists, or other units, behind a point of a curve that is shown, where there are as many."""
FILLERS = ("with filler", "without filler")
KINDS = ("last item", "other items", "difference")
"""Of items of equal number and filler: last items of lists, items that are not, and how they differ."""
LEVEL = 0.95
ENDS = ("", "_low", "_high")
"""What is behind the name of a variable, and of both ends of its interval."""


class Ratio(NamedTuple):
    """Ratios of sums over lists, with the ends of their intervals; NaN where nothing counts."""

    value: Float[np.ndarray, "*cell"]
    low: Float[np.ndarray, "*cell"]
    high: Float[np.ndarray, "*cell"]


def ratio_of_sums(
    above: Shaped[np.ndarray, "list *cell"],
    below: Shaped[np.ndarray, "list *cell"],
    topics: Shaped[np.ndarray, " list"],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> Ratio:
    """sum(above) / sum(below) over lists, for each cell by itself, with an interval over whole topics.

    A mean has the values above and 1 below where a list has one; a share has what is counted above and below.
    """
    above, below = above.astype(np.float64), below.astype(np.float64)
    low, high = ratio_interval(above, below, topics, resamples=resamples, generator=generator)
    sums = below.sum(axis=0)
    value = np.divide(above.sum(axis=0), sums, out=np.full(sums.shape, np.nan), where=sums > 0)
    return Ratio(value, low, high)


def ratio_variables(
    name: str,
    dims: tuple[str, ...],
    above: Shaped[np.ndarray, "list *cell"],
    below: Shaped[np.ndarray, "list *cell"],
    topics: Shaped[np.ndarray, " list"],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """`ratio_of_sums` as variables of a Dataset: `name`, `name_low` and `name_high` over `dims`."""
    found = ratio_of_sums(above, below, topics, resamples=resamples, generator=generator)
    return {name: (dims, found.value), f"{name}_low": (dims, found.low), f"{name}_high": (dims, found.high)}


def share_variables(
    name: str,
    dims: tuple[str, ...],
    hits: Shaped[np.ndarray, "list *cell"],
    among: Shaped[np.ndarray, "list *cell"],
    topics: Shaped[np.ndarray, " list"],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """As `ratio_variables`, of counts; a share of 0 or 1 has Wilson's interval, with topics as the units.

    No resample of 0 of n holds anything else, so that the bootstrap would give a point and know too much.
    """
    found = ratio_of_sums(hits, among, topics, resamples=resamples, generator=generator)
    low, high = found.low.copy(), found.high.copy()
    for cell in np.ndindex(found.value.shape):
        if found.value[cell] in (0, 1):
            units = len(set(topics[among[(slice(None), *cell)] > 0].tolist()))
            low[cell], high[cell] = share_interval(int(found.value[cell]) * units, units)
    return {name: (dims, found.value), f"{name}_low": (dims, low), f"{name}_high": (dims, high)}


def clustered_means(
    values: xr.DataArray, generator: np.random.Generator, *, by: str | None = None, resamples: int = 2000
) -> xr.Dataset:
    """`mean`, its interval from `low` to `high` and the number of `lists`, over the lists that have a value.

    Args:
        values: with the dimension `list` and the coordinate `topic` over it; NaN where a list has none.
        generator: of the bootstrap over topics.
        by: a coordinate over `list`; its values become a dimension of that name, in the order in which they first
            stand.
        resamples: of the bootstrap.
    """
    if by is not None:
        labels = list(dict.fromkeys(values[by].values.tolist()))
        parts = [
            clustered_means(
                values.isel(list=np.flatnonzero(values[by].values == label)), generator, resamples=resamples
            )
            for label in labels
        ]
        return xr.concat(parts, dim=by).assign_coords({by: labels})
    ordered = values.transpose("list", ...)
    there = np.isfinite(ordered.values)
    numbers = np.where(there, ordered.values, 0)
    found = ratio_of_sums(numbers, there, values["topic"].values, resamples=resamples, generator=generator)
    plain = ordered.isel(list=0, drop=True).drop_vars(
        [n for n, c in values.coords.items() if "list" in c.dims], errors="ignore"
    )
    arrays = {"mean": found.value, "low": found.low, "high": found.high, "lists": there.sum(axis=0)}
    return xr.Dataset({name: plain.copy(data=array) for name, array in arrays.items()})


def counted_from(values: xr.DataArray, end: str) -> xr.DataArray:
    """By `item_index`: 0 is the first item, or counted from the end the last of each list.

    Args:
        values: with the dimensions `list` and `item` and the coordinate `n_items` over `list`.
        end: from which items are counted, `start` or `end`.
    """
    items = np.arange(values.sizes["item"])
    if end == "start":
        return values.rename(item="item_index").assign_coords(item_index=items)
    number = xr.DataArray(values["n_items"].values[:, None] - 1 - items, dims=("list", "item_index"))
    found = values.drop_vars("item", errors="ignore").isel(item=number.clip(min=0)).where(number >= 0)
    return found.assign_coords(item_index=items)


def at_last(values: xr.DataArray) -> xr.DataArray:
    """The value at the last item of each list; as `counted_from`."""
    return counted_from(values, "end").isel(item_index=0, drop=True)


def matched_last(
    values: xr.DataArray,
    fillers: Float[np.ndarray, "list item"],
    generator: np.random.Generator,
    *,
    by: str | None = None,
    resamples: int = 2000,
) -> xr.Dataset:
    """Last items against items that are not the last of their list, of equal number and filler.

    Last items mostly have a high number and a filler, so that a plain mean over the items before them would tell of
    these two. At each number that items of both kinds have, each kind has a mean; over the numbers both are weighted
    alike, with a * b / (a + b) of a last items and b others (Mantel & Haenszel 1959). What number and filler do,
    however they do it, leaves a difference of 0.

    Args:
        values: with the dimensions `list` and `item` and the coordinates `topic` and `n_items` over `list`; NaN where a
            list has none.
        fillers: 1 where an item has one, 0 where it has none, else NaN.
        generator: of the bootstrap over topics, which leaves the weights as they are.
        by: as in `clustered_means`.
        resamples: of the bootstrap.

    Returns:
        `mean`, `low` and `high` over `by_filler`, `kind` and the other dimensions; and how many last items (`lists`)
        and others (`others`) stand behind them. NaN and 0 where no two kinds of items can be matched.
    """
    if by is not None:
        labels = list(dict.fromkeys(values[by].values.tolist()))
        rows = [np.flatnonzero(values[by].values == label) for label in labels]
        parts = [matched_last(values.isel(list=row), fillers[row], generator, resamples=resamples) for row in rows]
        return xr.concat(parts, dim=by).assign_coords({by: labels})
    ordered = values.transpose("list", "item", ...)
    shape = ordered.shape[2:]
    cells = ordered.values.reshape(*ordered.shape[:2], math.prod(shape)).astype(np.float64)
    places, number = np.arange(ordered.shape[1]), values["n_items"].values[:, None]
    kinds = np.stack([places == number - 1, places < number - 1])
    topics, seed = values["topic"].values, int(generator.integers(2**63))
    found = [_matched(cells, kinds & (fillers == has), topics, seed, resamples) for has in (1, 0)]
    rest = [dim for dim in ordered.dims if dim not in ("list", "item")]
    means = np.stack([one.values for one in found]).reshape(len(FILLERS), 3, len(KINDS), *shape)
    counts = np.stack([one.counts for one in found]).reshape(len(FILLERS), 2, *shape)
    dims = ["by_filler", "kind", *rest]
    variables = {name: (dims, means[:, i]) for i, name in enumerate(("mean", "low", "high"))}
    variables |= {name: (["by_filler", *rest], counts[:, i]) for i, name in enumerate(("lists", "others"))}
    coords = {dim: values[dim].values for dim in rest if dim in values.coords}
    return xr.Dataset(variables, {"by_filler": list(FILLERS), "kind": list(KINDS), **coords})


class _Matched(NamedTuple):
    values: Float[np.ndarray, "end kind cell"]
    """Means with the ends of their intervals, of each of the KINDS."""
    counts: Shaped[np.ndarray, "kind cell"]
    """Last items and others behind them."""


def _matched(
    cells: Float[np.ndarray, "list item cell"],
    kinds: Bool[np.ndarray, "kind list item"],
    topics: Shaped[np.ndarray, " list"],
    seed: int,
    resamples: int,
) -> _Matched:
    """Of items that have one filler or none alike."""
    there = np.isfinite(cells)
    held = [kind[..., None] & there for kind in kinds]
    counts = np.stack([one.sum(axis=0) for one in held])
    weight = counts.prod(axis=0) / np.maximum(counts.sum(axis=0), 1)
    used = weight.any(axis=1)
    chosen = (counts * (weight > 0)).sum(axis=1)
    if not used.any():
        return _Matched(np.full((3, len(KINDS), cells.shape[2]), np.nan), chosen)
    flat = (len(cells), int(used.sum()) * cells.shape[2])
    filled, pairs = np.where(there, cells, 0.0)[:, used].reshape(flat), []
    for one in held:
        below = one[:, used].reshape(flat).astype(np.float64)
        # Both kinds are drawn again with the same topics.
        generator = np.random.default_rng(seed)
        pairs.append(ratio_draws(filled * below, below, topics, resamples=resamples, generator=generator))
    kinds_of = pairs[0].beside(pairs[1])
    means = [kinds_of.map(partial(_over_numbers, weight[used], kind)) for kind in range(len(KINDS))]
    known = np.min([clusters_of((one & (weight > 0)).any(axis=1).astype(float), topics) for one in held], axis=0) > 1
    ends = [one.interval(LEVEL, known) for one in means]
    values = [[one.whole for one in means], [one.low for one in ends], [one.high for one in ends]]
    return _Matched(np.array(values), chosen)


def _over_numbers(
    weight: Float[np.ndarray, "number cell"], kind: int, rows: Float[np.ndarray, "row kind_number_cell"]
) -> Float[np.ndarray, "row cell"]:
    """Weighted mean over the numbers that both kinds have, of one of the KINDS."""
    pair = rows.reshape(len(rows), 2, *weight.shape)
    both = np.isfinite(pair[:, 0]) & np.isfinite(pair[:, 1])
    weights, filled = np.where(both, weight, 0.0), np.where(both[:, None], pair, 0.0)
    of_kind = filled[:, 0] - filled[:, 1] if kind == 2 else filled[:, kind]
    total = weights.sum(axis=1)
    return np.divide((weights * of_kind).sum(axis=1), total, out=np.full(total.shape, np.nan), where=total > 0)


def enough(held: xr.DataArray, over: str) -> xr.DataArray:
    """Whether each point along `over` stands on `FEWEST` units, or on as many as any point of its curve does."""
    return (held >= np.minimum(held.max(over), FEWEST)) & (held > 0)


def well_founded(results: xr.Dataset, held: str, over: str) -> xr.Dataset:
    """The variables without points that stand on few units, up to the last place of `over` that has one.

    Args:
        results: variables of curves, of which NaN says that there is no point.
        held: the variable that counts the units behind each point.
        over: dimension along which the curves run.
    """
    counts = results[held]
    shown = results.drop_vars(held).where(enough(counts, over))
    told = [values.notnull().any([dim for dim in values.dims if dim != over]) for values in shown.data_vars.values()]
    places = np.flatnonzero(np.any([one.values for one in told], axis=0))
    return shown.assign({held: counts}).isel({over: slice(0, places[-1] + 1 if len(places) else 1)})
