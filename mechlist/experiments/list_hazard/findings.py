"""Findings and tables of `list-hazard`, from its saved results alone."""

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiment import Claim
from mechlist.experiments.list_hazard.figures import opposed, set_words
from mechlist.experiments.list_hazard.heads import CHOSEN, CLEAN
from mechlist.metrics.by_topic import ENDS
from mechlist.metrics.margin import rank_p
from mechlist.text import ALL_LISTS, joined, lists_named, number_of, with_interval


def findings(results: xr.Dataset) -> list[str]:
    """What the results say, with intervals over topics."""
    out = [_data(results)]
    for i in range(results.sizes["condition"]):
        part = results.isel(condition=i)
        out.append(_lengths(part))
        out += _rule_effect(part)
        if np.isfinite(part["variation_from_truth"]):
            out.append(_truth(part))
    out.append(_without_break(results))
    if "set" in results.dims:
        out += [_read(results, adjective) for adjective in results["by_adjective"].values.tolist()]
        out += _written(results)
    return out


def claims(results: xr.Dataset) -> list[Claim]:
    """What lists do without the heads; else the medians that the model's own probabilities imply."""
    if "set" in results.dims:
        told = [
            f"{lists_named(of)} change by {_value(results.sel(set=CHOSEN, of_lists=of), 'items_change', '+.1f')} items"
            for of in results["of_lists"].values.tolist()
            if of != ALL_LISTS
        ]
        start = f"With {set_words(results, CHOSEN)} changed ({results.attrs['intervention']})"
        return [Claim(f"{start}, {joined(told)}.", "items-with-heads")]
    told, first = [], ""
    for i in range(results.sizes["condition"]):
        part = results.isel(condition=i)
        if np.isfinite(part["median_items"].sel(rule="model")):
            named = (
                _named(part)
                if not results.attrs["own_written"]
                else lists_named(str(part["condition_adjective"].values))
            )
            told.append(f"{named[0].lower()}{named[1:]} have {_median(part.sel(rule='model'))}")
            first = first or f"hazard-{part['condition_adjective'].values}"
    where = " at T = 1 without nucleus" if results.attrs["own_written"] else ""
    return [Claim(f"By the model's own probabilities{where}, {joined(told)}.", first)] if told else []


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Conditions, hazards by item, every list, and with heads changed the paired differences."""
    names = ["hazard", "hazard_low", "hazard_high", "survival", "length", "lists_at"]
    hazard = results[names].to_dataframe(dim_order=["condition", "rule", "item"]).reset_index()
    hazard = hazard.rename(columns={"condition_adjective": "adjective", "condition_temperature": "temperature"})
    keep = ["adjective", "temperature", "rule", "item", *names]
    out = {
        "conditions": _conditions(results),
        "hazard": hazard.loc[hazard["hazard"].notna(), keep].reset_index(drop=True),
        "lists": _lists(results),
    }
    if "set" in results.dims:
        out["heads"] = _heads(results)
    return out


def _data(results: xr.Dataset) -> str:
    lists, ended = number_of(results.sizes["list"], "lists"), int(results["ended"].sum())
    topics = number_of(len(set(results["topic"].values.tolist())), "topics")
    unknown = results.attrs["unknown_rules"]
    drawn = f"; of {unknown} it is not known at which temperature they were drawn" if unknown else ""
    return (
        f"{results.attrs['model']} read {lists} of {topics} ({ended} ended, the others were cut off and "
        f"count until then){drawn}."
    )


def _named(part: xr.Dataset) -> str:
    temperature = float(part["condition_temperature"])
    at = "" if np.isnan(temperature) else f" at T = {temperature:g}"
    return f"{lists_named(str(part['condition_adjective'].values)).capitalize()}{at}"


def _lengths(part: xr.Dataset) -> str:
    if not part["hazard"].notnull().any():
        return f"{_named(part)}: no list was seen to the end of an item."
    rule = "as drawn" if np.isfinite(part["variation_from_sampled"]) else "model"
    one = part.sel(rule=rule)
    said = "by the rules that they were drawn with" if rule == "as drawn" else "by the model itself"
    start = (
        f"{_named(part)}: the probability of ending {said} implies {_median(one)}; the lists themselves have "
        f"{_median(part.sel(rule='sampled'))} (Kaplan-Meier)"
    )
    if rule == "model":
        return f"{start}."
    variation, noise = float(part["variation_from_sampled"]), float(part["sampling_noise"])
    verdict = "no more than" if variation <= noise else "more than"
    return (
        f"{start}. Total variation between the two distributions of lengths is {variation:.3f}, {verdict} what "
        f"sampling alone gives (95 % of samples of this size stay below {noise:.3f})."
    )


def _median(one: xr.Dataset) -> str:
    value, low, high = (float(one[f"median_items{end}"]) for end in ENDS)
    if not np.isfinite(value):
        return "a median that no list tells (more than half go on)"
    ends = f" [{low:.0f}, {'not reached' if np.isinf(high) else f'{high:.0f}'}]" if low < high else ""
    return f"a median of {value:.0f} items{ends}"


def _rule_effect(part: xr.Dataset) -> list[str]:
    """What the rule of drawing does to the model's lists, and to the process's; nothing where it is not told apart."""
    if not part.attrs["own_written"] or not np.isfinite(part["rule_effect_items"]):
        return []

    def change(one: str, other: str) -> str:
        return f"from {_median(part.sel(rule=one))} to {_median(part.sel(rule=other))}"

    said = f"the model's lists {change('model', 'as drawn')} ({_value(part, 'rule_effect_items', '+.0f')})"
    if np.isfinite(part["rule_effect_items_truth"]):
        more = f"{float(part['rule_effect_items_truth']):+.0f}"
        said += f", and those of the process in closed form {change('truth', 'truth as drawn')} ({more})"
    return [f"{_named(part)}: the rule of drawing alone, against T = 1 without nucleus, takes {said}."]


def _truth(part: xr.Dataset) -> str:
    own = " at T = 1 without nucleus" if part.attrs["own_written"] else ""
    told = []
    if np.isfinite(part["model_error_items"]):
        told.append(
            f"the model's median{own} is {_value(part, 'model_error_items', '+.0f')} items from that of the process"
        )
    if own and np.isfinite(part["model_error_items_as_drawn"]):
        told.append(
            f"by the rule of drawing {_value(part, 'model_error_items_as_drawn', '+.0f')} from the process drawn so"
        )
    variation = float(part["variation_from_truth"])
    told.append(f"total variation between the lengths that both hazards{own} imply is {variation:.3f}")
    return (
        f"{_named(part)}, against the known process in closed form: {'; '.join(told)}. At a line break the model's "
        f"probability of the end is off by {_value(part, 'signed_error_at_break', '+.3f')} on average, and by "
        f"{_value(part, 'error_at_break', '.3f')} in size, from what the process has with that item and filler."
    )


def _without_break(results: xr.Dataset) -> str:
    inside = results["end_inside"].values
    told = inside[np.isfinite(inside)]
    if not len(told):
        return "No list has an item that was seen to its end."
    return (
        f"Without a line break the model ends a list with a probability of {told.mean():.2g} an item on average "
        f"({told.max():.2g} at most): it {'ends lists at line breaks' if told.mean() < 0.01 else 'does that, too'}."
    )


def _read(results: xr.Dataset, adjective: str) -> str:
    part = results.sel(by_adjective=adjective)
    controls = [name for name in part["set"].values.tolist() if name not in (CLEAN, CHOSEN)]
    before, after = (float(part["mean_items_read"].sel(set=name)) for name in (CLEAN, CHOSEN))
    change = _value(part.sel(set=CHOSEN), "changed_mean_items", "+.2f")
    against = f" (controls {', '.join(_value(part.sel(set=c), 'changed_mean_items', '+.2f') for c in controls)})"
    return (
        f"{lists_named(adjective).capitalize()} written with {set_words(results, CHOSEN)} changed "
        f"({results.attrs['intervention']}), read with the same change by the rule that they were drawn with: "
        f"{after:.2f} items are expected, and {before:.2f} as it is, a change of {change}{against if controls else ''}."
    )


def _written(results: xr.Dataset) -> list[str]:
    clean, chosen = (results.sel(set=name) for name in (CLEAN, CHOSEN))
    cut = [int((~part["written_ended"]).sum()) for part in (clean, chosen)]
    out = []
    apart = opposed(results)
    for of in results["of_lists"].values.tolist():
        if of == ALL_LISTS and apart:
            out.append(_contrast(results, *apart))
            continue
        part = results.sel(of_lists=of)
        rows = np.full(results.sizes["written"], True) if of == ALL_LISTS else results["written_adjective"].values == of
        before, after = (float(p["written_items"].values[rows].mean()) for p in (clean, chosen))
        out.append(
            f"{lists_named(of).capitalize()}, written again with the same random numbers: {before:.2f} items as it is, "
            f"{after:.2f} with {set_words(results, CHOSEN)} changed, "
            f"{_value(part.sel(set=CHOSEN), 'items_change', '+.2f')} a list{_among_controls(part)}."
        )
    total = results.sizes["written"]
    out.append(
        f"Of these {total} lists {cut[0]} were cut off at {results.attrs['max_new_tokens']} tokens as it is and "
        f"{cut[1]} with the heads changed; they count with the items that they have, so that a change towards longer "
        "lists is understated where lists were cut off."
    )
    return out


def _among_controls(part: xr.Dataset) -> str:
    """The change by its rank among those of the controls; their mean would hide controls of opposite sign."""
    controls = [name for name in part["set"].values.tolist() if name not in (CLEAN, CHOSEN)]
    if not controls:
        return ""
    change = part["items_change"].sel(set=controls).values
    p = rank_p(float(part["items_change"].sel(set=CHOSEN)), change)
    values = ", ".join(f"{value:+.2f}" for value in change.tolist())
    least = 1 / (1 + len(controls))
    said = "" if least <= 0.05 else f", and {number_of(len(controls), 'controls')} cannot give less than {least:.2f}"
    return f"; controls {values}: by rank among them p = {p:.2f}{said}"


def _contrast(results: xr.Dataset, one: str, other: str) -> str:
    before, after = (float(results["items_gap"].sel(set=name)) for name in (CLEAN, CHOSEN))
    change = _value(results.sel(set=CHOSEN), "items_gap_change", "+.1f")
    controls = [name for name in results["set"].values.tolist() if name not in (CLEAN, CHOSEN)]
    others = ", ".join(_value(results.sel(set=name), "items_gap_change", "+.1f") for name in controls)
    return (
        f"The two change in opposite directions, and are not pooled: {lists_named(other)} have {before:.1f} items more "
        f"than {lists_named(one)} as it is, and {after:.1f} with {set_words(results, CHOSEN)} changed: "
        f"{change}{f' (controls {others})' if others else ''}."
    )


def _value(part: xr.Dataset, name: str, form: str) -> str:
    """A value with its interval in brackets, where there is one."""
    value, low, high = (float(part[f"{name}{end}"]) for end in ENDS)
    return with_interval(value, low, high, form)


def _conditions(results: xr.Dataset) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "adjective": results["condition_adjective"].values,
            "temperature": results["condition_temperature"].values,
            "lists": results["n_lists"].values,
            "ended": results["n_lists_ended"].values,
        }
    )
    for rule in results["rule"].values.tolist():
        for name in ("median_items", "mean_items"):
            frame[f"{name} ({rule})"] = results[name].sel(rule=rule).values
    names = (
        *("variation_from_sampled", "sampling_noise", "variation_from_truth", "error_at_break"),
        *("signed_error_at_break", "model_error_items", "model_error_items_as_drawn"),
        *("rule_effect_items", "rule_effect_items_truth"),
    )
    return frame.assign(**{name: results[name].values for name in names})


def _lists(results: xr.Dataset) -> pd.DataFrame:
    names = ["topic", "adjective", "temperature", "n_items", "ended", "time"]
    return pd.DataFrame({name: results[name].values for name in names})


def _heads(results: xr.Dataset) -> pd.DataFrame:
    rows = []
    for name in results["set"].values.tolist():
        for of in results["of_lists"].values.tolist():
            part = results.sel(set=name, of_lists=of)
            row = {"set": name, "heads": ", ".join(results.attrs["sets"].get(name, [])), "lists": of}
            rows.append(
                row | {end: float(part[end]) for end in ("items_change", "items_change_low", "items_change_high")}
            )
    return pd.DataFrame(rows)
