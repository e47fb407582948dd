"""Figures of direct logit attribution, from saved results alone."""

from typing import Any

import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.direct_logit_attribution import summary
from mechlist.experiments.direct_logit_attribution.statistics import MATCHED, cells, matched
from mechlist.experiments.effects import decision, notes, read
from mechlist.figures import head_heatmap, heads_panel, interval_bars, interval_lines, position_heatmap
from mechlist.figures.notes import MATCHED as SAME_NUMBER
from mechlist.figures.notes import matched_counts, matched_differences, resampled
from mechlist.text import from_last

ITEMS = 8
"""Of the end of a list that are drawn."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Of each direction: heads, components, along the layers, by item, and what the adjective changes."""
    drawn: dict[str, go.Figure] = {}
    for direction in results["direction"].values.tolist():
        part = results.sel(direction=direction)
        name = direction.split(":")[0].lower() if ":" in direction else "logits"
        drawn[f"heads_{name}"] = _heads(part, direction)
        drawn[f"components_{name}"] = _components(part, direction)
        drawn[f"layers_{name}"] = _layers(part, direction)
        if not _of_pairs(results):
            drawn[f"items_{name}"] = _items(part, direction)
            if any(matched(part, "stage", group) is not None for group in summary.adjectives(part)):
                drawn[f"matched_{name}"] = _matched(part, direction)
        change = cells(part, "head_change")
        if change is not None:
            drawn[f"adjective_{name}"] = _contrast(part, change, direction)
    return drawn


def _heads(part: xr.Dataset, direction: str) -> go.Figure:
    found = read(part, "head_last")
    panels = {summary.group_name(group): found.sel(group=group, drop=True) for group in summary.adjectives(part)}
    return heads_panel(
        {name: one["estimate"] for name, one in panels.items()},
        note={name: notes(one) for name, one in panels.items()},
        title=f"What each head writes: {decision(direction)}",
        caption=f"At the last {_unit(part)}, in logits with the last norm frozen: blue heads write for the first token "
        f"and red ones against it; mean over the {'pairs' if _of_pairs(part) else 'lists'}.",
        unit="logits",
        diverging=True,
    )


def _components(part: xr.Dataset, direction: str) -> go.Figure:
    groups = summary.adjectives(part)
    return interval_bars(
        **_stacked({summary.group_name(group): cells(part, "component_last", group) for group in groups}, "component"),
        title=f"What each component writes: {decision(direction)}",
        caption=f"At the last {_unit(part)}; all bars of one colour add up to the logit difference before any softcap; "
        f"intervals are over {resampled(part)}.",
        x_title="component, in the model's order",
        y_title="logits",
        clip=True,
    )


def _layers(part: xr.Dataset, direction: str) -> go.Figure:
    runs = cells(part, "stage_run")
    series: dict[str, xr.Dataset | None] = {}
    if runs is not None:
        series = {run: runs.sel(run=run, drop=True) for run in runs["run"].values.tolist()}
    for group in summary.adjectives(part) if runs is None else ():
        series[f"{summary.group_name(group)}, last item"] = cells(part, "stage_last", group)
    return interval_lines(
        **_stacked(series, "written"),
        title=f"Where along the layers the difference is made: {decision(direction)}",
        caption="All that the model has written up to a layer, biases included, under the norm of the end; at the "
        f"right edge it is the logit difference before any softcap; intervals are over {resampled(part)}.",
        x_title="layers that have written (0: the embedding alone)",
        y_title="logits",
        clip=True,
    )


def _matched(part: xr.Dataset, direction: str) -> go.Figure:
    names = {f"stage_matched_{of}": of for of in MATCHED}
    found = part[list(names)].rename(names).drop_vars("direction").rename(group="by_adjective", written="x")
    shown = matched_differences(found)
    return interval_lines(
        shown["mean"],
        low=shown["low"],
        high=shown["high"],
        title=f"Last items less other items of equal number and filler: {decision(direction)}",
        caption="All that the model has written up to a layer, biases included, under the norm of the end. Compared "
        f"are {SAME_NUMBER}; what number and filler do cancels; intervals are over {resampled(part)}.",
        x_title="layers that have written (0: the embedding alone)",
        y_title="difference (logits)",
        note=matched_counts(shown),
    )


def _items(part: xr.Dataset, direction: str) -> go.Figure:
    first = summary.adjectives(part)[0]
    added = summary.of_adjective(summary.layers_added(part).isel(run=0, drop=True), first)
    number = min(ITEMS, int(added["n_items"].max()))
    columns = [summary.from_end(added, back).mean("list") for back in reversed(range(number))]
    labels = [from_last(back) for back in reversed(range(number))]
    return position_heatmap(
        xr.concat(columns, dim="position", coords="minimal", compat="override"),
        labels,
        title=f"What each layer adds, by item from the end: {decision(direction)}",
        caption=f"Attention and MLP together, mean over {summary.group_name(first)}. From item to item their number "
        "grows, and mostly the last carries a filler.",
        unit="logits",
    )


def _contrast(part: xr.Dataset, change: xr.Dataset, direction: str) -> go.Figure:
    of_pairs = "What it writes after the clean prompt, less what it writes after the corrupt one"
    what = of_pairs if _of_pairs(part) else "The same text after the other adjective"
    return head_heatmap(
        change["estimate"],
        title=f"What each head writes, {summary.contrast_name(part)}: {decision(direction)}",
        caption=f"{what}, at the last {_unit(part)}; a dot marks heads whose change survives "
        "the correction for all heads.",
        unit="logits",
        diverging=True,
        marked=change["survives"].astype(bool),
    )


def _of_pairs(part: xr.Dataset) -> bool:
    return part.attrs["origin"] == "pairs"


def _unit(part: xr.Dataset) -> str:
    return "token" if _of_pairs(part) else "item"


def _stacked(series: dict[str, xr.Dataset | None], axis: str) -> dict[str, Any]:
    """Estimates and interval ends over (series, x), as figures with intervals take them."""
    there = {name: own.rename({axis: "x"}) for name, own in series.items() if own is not None}
    both = xr.concat(list(there.values()), dim="series", coords="minimal", compat="override", combine_attrs="drop")
    both = both.assign_coords(series=list(there))
    return {"values": both["estimate"], "low": both["low"], "high": both["high"]}
