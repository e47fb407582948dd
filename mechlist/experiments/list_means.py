"""Means over lists with intervals over topics, by item from either end, where lists may lack a value."""

import numpy as np
import xarray as xr

from mechlist.metrics.ratios import ratio_interval
from mechlist.runner import Runner

FEWEST = 5
"""Lists behind a point of a curve that is drawn, where there are as many."""


def numpy_generator(runner: Runner, purpose: str) -> np.random.Generator:
    """Of the resamples of one purpose; it follows from the run's seed."""
    seed = int.from_bytes(runner.generator(purpose).get_state()[:8].numpy().tobytes(), "little")
    return np.random.default_rng(seed)


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
    numbers = np.where(there, ordered.values, 0).astype(np.float64)
    lists = there.sum(axis=0)
    low, high = ratio_interval(
        numbers, there.astype(np.float64), values["topic"].values, resamples=resamples, generator=generator
    )
    mean = np.divide(numbers.sum(axis=0), lists, out=np.full(lists.shape, np.nan), where=lists > 0)
    plain = ordered.isel(list=0, drop=True).drop_vars(
        [n for n, c in values.coords.items() if "list" in c.dims], errors="ignore"
    )
    found = {"mean": mean, "low": low, "high": high, "lists": lists}
    return xr.Dataset({name: plain.copy(data=array) for name, array in found.items()})


def counted(values: xr.DataArray, end: str) -> xr.DataArray:
    """By `item_index`: 0 is the first item, or counted from the end the last of each list."""
    items = np.arange(values.sizes["item"])
    if end == "start":
        return values.rename(item="item_index").assign_coords(item_index=items)
    number = xr.DataArray(values["n_items"].values[:, None] - 1 - items, dims=("list", "item_index"))
    found = values.drop_vars("item", errors="ignore").isel(item=number.clip(min=0)).where(number >= 0)
    return found.assign_coords(item_index=items)


def split(values: xr.DataArray) -> xr.DataArray:
    """The mean over a list's items but the last, and the value at the last."""
    behind = counted(values, "end")
    both = [behind.isel(item_index=slice(1, None)).mean("item_index"), behind.isel(item_index=0, drop=True)]
    return xr.concat(both, dim="part").assign_coords(part=["earlier items", "last item"])


def enough(means: xr.Dataset, over: str) -> xr.Dataset:
    """The means without those that stand on few lists, up to the last place of `over` that has one."""
    held = means["lists"]
    fewest = np.minimum(held.max(over), FEWEST)
    shown = means.where((held >= fewest) & (held > 0)).assign(lists=held)
    others = [dim for dim in held.dims if dim != over]
    told = np.flatnonzero(shown["mean"].notnull().any(others).values)
    return shown.isel({over: slice(0, told[-1] + 1 if len(told) else 1)})


def with_interval(means: xr.Dataset, unit: str = "", decimals: int = 2) -> str:
    """One mean as a sentence has it: `1.23 nats [1.10, 1.35]`."""
    mean, low, high = (float(means[name]) for name in ("mean", "low", "high"))
    words = f"{mean:.{decimals}f}" + (f" {unit}" if unit else "")
    return words if np.isnan(low) else f"{words} [{low:.{decimals}f}, {high:.{decimals}f}]"
