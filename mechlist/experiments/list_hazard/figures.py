"""Figures of `list-hazard`, from its saved results alone."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiments.list_hazard.heads import CHOSEN, CLEAN
from mechlist.figures.notes import NOT_FEW, OVER_TOPICS, counted, ends
from mechlist.metrics.by_topic import ENDS, FEWEST, enough, well_founded
from mechlist.text import ALL_LISTS, lists_named, number_of

NAMES = {
    "model": "the model itself",
    "as drawn": "as the lists were drawn",
    "sampled": "the lists themselves",
    "truth": "known truth",
    "truth as drawn": "known truth as drawn",
}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Hazard and survival for each adjective at the temperature in the middle; the model's error; what heads change."""
    out: dict[str, go.Figure] = {}
    for adjective in dict.fromkeys(results["condition_adjective"].values.tolist()):
        part = _middle(results, adjective)
        if any(_told(part, rule) for rule in part["rule"].values):
            out[f"hazard-{adjective}"] = _hazard(part, adjective)
            out[f"survival-{adjective}"] = _survival(part, adjective)
    if results["error_breaks"].any():
        out["reliability"] = _reliability(results)
    if "set" in results.dims:
        for adjective in results["by_adjective"].values.tolist():
            out[f"hazard-with-heads-{adjective}"] = _changed(results, adjective)
        out["items-with-heads"] = _items(results)
    return out


def opposed(results: xr.Dataset) -> tuple[str, str] | None:
    """Two adjectives whose lists change in opposite directions, short first; None where all go one way."""
    change = results["items_change"].sel(set=CHOSEN)
    if {"short", "long"} <= set(results["of_lists"].values.tolist()):
        short, long = (float(change.sel(of_lists=of)) for of in ("short", "long"))
        if short * long < 0:
            return "short", "long"
    return None


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
    shown = _curves(part, "hazard")
    return draw.interval_lines(
        shown["hazard"],
        **ends(shown, "hazard"),
        title=f"Hazard of {lists_named(adjective)}: how likely one ends after an item, if it got there",
        caption=f"{_read_words(part)} The share of the lists that got there and did end{_truth_words(part)}; "
        f"{OVER_TOPICS}; {NOT_FEW}.",
        x_title="items written",
        y_title="probability of ending now",
        note=shown["note"],
    )


def _survival(part: xr.Dataset, adjective: str) -> go.Figure:
    shown = _curves(part, "survival")
    return draw.interval_lines(
        shown["survival"],
        **ends(shown, "survival"),
        title=f"Survival of {lists_named(adjective)}: lengths that the hazards imply",
        caption="Share of lists that each hazard lets go on: hazards that differ little at each item can still imply "
        f"different lengths{_truth_words(part)}; {OVER_TOPICS}.",
        x_title="items written",
        y_title="share of lists that go on",
        shape="step",
        note=shown["note"],
    )


def _curves(part: xr.Dataset, name: str) -> xr.Dataset:
    """By rule, those that tell something, with what stands behind each value.

    Of a hazard only points on lists enough; the process, behind which no lists stand, as far as others go.
    """
    shown = part.sel(rule=[rule for rule in part["rule"].values if _told(part, rule)])
    of_process = xr.DataArray([str(rule).startswith("truth") for rule in shown["rule"].values], dims="rule")
    counts = shown["lists_at"].fillna(0)
    held = counts.where(~of_process, counts.max("rule"))
    note = counted(counts, "lists").where(~of_process, "in closed form")
    shown = shown[[name, f"{name}_low", f"{name}_high"]]
    if name == "hazard":
        shown = well_founded(shown.assign(held=held), "held", "item").drop_vars("held")
    words = [_rule_words(part, rule) for rule in shown["rule"].values]
    shown = shown.assign(note=note.isel(item=slice(0, shown.sizes["item"])))
    return shown.rename(rule="series", item="x").assign_coords(series=words)


def _read_words(part: xr.Dataset) -> str:
    """Along which lists the model's own probability is read."""
    if not part.attrs["own_written"]:
        return (
            "The model's own probability of ending, averaged over the lists that got there, as it is and with the "
            "rules of drawing applied."
        )
    return (
        "The model's own probability of ending, averaged over lists that got there: as it is along lists drawn at "
        "T = 1 without nucleus, and with the rules of drawing applied along the given ones."
    )


def _truth_words(part: xr.Dataset) -> str:
    return "; and the process that wrote the training lists, in closed form" if _told(part, "truth") else ""


def _reliability(results: xr.Dataset) -> go.Figure:
    """The model's error by the size of its probability, for each adjective at the temperature in the middle."""
    adjectives = list(dict.fromkeys(results["condition_adjective"].values.tolist()))
    names = ["signed_error", "signed_error_low", "signed_error_high", "error_breaks"]
    parts = [_middle(results, adjective)[names] for adjective in adjectives]
    both = xr.concat(parts, dim="series", coords="minimal", compat="override").assign_coords(
        series=[lists_named(adjective) for adjective in adjectives]
    )
    # A break or two say nothing of a bin.
    shown = both.where(both["error_breaks"] >= FEWEST).assign(error_breaks=both["error_breaks"])
    shown = shown.rename(probability="x").drop_vars(["condition_adjective", "condition_temperature"], errors="ignore")
    where = "lists drawn at T = 1 without nucleus" if results.attrs["own_written"] else "the given lists"
    return draw.interval_bars(
        shown["signed_error"],
        **ends(shown, "signed_error"),
        title="Reliability: the model's probability of the end less the true one",
        caption=f"At the line breaks of {where}, sorted by the model's probability; true is that of the process, given "
        f"the number of the item and its filler; bins of fewer than {FEWEST} breaks are left out; {OVER_TOPICS}.",
        x_title="the model's probability of the end",
        y_title="model less process (probability)",
        note=counted(shown["error_breaks"], "line breaks"),
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
        caption="Lists written with each set of heads changed, read with the same change by the rule that they were "
        f"drawn with; {OVER_TOPICS}; {NOT_FEW}.",
        x_title="items written",
        y_title="probability of ending now",
    )


def _items(results: xr.Dataset) -> go.Figure:
    names = [name for name in results["set"].values.tolist() if name != CLEAN]
    pooled = opposed(results) is None
    kept = [of for of in results["of_lists"].values.tolist() if pooled or of != ALL_LISTS]
    keys = [(of, name) for of in kept for name in names]
    labels = [f"{lists_named(of)}: {'heads' if name == CHOSEN else name}" for of, name in keys]
    chosen = results[[f"items_change{end}" for end in ENDS]].sel(set=names, of_lists=kept)
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
    if rule in ("model", "truth") and part.attrs["own_written"]:
        return f"{NAMES[rule]} (T = 1)"
    if not rule.endswith("as drawn") or np.isnan(temperature):
        return NAMES[rule]
    top_p = part.attrs["top_p"]
    nucleus = f", top-p {top_p:g}" if top_p is not None and top_p < 1 else ""
    return f"{NAMES[rule]} (T = {temperature:g}{nucleus})"
