"""Means and shares over lists, by item from either end, with bootstrap intervals over whole topics."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Shaped

from mechlist.metrics.ratios import ratio_interval
from mechlist.metrics.shares import share_interval

FEWEST = 5
"""Lists, or other units, behind a point of a curve that is shown, where there are as many."""


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


def last_and_earlier(values: xr.DataArray) -> xr.DataArray:
    """By `part`: the mean over a list's items but the last, and the value at the last; as `counted_from`."""
    behind = counted_from(values, "end")
    both = [behind.isel(item_index=slice(1, None)).mean("item_index"), behind.isel(item_index=0, drop=True)]
    return xr.concat(both, dim="part").assign_coords(part=["earlier items", "last item"])


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
