"""Means over lists of what is written, with intervals over topics and tests: computed once, saved, and read again."""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from mechlist.experiments.direct_logit_attribution import summary
from mechlist.experiments.effects import SEED, comparable_fillers, estimated_lists, read, rounding, saved
from mechlist.metrics.by_topic import matched_last

MATCHED = ("mean", "low", "high", "lists", "others")
"""What `matched_last` tells."""


def with_statistics(results: xr.Dataset) -> xr.Dataset:
    """The results with means of components, heads and the whole, by direction and adjective of the lists (`group`).

    `component_last`, `head_last`, `total_last` and `stage_last` (all that is written up to a layer) are at the last
    item; `component_matched_mean` and so on, of lists, say how last items differ from others of equal number and filler
    (see `matched_last`); `stage_run` is by run, for pairs; `head_change` and `total_change` are what the adjective, or
    the corrupt prompt, changes.
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


def matched(part: xr.Dataset, name: str, group: str) -> xr.Dataset | None:
    """How last items differ from others, of one direction and the lists of an adjective; None where none is known."""
    if f"{name}_matched_mean" not in part:
        return None
    found = part[[f"{name}_matched_{of}" for of in MATCHED]].sel(group=group, drop=True)
    found = found.rename({f"{name}_matched_{of}": of for of in MATCHED})
    return found if found["lists"].any() else None


def _of_direction(part: xr.Dataset) -> xr.Dataset:
    groups = summary.adjectives(part)
    stages = summary.accumulated(part)
    values = {"component": summary.components(part), "head": part["heads"], "total": part["total"], "stage": stages}
    out = xr.Dataset()
    for name, of_run in values.items():
        written = of_run.isel(run=0, drop=True)
        noise = rounding(of_run)
        means = [estimated_lists(summary.from_end(summary.of_adjective(written, group), 0), noise) for group in groups]
        out = out.assign(saved(_along("group", groups, means), f"{name}_last", "logits").data_vars)
        if "filler" in part and name != "head":
            generator = np.random.default_rng(SEED)
            found = matched_last(written, comparable_fillers(part), generator, by="adjective")
            found = found.rename(adjective="group")
            out = out.assign({f"{name}_matched_{of}": found[of] for of in MATCHED})
    if groups == ["pairs"]:
        runs = stages["run"].values.tolist()
        noise = rounding(stages)
        means = [estimated_lists(summary.from_end(stages.sel(run=run, drop=True), 0), noise) for run in runs]
        out = out.assign(saved(_along("run", runs, means), "stage_run", "logits").data_vars)
    for name in ("head", "total"):
        change = summary.contrast(values[name])
        if change is None:
            change = values[name].isel(run=0, item=0, drop=True) * np.nan
        out = out.assign(saved(estimated_lists(change, rounding(values[name])), f"{name}_change", "logits").data_vars)
    return out


def _along(dim: str, labels: list[str], means: Iterable[xr.Dataset]) -> xr.Dataset:
    return xr.concat(list(means), dim=dim, coords="minimal", compat="override").assign_coords({dim: labels})
