"""What is known of the effects of patching lists: means with intervals and tests, and where roles take over; saved."""

import numpy as np
import xarray as xr

from mechlist.experiments.effects import EPSILON, LEVEL, SEED, estimated_lists, read, rounding, saved
from mechlist.experiments.list_patch.handover import Handover, handover
from mechlist.metrics.significance import beyond_null

MARGIN = 0.02
"""Share of the difference between the runs beyond which the interval of an effect must lie for it to matter."""
STREAM = "resid_pre"
"""The site along whose layers roles take over."""
PLACES = ("leaves", "leaves_low", "leaves_high", "arrives", "arrives_low", "arrives_high")


def effects(results: xr.Dataset, site: str) -> xr.DataArray:
    """Raw effects, patched - base, over (side, list, layer, head, role)."""
    return results[f"patched_{site}"] - results["base"]


def gap(results: xr.Dataset) -> xr.DataArray:
    """Of each side, what replacing everything would do: the source's logit difference less the base's, by list."""
    other = results["base"].isel(side=[1, 0]).assign_coords(side=results["side"])
    return other - results["base"]


def with_statistics(results: xr.Dataset) -> xr.Dataset:
    """The results with means over lists: of the runs, of their difference, and of the effects at every site."""
    parts = [
        saved(_by_side(results["base"]), "mean_base", "logits"),
        saved(_by_side(gap(results)), "mean_gap", "logits"),
    ]
    noise = rounding(results["base"], results.attrs.get("resolution", EPSILON))
    for site in results.attrs["sites"]:
        own = effects(results, site)
        parts.append(saved(_by_side(own, noise), f"mean_effect_{site}", "logits"))
        # A list without the role counts in neither.
        whole = gap(results).where(own.notnull()).mean("list")
        share = own.mean("list") / whole.where(whole != 0)
        parts.append(share.assign_attrs(units="share").to_dataset(name=f"share_{site}"))
        if f"null_effect_{site}" in results:
            parts.append(_against_null(results, site, parts[-2], noise))
    if STREAM in results.attrs["sites"]:
        parts.append(_handovers(results))
    for part in parts:
        results = results.assign(part.data_vars)
    return results


def _against_null(results: xr.Dataset, site: str, cells: xr.Dataset, noise: float) -> xr.Dataset:
    """What an irrelevant change does at a site: the largest mean effect, and cells that survive the same test.

    `beyond_null_SITE(side, cell)` says which effects are larger than it; attributes: threshold, level and draws.
    """
    null = results[f"null_effect_{site}"].rename(null_list="list", null_topic="topic")
    draws = [null.isel(draw=number, drop=True) for number in range(null.sizes["draw"])]
    survivors = [int(estimated_lists(draw, noise)["survives"].sum()) for draw in draws]
    estimate = cells[f"mean_effect_{site}"]
    # Of a role that none of these lists has nothing is known; the threshold is one for the whole grid.
    means = null.mean("list").transpose("draw", *estimate.isel(side=0).dims).fillna(0.0)
    masks = [beyond_null(estimate.sel(side=side).values, means.values, LEVEL) for side in estimate["side"].values]
    known = {"threshold": masks[0].threshold.value, "level": masks[0].threshold.level, "draws": len(draws)}
    return xr.Dataset(
        {
            f"beyond_null_{site}": (estimate.dims, np.stack([mask.survives for mask in masks])),
            f"null_survivors_{site}": ("draw", survivors),
            f"null_threshold_{site}": ((), known["threshold"], {"units": "logits", **known}),
        }
    )


def shares(results: xr.Dataset, site: str) -> xr.DataArray:
    """Mean effect as a share of the mean difference of the two runs, by side and cell."""
    return results[f"share_{site}"]


def survivors(results: xr.Dataset, site: str) -> xr.DataArray:
    """Which cells of each side change the logit difference beyond chance, corrected for all cells of the side.

    And by more than an irrelevant change does anywhere, where that is known.
    """
    survives = read(results, f"mean_effect_{site}")["survives"].astype(bool)
    name = f"beyond_null_{site}"
    return survives & results[name].astype(bool) if name in results else survives


def cells(results: xr.Dataset, site: str, side: str) -> xr.Dataset:
    """Mean effects of one side with their intervals and tests, and the share of the difference that moves."""
    own = read(results, f"mean_effect_{site}").assign(share=shares(results, site), marked=survivors(results, site))
    return own.sel(side=side, drop=True)


def beyond_margin(own: xr.Dataset, whole: float) -> xr.DataArray:
    """Which of the cells matter: whose interval lies beyond `MARGIN` of the whole difference, on one side of 0."""
    least = MARGIN * abs(whole)
    return (own["low"] > least) | (own["high"] < -least)


def handovers(results: xr.Dataset, side: str) -> Handover:
    """Of the residual stream before each layer."""
    own = results[["handover_largest", "handover_known", *(f"handover_{name}" for name in PLACES)]].sel(side=side)
    places = {name: int(own[f"handover_{name}"]) for name in PLACES}
    return Handover(largest=own["handover_largest"].values, known=bool(own["handover_known"]), **places)


def _by_side(values: xr.DataArray, noise: float | None = None) -> xr.Dataset:
    """The means of each side by itself, so that what is corrected for is the cells of one side."""
    sides = [estimated_lists(values.sel(side=side, drop=True), noise) for side in values["side"].values]
    return xr.concat(sides, dim="side", coords="minimal", compat="override").assign_coords(side=values["side"])


def _handovers(results: xr.Dataset) -> xr.Dataset:
    number = results["role"].values.tolist().index(results.attrs["own"])
    found = []
    for side in results["side"].values:
        own = effects(results, STREAM).sel(side=side, drop=True).transpose("list", "layer", "role")
        generator = np.random.default_rng(SEED)
        found.append(handover(own.values.astype(float), number, results["topic"].values, generator=generator))
    out = xr.Dataset({"handover_known": ("side", [one.known for one in found])})
    for name in PLACES:
        out[f"handover_{name}"] = ("side", [getattr(one, name) for one in found], {"units": "layers"})
    out["handover_largest"] = (("side", "layer"), np.stack([one.largest for one in found]), {"units": "role number"})
    return out
