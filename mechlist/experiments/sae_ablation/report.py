"""Figures, tables and sentences of changed features, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiment import Claim
from mechlist.experiments.sae_ablation.sets import CHOSEN, CLEAN, OTHER_TOPIC, SPLICE
from mechlist.experiments.sae_features import transfer_warning
from mechlist.figures import interval_lines, interval_rows
from mechlist.figures.notes import NOT_FEW, OVER_TOPICS, ends
from mechlist.metrics.by_topic import ENDS, enough
from mechlist.text import joined, lists_named, number_of, with_interval

_CHANGED = {"zero": "set to 0", "mean": "set to their mean", "scale": "multiplied by {:g}", "steer": "added {:g} times"}
_NAMES = {
    SPLICE: "control, only spliced",
    CHOSEN: "the features",
    OTHER_TOPIC: "control, another topic's",
}

_QUANTITIES = {
    "items": "number of items",
    "fillers": "share of items with a filler",
    "diversity": "diversity of a list (Shannon index)",
    "topic diversity": "diversity of all lists of a prompt together (Shannon index)",
}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The change of each quantity by set, and the hazards."""
    out = {str(name).replace(" ", "-"): _change(results, str(name)) for name in results["quantity"].values}
    for adjective in results["by_adjective"].values.tolist():
        out[f"hazard-{adjective}"] = _hazard(results, adjective)
    return out


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """`changes`, one row a quantity and set; `features` of each set; `lists`, one row a written list and set."""
    names = [f"{name}{end}" for name in ("change", "beyond") for end in ENDS]
    changes = results[names].to_dataframe().reset_index()
    sets = results.attrs["sets"]
    rows = [
        {"set": name, "topic": topic, "features": ", ".join(own)}
        for name, of_topic in sets.items()
        for topic, own in of_topic.items()
    ]
    lists = results["value"].to_dataset("quantity").to_dataframe().reset_index()
    kept = ["set", "written", "written_topic", "written_adjective", *map(str, results["quantity"].values)]
    return {"changes": changes, "features": pd.DataFrame(rows), "lists": lists.loc[:, kept]}


def findings(results: xr.Dataset) -> list[str]:
    """What is changed, what it does to lists read and written, and what the controls do."""
    warning = transfer_warning(results).strip()
    out = [warning] if warning else ["The SAEs pass the check on these lists."]
    out += [_what(results), _beside(results)]
    for adjective in results["by_adjective"].values.tolist():
        part = results.sel(by_adjective=adjective)
        others = "; ".join(f"{_name(name)} {_value(part, 'changed_mean_items', name)}" for name in _controls(results))
        out.append(
            f"{lists_named(adjective).capitalize()}, read with the same change by the rule that they are written with: "
            f"the expected number of items changes by {_value(part, 'changed_mean_items', CHOSEN)} ({others})."
        )
    for quantity in results["quantity"].values.tolist():
        value = float(results["change"].sel(quantity=quantity, set=CHOSEN))
        out += [_written(results, quantity)] if np.isfinite(value) else []
    cut = [int((~results["ended"].sel(set=name).values.astype(bool)).sum()) for name in (CLEAN, CHOSEN)]
    out.append(
        f"Of {number_of(results.sizes['written'], 'lists')} {cut[0]} were cut off at {results.attrs['max_new_tokens']} "
        f"tokens as it is and {cut[1]} with the features changed; they count with what they have."
    )
    return out


def claims(results: xr.Dataset) -> list[Claim]:
    """How much longer or shorter lists are when they are written again, beside the largest change of a control."""
    part = results.sel(quantity="items")
    if not np.isfinite(part["change"].sel(set=CHOSEN)):
        return []
    number = len(next(iter(results.attrs["sets"][CHOSEN].values())))
    largest = max(_controls(results), key=lambda name: abs(float(part["change"].sel(set=name))))
    return [
        Claim(
            f"With {number_of(number, 'features')} {_changed(results)} lists written again change by "
            f"{_value(part, 'change', CHOSEN)} items; the largest change of a control "
            f"({_name(largest).removeprefix('control, ')}) is {_value(part, 'change', largest)}.",
            "items",
        )
    ]


def _what(results: xr.Dataset) -> str:
    features = next(iter(results.attrs["sets"][CHOSEN].values()))
    at = (
        f"tokens with the roles {joined(results.attrs['at'])}" if results.attrs["at"] else "all tokens but special ones"
    )
    cut = results.attrs["write_from"] == "last-item"
    if results.attrs["while_writing"]:
        when = "of the prompt and of the list"
    else:
        when = "of the prompt and of the list up to its last item" if cut else "of the prompt"
    begun = " Lists are written again from before the last token of their last item." if cut else ""
    inactive = results.attrs["inactive"]
    left = f" {number_of(inactive, 'features')} of the run that they come from are not active here." if inactive else ""
    return (
        f"{number_of(len(features), 'features')} ({', '.join(features)}) {'is' if len(features) == 1 else 'are'} "
        f"{_changed(results)} at {at} {when}, the SAEs' errors kept.{begun}{left}"
    )


def _beside(results: xr.Dataset) -> str:
    """What the controls are."""
    number = sum(name.startswith("random") for name in results["set"].values.tolist())
    other = (
        "with one topic there is no control from another."
        if OTHER_TOPIC not in results["set"].values
        else "and on each topic the features with the same ranks on another one, by " + results.attrs["ranked_by"] + "."
    )
    return (
        f"Beside them: the SAEs spliced in with nothing changed; {number_of(number, 'sets')} of random features, each "
        f"about as active as the one it stands for; {other}"
    )


def _written(results: xr.Dataset, quantity: str) -> str:
    part = results.sel(quantity=quantity)
    unit = str(part["unit"].values)
    unit = "" if unit == "share of items" else f" {unit}"
    what = _QUANTITIES[quantity]
    before = float(part["value"].sel(set=CLEAN).mean())
    others = "; ".join(f"{_name(name)} {_value(part, 'change', name, digits=3)}" for name in _controls(results))
    inside = [
        name
        for name in _controls(results)
        if not float(part["beyond_low"].sel(set=name)) > 0 and not float(part["beyond_high"].sel(set=name)) < 0
    ]
    verdict = (
        "that is beyond every control"
        if not inside
        else f"that is not told from {joined([_name(name) for name in inside])}"
    )
    return (
        f"Lists written again, {what}: {before:.3f}{unit} as it is, {_value(part, 'change', CHOSEN, digits=3)} with "
        f"the features {_changed(results)}; {verdict} ({others})."
    )


def _change(results: xr.Dataset, quantity: str) -> go.Figure:
    part = results.sel(quantity=quantity)
    names = [name for name in part["set"].values.tolist() if name != CLEAN]
    shown = part[["change", "change_low", "change_high"]].sel(set=names).rename(set="category")
    shown = shown.drop_vars(["quantity", "unit"], errors="ignore").assign_coords(category=[_name(n) for n in names])
    return interval_rows(
        shown["change"],
        **ends(shown, "change"),
        title=f"Change of {quantity} with features {_changed(results)}",
        caption=f"{transfer_warning(results)}Lists written again with the same random numbers, each against the one of "
        f"the model as it is; {OVER_TOPICS}.",
        x_title=f"change ({part['unit'].values})",
    )


def _hazard(results: xr.Dataset, adjective: str) -> go.Figure:
    part = results.sel(by_adjective=adjective)
    names = ["changed_hazard", "changed_hazard_low", "changed_hazard_high"]
    words = ["as it is" if name == CLEAN else _name(name) for name in part["set"].values.tolist()]
    shown = part[names].where(enough(part["changed_lists"], "item")).assign_coords(set=words)
    renamed = {"set": "series", "item": "x"}
    return interval_lines(
        shown["changed_hazard"].rename(renamed),
        **ends(shown, "changed_hazard", **renamed),
        title=f"Hazard of {lists_named(adjective)} with features {_changed(results)}",
        caption=f"{transfer_warning(results)}Lists written with each set of features changed, read with the same "
        f"change by the rule that they were drawn with; {OVER_TOPICS}; {NOT_FEW}.",
        x_title="items written",
        y_title="probability of ending now",
    )


def _changed(results: xr.Dataset) -> str:
    return _CHANGED[results.attrs["change"]].format(results.attrs["factor"])


def _controls(results: xr.Dataset) -> list[str]:
    return [name for name in results["set"].values.tolist() if name not in (CLEAN, CHOSEN)]


def _name(name: str) -> str:
    return _NAMES.get(name, name)


def _value(part: xr.Dataset, variable: str, name: str, digits: int = 2) -> str:
    value, low, high = (float(part[f"{variable}{end}"].sel(set=name)) for end in ENDS)
    return with_interval(value, low, high, f"+.{digits}f")
