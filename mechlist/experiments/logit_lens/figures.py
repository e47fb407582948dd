"""Figures of the logit-lens experiment, from its saved results alone."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.logit_lens.curves import ENDS
from mechlist.figures import interval_lines, interval_rows
from mechlist.figures.notes import (
    MATCHED,
    OVER_TOPICS,
    counted,
    items_from_last,
    matched_counts,
    matched_differences,
    resampled,
)
from mechlist.figures.row_maps import row_maps
from mechlist.metrics.by_topic import counted_from, enough
from mechlist.text import from_last, lists_named

PARTS = ("mean", "low", "high", "lists")
_STAGES = "layers passed (0 is the embedding, the last the model's own output)"


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """For each direction curves over layers and a map of layers and items; change points; how good the lens is."""
    out: dict[str, go.Figure] = {}
    for direction in results["direction"].values.tolist():
        for adjective in results["by_adjective"].values.tolist():
            out[f"layers-{slug(direction)}-{adjective}"] = _curves(results, direction, adjective)
        if "matched_lists" in results and results["matched_lists"].sel(direction=direction).any():
            out[f"matched-{slug(direction)}"] = _matched(results, direction)
        if results.sizes["item"] > 1:
            out |= {f"items-{slug(direction)}-from-{end}": _map(results, direction, "plain", end) for end in ENDS}
            for lens in results["lens"].values.tolist()[1:]:
                out[f"items-{slug(direction)}-{lens.lower()}"] = _map(results, direction, lens, "end")
    out["change-points-layers"] = _layer_changes(results)
    if "item_change_place" in results:
        out["change-points-items"] = _item_changes(results)
    if "kl_mean" in results:
        out |= {"lens-kl": _fit(results), "lens-bias": _bias(results)}
    return out


def group(adjective: str) -> str:
    """As figures and sentences name the lists of an adjective."""
    return "pairs of prompts" if adjective == "pairs" else lists_named(adjective)


def _over(results: xr.Dataset) -> str:
    return OVER_TOPICS.replace("topics", resampled(results))


def slug(direction: str) -> str:
    """Of a direction, for names of files: A, B, or `own`."""
    return direction.split(":")[0] if ":" in direction[:3] else "own"


def _curves(results: xr.Dataset, direction: str, adjective: str) -> go.Figure:
    at = results[[f"curve_{part}" for part in PARTS]].sel(direction=direction, by_adjective=adjective)
    means = at.rename({f"curve_{part}": part for part in PARTS}).drop_vars(["direction", "by_adjective"])
    flat = means.stack(name=("lens", "series"), create_index=False)
    lenses = results.sizes["lens"]
    names = [
        f"{one} ({lens} lens)" if lenses > 1 else str(one)
        for one, lens in zip(flat["series"].values, flat["lens"].values, strict=True)
    ]
    flat = flat.drop_vars(["lens", "series"]).rename(name="series").assign_coords(series=names)
    flat = flat.isel(series=flat["lists"].any("stage").values).rename(stage="x")
    where = results["difference"].attrs["units"]
    return interval_lines(
        flat["mean"],
        low=flat["low"],
        high=flat["high"],
        title=f"Logit lens, {direction}: {group(adjective)}",
        caption=f"Mean logit difference that can be read from the residual stream after each layer; {_over(results)}.",
        x_title=_STAGES,
        y_title=f"logit difference ({where})",
        clip=True,
        note=counted(flat["lists"], "pairs" if adjective == "pairs" else "lists"),
    )


def matched_means(results: xr.Dataset, **where: str) -> xr.Dataset:
    """What `matched_last` found, under its own names."""
    names = {f"matched_{name}": name for name in ("mean", "low", "high", "lists", "others")}
    return results[list(names)].rename(names).sel(where, drop=True)


def _matched(results: xr.Dataset, direction: str) -> go.Figure:
    found = matched_differences(matched_means(results, direction=direction, lens="plain")).rename(stage="x")
    return interval_lines(
        found["mean"],
        low=found["low"],
        high=found["high"],
        title=f"Logit lens, {direction}: last items less other items of equal number and filler",
        caption=f"Difference of the mean logit differences read after each layer (plain lens). Compared are {MATCHED}; "
        f"what number and filler do cancels; {OVER_TOPICS}.",
        x_title=_STAGES,
        y_title=f"difference ({results['difference'].attrs['units']})",
        note=matched_counts(found),
    )


def _map(results: xr.Dataset, direction: str, lens: str, end: str) -> go.Figure:
    """Layers downwards, items from either end to the right; one panel an adjective and run."""
    values = counted_from(results["difference"].sel(direction=direction, lens=lens), end)
    panels = {}
    for adjective in results["by_adjective"].values.tolist():
        own = values.isel(list=np.flatnonzero(values["adjective"].values == adjective))
        # Means of a list or two beside those of many would only be noise.
        shown = own.mean("list").where(enough(own.notnull().sum("list"), "item_index"))
        for run in results["run"].values.tolist():
            if shown.sel(run=run).notnull().any():
                panels[f"{group(adjective)}, {run}"] = shown.sel(run=run, drop=True)
    whole = xr.concat(panels.values(), dim="name", coords="minimal", compat="override")
    whole = whole.drop_vars([n for n in whole.coords if n != "item_index"]).assign_coords(name=list(panels))
    told = np.flatnonzero(whole.notnull().any(["name", "stage"]).values)
    whole = whole.isel(item_index=slice(0, told[-1] + 1))
    columns = (whole["item_index"].values + 1).tolist()
    if end == "end":
        whole = whole.isel(item_index=slice(None, None, -1))
        columns = [from_last(back) for back in whole["item_index"].values.tolist()]
    return row_maps(
        whole.drop_vars("item_index").rename(stage="row", item_index="column").assign_coords(column=columns),
        [str(stage) for stage in results["stage"].values.tolist()],
        title=f"Logit lens by layer and item, {direction}" + ("" if lens == "plain" else f" ({lens} lens)"),
        caption=f"Mean over lists, aligned at the {'last' if end == 'end' else 'first'} item; grey where fewer than 5 "
        "lists have such an item and others more.",
        unit=results["difference"].attrs["units"],
        row_title="layers passed",
        column_title="item",
        diverging=True,
    )


def _layer_changes(results: xr.Dataset) -> go.Figure:
    points = results[[n for n in results.data_vars if str(n).startswith("layer_change_")]]
    names = ("direction", "by_adjective", "contrast", "lens")
    flat = points.stack(category=names, create_index=False)
    flat = flat.isel(category=np.isfinite(flat["layer_change_place"].values))
    many, pairs = results.sizes["lens"] > 1, results.attrs["origin"] == "pairs"
    labels = [
        ("" if pairs else f"{slug(str(d))}, {a}: ") + f"{c}" + (f" ({lens})" if many else "")
        for d, a, c, lens in zip(*(flat[n].values for n in names), strict=True)
    ]
    figure = _rows(
        flat,
        "layer_change",
        labels,
        title="Layer that makes the largest step",
        caption="Each row is the layer across which the mean difference changes most, with a 95 % bootstrap interval "
        f"over {resampled(results)}; hover for the size of the step and how often the resamples agree.",
        x_title="layer",
    )
    return figure.update_xaxes(range=[-0.5, results.sizes["stage"] - 1.5])


def _item_changes(results: xr.Dataset) -> go.Figure:
    points = results[[n for n in results.data_vars if str(n).startswith("item_change_")]].sel(lens="plain", end="end")
    flat = points.stack(category=("direction", "by_adjective"), create_index=False)
    flat = flat.isel(category=np.isfinite(flat["item_change_place"].values))
    pairs = zip(flat["direction"].values, flat["by_adjective"].values, strict=True)
    figure = _rows(
        flat,
        "item_change",
        [f"{slug(str(d))}, {group(str(a))}" for d, a in pairs],
        title="Item from which the model's own difference makes its largest step",
        caption=f"At last - 1 the step is from the item before the last to the last; {OVER_TOPICS}.",
        x_title="item",
    )
    return items_from_last(figure, results.sizes["item"])


def _rows(flat: xr.Dataset, name: str, labels: list[str], *, title: str, caption: str, x_title: str) -> go.Figure:
    bare = flat.drop_vars([str(n) for n in flat.coords]).assign_coords(category=labels)
    notes = [
        f"step {jump:+.2f}" + ("" if np.isnan(share) else f", {share:.0%} of resamples agree")
        for jump, share in zip(bare[f"{name}_jump"].values, bare[f"{name}_share"].values, strict=True)
    ]
    figure = interval_rows(
        bare[f"{name}_place"],
        low=bare[f"{name}_place_low"],
        high=bare[f"{name}_place_high"],
        note=xr.DataArray(np.array(notes, dtype=object), dims="category"),
        title=title,
        caption=caption,
        x_title=x_title,
    )
    return figure.update_xaxes(dtick=1 if np.ptp(bare[f"{name}_place"].values) <= 30 else None, tickformat="d")


def _fit(results: xr.Dataset) -> go.Figure:
    curves = results[[f"kl_{part}" for part in PARTS]].rename(lens="series", stage="x")
    pairs = results.attrs["origin"] == "pairs"
    what = resampled(results) if pairs else "lists of topics"
    unseen = f"{what} that it was not trained on" if results.attrs["held_out"] else f"{what} that it was trained on"
    return interval_lines(
        curves["kl_mean"],
        low=curves["kl_low"],
        high=curves["kl_high"],
        title="How far each lens is from the model's own prediction",
        caption=f"KL divergence from the model's final distribution, mean over the tokens of {unseen}: where "
        f"the plain lens is far off, its curves say more of the lens than of the model; {_over(results)}.",
        x_title=_STAGES,
        y_title="KL(model || lens), nats",
    )


def _bias(results: xr.Dataset) -> go.Figure:
    curves = results["bias"].rename(lens="series", stage="x")
    nothing = curves * np.nan
    whatever = "prompt" if results.attrs["origin"] == "pairs" else "list"
    return interval_lines(
        curves,
        low=nothing,
        high=nothing,
        title="Bias of each lens",
        caption="KL divergence between the two distributions averaged over all tokens: what a lens gets wrong whatever "
        f"the {whatever} (Belrose et al. 2023).",
        x_title=_STAGES,
        y_title="KL(mean of model || mean of lens), nats",
    )
