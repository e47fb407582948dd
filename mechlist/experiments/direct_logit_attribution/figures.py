"""Figures of direct logit attribution, from saved results alone."""

from typing import Any

import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.direct_logit_attribution import summary
from mechlist.experiments.effects import estimated
from mechlist.figures import head_heatmap, heads_panel, interval_bars, interval_lines, position_heatmap
from mechlist.text import from_last

ITEMS = 8
"""Of the end of a list that are drawn."""
INTERVALS = "intervals are over topics"


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Of each direction: heads, components, along the layers, by item, and what the adjective changes."""
    drawn: dict[str, go.Figure] = {}
    for direction in results["direction"].values.tolist():
        part = results.sel(direction=direction)
        name = direction.split(":")[0].lower() if ":" in direction else "logits"
        drawn[f"heads_{name}"] = _heads(part, direction)
        drawn[f"components_{name}"] = _components(part, direction)
        drawn[f"layers_{name}"] = _layers(part, direction)
        if results.attrs["origin"] != "pairs":
            drawn[f"items_{name}"] = _items(part, direction)
        change = summary.contrast(part["heads"])
        if change is not None:
            drawn[f"adjective_{name}"] = _contrast(part, change, direction)
    return drawn


def _heads(part: xr.Dataset, direction: str) -> go.Figure:
    last = summary.from_end(part["heads"].isel(run=0, drop=True), 0)
    panels = {
        summary.group_name(adjective): summary.of_adjective(last, adjective).mean("list")
        for adjective in summary.adjectives(part)
    }
    return heads_panel(
        panels,
        title=f"What each head writes: {direction}",
        caption=f"At the last {_unit(part)}, in logits with the last norm frozen: blue heads write for the first token "
        "and red ones against it; mean over the lists.",
        unit="logits",
        diverging=True,
    )


def _components(part: xr.Dataset, direction: str) -> go.Figure:
    last = summary.from_end(summary.components(part).isel(run=0, drop=True), 0).rename(component="x")
    series = {summary.group_name(a): estimated(summary.of_adjective(last, a)) for a in summary.adjectives(part)}
    return interval_bars(
        **_stacked(series),
        title=f"What each component writes: {direction}",
        caption=f"At the last {_unit(part)}; all bars of one colour add up to the logit difference before any softcap; "
        f"{INTERVALS}.",
        x_title="component, in the model's order",
        y_title="logits",
    )


def _layers(part: xr.Dataset, direction: str) -> go.Figure:
    stages = summary.accumulated(part)
    series: dict[str, xr.Dataset] = {}
    for adjective in summary.adjectives(part):
        own = summary.of_adjective(stages, adjective)
        if adjective == "pairs":
            series = {run: estimated(summary.from_end(own.sel(run=run, drop=True), 0)) for run in own["run"].values}
            break
        own, name = own.isel(run=0, drop=True), summary.group_name(adjective)
        series[f"{name}, last item"] = estimated(summary.from_end(own, 0))
        if (own["n_items"] > 1).any():
            series[f"{name}, items before"] = estimated(summary.earlier(own))
    return interval_lines(
        **_stacked(series),
        title=f"Where along the layers the difference is made: {direction}",
        caption="All that the model has written up to a layer, biases included, under the norm of the end; at the "
        f"right edge it is the logit difference before any softcap; {INTERVALS}.",
        x_title="layers that have written (0: the embedding alone)",
        y_title="logits",
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
        title=f"What each layer adds, by item from the end: {direction}",
        caption=f"Attention and MLP together, in {summary.group_name(first)}; look for layers that change sign at the "
        "last item: they tell it from the others.",
        unit="logits",
    )


def _contrast(part: xr.Dataset, change: xr.DataArray, direction: str) -> go.Figure:
    cells = estimated(change)
    what = "corrupt prompt" if part.attrs["origin"] == "pairs" else "other adjective"
    return head_heatmap(
        cells["estimate"],
        title=f"What each head writes, {summary.contrast_name(part)}: {direction}",
        caption=f"The same text after the {what}, at the last {_unit(part)}; a dot marks heads whose change survives "
        "the correction for all heads.",
        unit="logits",
        diverging=True,
        marked=cells["survives"],
    )


def _unit(part: xr.Dataset) -> str:
    return "token" if part.attrs["origin"] == "pairs" else "item"


def _stacked(series: dict[str, xr.Dataset]) -> dict[str, Any]:
    """Estimates and interval ends over (series, x), as figures with intervals take them."""
    both = xr.concat(list(series.values()), dim="series", coords="minimal", compat="override", combine_attrs="drop")
    both = both.assign_coords(series=list(series))
    return {"values": both["estimate"], "low": both["low"], "high": both["high"]}
