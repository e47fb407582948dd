"""Figures of `list-hazard`, from its saved results alone."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiments.list_drawing import FEWEST, NOT_FEW, OVER_TOPICS, counted
from mechlist.experiments.list_hazard.hazards import ALL
from mechlist.experiments.list_hazard.heads import CHOSEN, CLEAN
from mechlist.text import number_of

NAMES = {
    "model": "the model itself",
    "as drawn": "as the lists were drawn",
    "sampled": "the lists themselves",
    "truth": "known truth",
}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Hazard and survival for each adjective at the temperature in the middle; with heads changed, what they change."""
    out: dict[str, go.Figure] = {}
    for adjective in dict.fromkeys(results["condition_adjective"].values.tolist()):
        part = _middle(results, adjective)
        if any(_told(part, rule) for rule in part["rule"].values):
            out[f"hazard-{adjective}"] = _hazard(part, adjective)
            out[f"survival-{adjective}"] = _survival(part, adjective)
    if "set" in results.dims:
        for adjective in results["by_adjective"].values.tolist():
            out[f"hazard-with-heads-{adjective}"] = _changed(results, adjective)
        out["items-with-heads"] = _items(results)
    return out


def set_words(results: xr.Dataset, name: str) -> str:
    """A set of heads as a label."""
    heads = results.attrs["sets"].get(name, [])
    if not heads:
        return "no head changed"
    listed = ", ".join(heads[:4]) + (f" and {len(heads) - 4} more" if len(heads) > 4 else "")
    return listed if name == CHOSEN else f"{name} ({listed})"


def lists_words(adjective: str) -> str:
    """Lists of an adjective, in a title."""
    return {"none": "lists without adjective", ALL: "all lists"}.get(adjective, f"{adjective} lists")


def _middle(results: xr.Dataset, adjective: str) -> xr.Dataset:
    rows = np.flatnonzero(results["condition_adjective"].values == adjective)
    return results.isel(condition=int(rows[len(rows) // 2]))


def _hazard(part: xr.Dataset, adjective: str) -> go.Figure:
    shown = _enough(part, "hazard")
    words = [_rule_words(part, rule) for rule in shown["rule"].values]
    renamed = {"rule": "series", "item": "x"}
    return draw.interval_lines(
        shown["hazard"].rename(renamed).assign_coords(series=words),
        low=shown["hazard_low"].rename(renamed),
        high=shown["hazard_high"].rename(renamed),
        title=f"Hazard of {lists_words(adjective)}: how likely one ends after an item, if it got there",
        caption="The model's own probability of ending, averaged over the lists that got there, should lie on the "
        "share of lists that did end there, once the rules of drawing are applied"
        f"{', and on the known truth without them' if _told(part, 'truth') else ''}; {OVER_TOPICS}; {NOT_FEW}.",
        x_title="items written",
        y_title="probability of ending now",
        note=counted(shown["lists_at"].rename(renamed), "lists"),
    )


def _survival(part: xr.Dataset, adjective: str) -> go.Figure:
    shown = part.sel(rule=[rule for rule in part["rule"].values if _told(part, rule)])
    words = [_rule_words(part, rule) for rule in shown["rule"].values]
    renamed = {"rule": "series", "item": "x"}
    return draw.interval_lines(
        shown["survival"].rename(renamed).assign_coords(series=words),
        low=shown["survival_low"].rename(renamed),
        high=shown["survival_high"].rename(renamed),
        title=f"Survival of {lists_words(adjective)}: lengths that the hazards imply",
        caption="Two hazards that differ little at each item can still imply different lengths: look where the curves "
        f"part; {OVER_TOPICS}.",
        x_title="items written",
        y_title="share of lists that go on",
        shape="step",
        note=counted(shown["lists_at"].rename(renamed), "lists"),
    )


def _changed(results: xr.Dataset, adjective: str) -> go.Figure:
    part = results.sel(by_adjective=adjective)
    names = part["set"].values.tolist()
    words = [set_words(results, name) for name in names]
    held = part["changed_lists"]
    many = (held >= np.minimum(held.max(), FEWEST)) & (held > 0)
    curves: dict[str, Any] = {
        end: part[f"changed_hazard{end}"].where(many).rename({"set": "series", "item": "x"}).assign_coords(series=words)
        for end in ("", "_low", "_high")
    }
    return draw.interval_lines(
        curves[""],
        low=curves["_low"],
        high=curves["_high"],
        title=f"Hazard of {lists_words(adjective)} with heads changed ({results.attrs['intervention']})",
        caption="The same given lists, read again: a head that ends lists lowers the curve when it is changed, and "
        f"random heads do not; {OVER_TOPICS}; {NOT_FEW}.",
        x_title="items written",
        y_title="probability of ending now",
    )


def _items(results: xr.Dataset) -> go.Figure:
    names = [name for name in results["set"].values.tolist() if name != CLEAN]
    keys = [(of, name) for of in results["of_lists"].values.tolist() for name in names]
    labels = [f"{lists_words(of)}: {'heads' if name == CHOSEN else name}" for of, name in keys]
    ends = {
        end: xr.DataArray(
            [float(results[f"items_change{end}"].sel(of_lists=of, set=name)) for of, name in keys],
            dims=("category",),
            coords={"category": labels},
        )
        for end in ("", "_low", "_high")
    }
    sets = "; ".join(f"{name}: {', '.join(results.attrs['sets'][name])}" for name in names)
    cut = int((~results["written_ended"]).sum())
    return draw.interval_rows(
        ends[""],
        low=ends["_low"],
        high=ends["_high"],
        title=f"Change of the number of items with heads changed ({results.attrs['intervention']})",
        caption=f"Lists written again with the same random numbers, each against its twin ({sets}); {OVER_TOPICS}; "
        f"{number_of(cut, 'lists')} of all sets were cut off at {results.attrs['max_new_tokens']} tokens and "
        "count with the items that they have.",
        x_title="items more (paired mean)",
        mean=None,
    )


def _enough(part: xr.Dataset, name: str) -> xr.Dataset:
    """The rules that tell something, without points that stand on few lists."""
    shown = part.sel(rule=[rule for rule in part["rule"].values if _told(part, rule)])
    held = shown["lists_at"]
    fewest = np.minimum(held.max("item"), FEWEST)
    kept = shown[[name, f"{name}_low", f"{name}_high"]].where((held >= fewest) & (held > 0))
    return kept.assign(lists_at=held)


def _told(part: xr.Dataset, rule: str) -> bool:
    return bool(part["hazard"].sel(rule=rule).notnull().any())


def _rule_words(part: xr.Dataset, rule: str) -> str:
    temperature = float(part["condition_temperature"])
    if rule != "as drawn" or np.isnan(temperature):
        return NAMES[rule]
    top_p = part.attrs["top_p"]
    nucleus = f", top-p {top_p:g}" if top_p is not None and top_p < 1 else ""
    return f"{NAMES[rule]} (T = {temperature:g}{nucleus})"
