"""Means over lists of what is written, with intervals over topics and tests: computed once, saved, and read again."""

from collections.abc import Callable, Iterable

import numpy as np
import xarray as xr

from mechlist.experiments.direct_logit_attribution import summary
from mechlist.experiments.effects import estimated_lists, read, saved

PLACES: dict[str, Callable[[xr.DataArray], xr.DataArray]] = {
    "last": lambda values: summary.from_end(values, 0),
    "before": summary.earlier,
}
"""At the last item of each list, and on average at those before."""


def with_statistics(results: xr.Dataset) -> xr.Dataset:
    """The results with means of components, heads and the whole, by direction and adjective of the lists (`group`).

    `component_last`, `head_last`, `total_last` and `stage_last` (all that is written up to a layer) are at the last
    item, `..._before` at the items before; `stage_run` is by run, for pairs; `head_change` and `total_change` are what
    the adjective, or the corrupt prompt, changes.
    """
    parts = [_of_direction(results.sel(direction=name)) for name in results["direction"].values]
    joined = xr.concat(parts, dim="direction", coords="minimal", compat="override")
    return results.assign(joined.assign_coords(direction=results["direction"]).data_vars)


def cells(part: xr.Dataset, name: str, group: str | None = None) -> xr.Dataset | None:
    """What was saved under a name of one direction, of the lists of an adjective; None where no list has any of it."""
    if name not in part:
        return None
    found = read(part, name) if group is None else read(part, name).sel(group=group, drop=True)
    return found if found["n"].any() else None


def _of_direction(part: xr.Dataset) -> xr.Dataset:
    groups = summary.adjectives(part)
    stages = summary.accumulated(part)
    values = {"component": summary.components(part), "head": part["heads"], "total": part["total"], "stage": stages}
    out = xr.Dataset()
    for name, of_run in values.items():
        written = of_run.isel(run=0, drop=True)
        for place in PLACES if name != "head" else ("last",):
            means = [estimated_lists(PLACES[place](summary.of_adjective(written, group))) for group in groups]
            out = out.assign(saved(_along("group", groups, means), f"{name}_{place}", "logits").data_vars)
    if groups == ["pairs"]:
        runs = stages["run"].values.tolist()
        means = [estimated_lists(summary.from_end(stages.sel(run=run, drop=True), 0)) for run in runs]
        out = out.assign(saved(_along("run", runs, means), "stage_run", "logits").data_vars)
    for name in ("head", "total"):
        change = summary.contrast(values[name])
        if change is None:
            change = values[name].isel(run=0, item=0, drop=True) * np.nan
        out = out.assign(saved(estimated_lists(change), f"{name}_change", "logits").data_vars)
    return out


def _along(dim: str, labels: list[str], means: Iterable[xr.Dataset]) -> xr.Dataset:
    return xr.concat(list(means), dim=dim, coords="minimal", compat="override").assign_coords({dim: labels})
