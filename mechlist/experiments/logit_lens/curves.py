"""What is made of the lens's differences: mean curves over layers, and where they change most."""

import numpy as np
import xarray as xr

from mechlist.experiments.effects import comparable_fillers
from mechlist.experiments.logit_lens.predictions import LISTS, PAIRS
from mechlist.lens.change_points import ChangePoint, change_point
from mechlist.metrics.by_topic import at_last, clustered_means, counted_from, matched_last

SERIES = ("last item", "last item, adjective swapped")
CONTRASTS = ("last item", "effect of the adjective")
"""At the last item. Against other items, which differ in number and filler, it stands in `matched`."""
PAIR_CONTRASTS = ("clean", "clean - corrupt")
ENDS = ("start", "end")


def series(difference: xr.DataArray) -> xr.DataArray:
    """The curves of each list over the dimension `series`; of each pair its two runs."""
    if _is_pairs(difference):
        return difference.isel(item=0, drop=True).rename(run="series")
    last = at_last(difference)
    return xr.concat([last.sel(run=run, drop=True) for run in LISTS], dim="series").assign_coords(series=list(SERIES))


def contrasts(difference: xr.DataArray) -> xr.DataArray:
    """What the change points are of, for each list, over the dimension `contrast`."""
    curves = series(difference)
    one = curves.isel(series=0, drop=True)
    names = PAIR_CONTRASTS if _is_pairs(difference) else CONTRASTS
    parts = [one, *(one - curves.isel(series=i, drop=True) for i in range(1, curves.sizes["series"]))]
    return xr.concat(parts, dim="contrast").assign_coords(contrast=list(names))


def curves(results: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """Means over the lists of each adjective: `curve_mean`, its interval, and the number of lists."""
    means = clustered_means(series(results["difference"]), generator, by="adjective")
    return means.rename({"adjective": "by_adjective", **{str(name): f"curve_{name}" for name in means.data_vars}})


def matched(results: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """`matched_last` by lens, direction and stage of the lists of each adjective; nothing of pairs."""
    if "filler" not in results:
        return xr.Dataset()
    written = results["difference"].sel(run=LISTS[0], drop=True)
    found = matched_last(written, comparable_fillers(results), generator, by="adjective")
    return found.rename({"adjective": "by_adjective", **{str(name): f"matched_{name}" for name in found.data_vars}})


def changes(results: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
    """The largest step of each contrast between neighbouring layers, and of the last layer between items.

    A step from stage s to the next is made by layer s. Along items it goes from `place` to the next item: counted from
    1 at the start, or backwards at the end, where 0 is the last and 1 the one before it.
    """
    by_layer = _by_adjective(contrasts(results["difference"]), "stage", generator)
    out = by_layer.rename({str(name): f"layer_change_{name}" for name in by_layer.data_vars})
    if results.sizes["item"] < 2:
        return out
    last = results["difference"].isel(run=0, stage=-1, drop=True)
    by_item = [_by_item(counted_from(last, end), end, generator) for end in ENDS]
    along = xr.concat(by_item, dim="end").assign_coords(end=list(ENDS))
    return out.merge(along.rename({str(name): f"item_change_{name}" for name in along.data_vars}))


def _by_item(values: xr.DataArray, end: str, generator: np.random.Generator) -> xr.Dataset:
    if end == "start":
        found = _by_adjective(values, "item_index", generator)
        return found.assign({name: found[name] + 1 for name in ("place", "place_low", "place_high")})
    found = _by_adjective(values.isel(item_index=slice(None, None, -1)), "item_index", generator)
    most = values.sizes["item_index"] - 1
    ends = {"place": "place", "place_low": "place_high", "place_high": "place_low"}
    return found.assign({name: most - found[other] for name, other in ends.items()})


def _by_adjective(values: xr.DataArray, over: str, generator: np.random.Generator) -> xr.Dataset:
    """The change point along `over`, for each adjective and all else; the fields of ChangePoint are the variables."""
    labels = list(dict.fromkeys(values["adjective"].values.tolist()))
    topics, seed = values["topic"].values, int(generator.integers(2**63))
    rest = [dim for dim in values.dims if dim not in ("list", over)]
    cells = values.transpose(*rest, "list", over)
    shape = [cells.sizes[dim] for dim in rest]
    found = np.full((len(ChangePoint._fields), len(labels), *shape), np.nan)
    for number, label in enumerate(labels):
        chosen = values["adjective"].values == label
        for cell in np.ndindex(*shape):
            # Every cell draws the same resamples.
            point = change_point(cells.values[cell][chosen], topics[chosen], generator=np.random.default_rng(seed))
            found[(slice(None), number, *cell)] = point
    dims = ["by_adjective", *rest]
    coords = {"by_adjective": labels, **{dim: values[dim].values for dim in rest}}
    return xr.Dataset({name: (dims, found[i]) for i, name in enumerate(ChangePoint._fields)}, coords)


def _is_pairs(difference: xr.DataArray) -> bool:
    return difference["run"].values.tolist() == list(PAIRS)
