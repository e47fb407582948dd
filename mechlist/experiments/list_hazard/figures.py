"""Figures of `list-hazard`, from its saved results alone."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiments.list_hazard.heads import CHOSEN, CLEAN
from mechlist.figures.notes import NOT_FEW, OVER_TOPICS, counted, ends
from mechlist.metrics.by_topic import enough, well_founded
from mechlist.text import lists_named, number_of

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


def _middle(results: xr.Dataset, adjective: str) -> xr.Dataset:
    rows = np.flatnonzero(results["condition_adjective"].values == adjective)
    return results.isel(condition=int(rows[len(rows) // 2]))


def _hazard(part: xr.Dataset, adjective: str) -> go.Figure:
    shown = part.sel(rule=[rule for rule in part["rule"].values if _told(part, rule)])
    shown = well_founded(shown[["hazard", "hazard_low", "hazard_high", "lists_at"]], "lists_at", "item")
    words = [_rule_words(part, rule) for rule in shown["rule"].values]
    renamed = {"rule": "series", "item": "x"}
    return draw.interval_lines(
        shown["hazard"].rename(renamed).assign_coords(series=words),
        **ends(shown, "hazard", **renamed),
        title=f"Hazard of {lists_named(adjective)}: how likely one ends after an item, if it got there",
        caption="The model's own probability of ending, averaged over the lists that got there, as it is and with the "
        "rules of drawing applied; the share of those lists that did end there"
        f"{'; and the known truth' if _told(part, 'truth') else ''}; {OVER_TOPICS}; {NOT_FEW}.",
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
        **ends(shown, "survival", **renamed),
        title=f"Survival of {lists_named(adjective)}: lengths that the hazards imply",
        caption="Share of lists that each hazard lets go on: hazards that differ little at each item can still imply "
        f"different lengths; {OVER_TOPICS}.",
        x_title="items written",
        y_title="share of lists that go on",
        shape="step",
        note=counted(shown["lists_at"].rename(renamed), "lists"),
    )


def _changed(results: xr.Dataset, adjective: str) -> go.Figure:
    part = results.sel(by_adjective=adjective)
    words = [set_words(results, name) for name in part["set"].values.tolist()]
    renamed = {"set": "series", "item": "x"}
    names = ["changed_hazard", "changed_hazard_low", "changed_hazard_high"]
    shown = part[names].where(enough(part["changed_lists"], "item")).assign_coords(set=words)
    return draw.interval_lines(
        shown["changed_hazard"].rename(renamed),
        **ends(shown, "changed_hazard", **renamed),
        title=f"Hazard of {lists_named(adjective)} with heads changed ({results.attrs['intervention']})",
        caption=f"The same given lists, read again with each set of heads changed; {OVER_TOPICS}; {NOT_FEW}.",
        x_title="items written",
        y_title="probability of ending now",
    )


def _items(results: xr.Dataset) -> go.Figure:
    names = [name for name in results["set"].values.tolist() if name != CLEAN]
    keys = [(of, name) for of in results["of_lists"].values.tolist() for name in names]
    labels = [f"{lists_named(of)}: {'heads' if name == CHOSEN else name}" for of, name in keys]
    chosen = results[[f"items_change{end}" for end in ("", "_low", "_high")]].sel(set=names)
    rows = chosen.stack(category=("of_lists", "set"), create_index=False)
    rows = rows.drop_vars(["of_lists", "set"]).assign_coords(category=labels)
    sets = "; ".join(f"{name}: {', '.join(results.attrs['sets'][name])}" for name in names)
    cut = int((~results["written_ended"]).sum())
    return draw.interval_rows(
        rows["items_change"],
        **ends(rows, "items_change"),
        title=f"Change of the number of items with heads changed ({results.attrs['intervention']})",
        caption=f"Lists written again with the same random numbers, each against the one without a change ({sets}); "
        f"{OVER_TOPICS}; {number_of(cut, 'lists')} of all sets were cut off at {results.attrs['max_new_tokens']} "
        "tokens and count with the items that they have.",
        x_title="items more (paired mean)",
        mean=None,
    )


def _told(part: xr.Dataset, rule: str) -> bool:
    return bool(part["hazard"].sel(rule=rule).notnull().any())


def _rule_words(part: xr.Dataset, rule: str) -> str:
    temperature = float(part["condition_temperature"])
    if rule != "as drawn" or np.isnan(temperature):
        return NAMES[rule]
    top_p = part.attrs["top_p"]
    nucleus = f", top-p {top_p:g}" if top_p is not None and top_p < 1 else ""
    return f"{NAMES[rule]} (T = {temperature:g}{nucleus})"
