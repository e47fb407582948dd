"""Figures, tables and findings of `list-factors`, from its saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiment import Claim
from mechlist.experiments.list_factors.regression import TERMS
from mechlist.experiments.list_factors.statistics import AGAIN, ALL_EARLIER, BEYOND, ENDS, MANY, ONE, WITHIN
from mechlist.figures.notes import OVER_TOPICS, beside_truth, counted, ends
from mechlist.metrics.margin import verdict
from mechlist.text import joined, lists_named, number_of, with_interval

NAMES = {
    "item": "a line more",
    "filler": "a filler on the last item",
    "earlier_filler": "a filler more on an earlier item",
    "tokens": "a token more at equal lines",
    "repeat": "an item more that stood before",
}
_MATCHED = {
    ALL_EARLIER: "fillers on all earlier items",
    MANY: "items of many tokens in place of few",
    AGAIN: "the first item once more as the last",
    ONE: "one item in every line",
}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Coefficients of A, A by number of items, and with other items in as many lines."""
    out = {"coefficients": _coefficients(results)}
    for filler in results["last_filler"].values.tolist():
        out[f"curve-{filler}-filler"] = _curve(results, filler)
    for adjective in results["adjective"].values.tolist():
        out[f"items-{adjective}"] = _kinds(results, adjective)
    return out


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Coefficients with what they say, contrasts, curves, and every text of the design."""
    stems = ("coefficient", "coefficient_item")
    names = [f"{stem}{end}" for stem in stems for end in (*ENDS, "_smallest_seen")] + ["truth", "truth_item"]
    terms = results[names].to_dataframe(dim_order=["adjective", "term"]).reset_index()
    margin = margin_of(results)
    pairs = zip(terms["coefficient_low"], terms["coefficient_high"], strict=True)
    terms["verdict"] = [verdict(low, high, margin) for low, high in pairs]
    changes = results[[f"change{end}" for end in (*ENDS, "_truth")]]
    curve = results[[f"A{end}" for end in (*ENDS, "_truth", "_topics")]]
    design = results[[name for name in results.data_vars if str(name).startswith("text_")]].to_dataframe()
    return {
        "coefficients": terms,
        "contrasts": changes.to_dataframe(dim_order=["adjective", "contrast"]).reset_index(),
        "curves": curve.to_dataframe(dim_order=["adjective", "last_filler", "items"]).reset_index(),
        "design": design.rename(columns=lambda name: name.removeprefix("text_")).reset_index(drop=True),
    }


def gap_of(results: xr.Dataset) -> float:
    """Logits of A between the adjectives whose texts, otherwise the same, have the highest and the lowest mean."""
    return float(results["mean_A"].max() - results["mean_A"].min())


def margin_of(results: xr.Dataset) -> float:
    """Logits of A beyond which an effect matters; 0 with one adjective."""
    return results.attrs["margin"] * gap_of(results)


def findings(results: xr.Dataset) -> list[str]:
    """What the results say, with intervals over topics."""
    out = [_data(results)]
    for adjective in results["adjective"].values.tolist():
        part = results.sel(adjective=adjective)
        out += [_effects(part, adjective), _verdicts(results, part, adjective), _same_lines(part, adjective)]
        out.append(_slopes(results, part, adjective))
        if results.attrs["truth_known"]:
            out += _against_truth(results, part, adjective)
    out.append(_at_item(results))
    return [sentence for sentence in out if sentence]


def claims(results: xr.Dataset) -> list[Claim]:
    """The effects beyond the margin after every adjective."""
    values, low, high = (results[f"coefficient{end}"] for end in ENDS)
    margin, told = margin_of(results), []
    for term in _there(results.isel(adjective=0)):
        pairs = zip(low.sel(term=term).values.tolist(), high.sel(term=term).values.tolist(), strict=True)
        if all(verdict(*pair, margin) == "matters" for pair in pairs):
            least, most = float(values.sel(term=term).min()), float(values.sel(term=term).max())
            spread = f"{least:+.2f}" if least == most else f"{least:+.2f} to {most:+.2f}"
            told.append(f"{NAMES[term]} ({spread} logits)")
    said = f"A is moved by {joined(told)}" if told else "Nothing that was varied moves A after every adjective"
    return [Claim(f"{said}, beyond a margin of {margin:.2f}.", "coefficients")]


def _data(results: xr.Dataset) -> str:
    attrs, names = results.attrs, results["adjective"].values.tolist()
    left = [f"{topic} ({number_of(count, 'items')})" for topic, count in attrs["left_out"].items()]
    out = (
        f"{attrs['model']} read {results.sizes['text']:,} lists of {number_of(attrs['n_topics'], 'topics')}, each up "
        f"to a line break; coefficients are over {attrs['min_items']} to {attrs['max_items']} items, in logits of A "
        "(end of turn minus hyphen)."
    )
    if left:
        out += f" Left out for want of items: {joined(left)}."
    if len(names) > 1:
        out += (
            f" The same texts differ by up to {gap_of(results):.2f} logits between adjectives; an effect matters here "
            f"where its interval lies beyond {attrs['margin']:.0%} of that, {margin_of(results):.3f} logits."
        )
    return out


def _effects(part: xr.Dataset, adjective: str) -> str:
    told = [f"{NAMES[term]} {_value(part.sel(term=term), 'coefficient')}" for term in _there(part)]
    return (
        f"{lists_named(adjective).capitalize()}: A changes by these logits: {'; '.join(told)}. Within topics they "
        f"explain {float(part['coefficient_r2']):.1%} of its variance."
    )


def _verdicts(results: xr.Dataset, part: xr.Dataset, adjective: str) -> str:
    by_verdict: dict[str, list[str]] = {"matters": [], "within the margin": [], "not known": []}
    for term in _there(part):
        one = part.sel(term=term)
        low, high = float(one["coefficient_low"]), float(one["coefficient_high"])
        by_verdict[verdict(low, high, margin_of(results))].append(NAMES[term])
    said = dict(zip(by_verdict, ("beyond the margin", "within it", "on either side, so not known"), strict=True))
    told = [f"{said[found]}: {joined(terms)}" for found, terms in by_verdict.items() if terms]
    least = part["coefficient_smallest_seen"].dropna("term")
    seen = ""
    if least.size:
        low, high = float(least.min()), float(least.max())
        seen = f" Effects of {low:.3f} to {high:.3f} logits, by factor, would have been told from 0 four times in five."
    return f"{lists_named(adjective).capitalize()}, one more of each: {'; '.join(told)}.{seen}"


def _same_lines(part: xr.Dataset, adjective: str) -> str:
    told = [
        f"{named} {_value(part.sel(contrast=name), 'change')}"
        for name, named in _MATCHED.items()
        if np.isfinite(part["change"].sel(contrast=name))
    ]
    return (
        f"{lists_named(adjective).capitalize()} of as many lines, matched pair by pair: {'; '.join(told)}."
        if told
        else ""
    )


def _slopes(results: xr.Dataset, part: xr.Dataset, adjective: str) -> str:
    within, beyond = (part.sel(contrast=name) for name in (WITHIN, BEYOND))
    if np.isnan(beyond["change"]):
        return ""
    most, last = results.attrs["max_items"], int(results["items"].max())
    order = "no other"
    if float(beyond["change_high"]) < float(within["change_low"]):
        order = "flatter"
    elif float(beyond["change_low"]) > float(within["change_high"]):
        order = "steeper"
    return (
        f"{lists_named(adjective).capitalize()} without fillers: a line adds {_value(within, 'change')} logits up to "
        f"{most} items and {_value(beyond, 'change')} from there to {last}"
        + (f"; the curve is {order} there." if order != "no other" else "; the intervals overlap.")
    )


def _against_truth(results: xr.Dataset, part: xr.Dataset, adjective: str) -> list[str]:
    """Where the model is not the process, and where it is; and fillers on earlier items, which the process ignores."""
    apart, alike = [], []
    for term in _there(part):
        one = part.sel(term=term)
        low, high, true = (float(one[name]) for name in ("coefficient_low", "coefficient_high", "truth"))
        if np.isnan(true) or np.isnan(low):
            continue
        margin = margin_of(results)
        if verdict(low - true, high - true, margin) != "matters":
            alike.append(NAMES[term])
            continue
        value = float(one["coefficient"])
        does = "does less" if abs(value) < abs(true) else "does more"
        does = "goes the other way" if value * true < 0 and abs(true) > margin else does
        apart.append(f"{NAMES[term]} {does} ({value:+.2f} against {true:+.2f})")
    out = []
    if apart:
        out.append(f"{lists_named(adjective).capitalize()}, against the process: {'; '.join(apart)}.")
    if alike:
        out.append(
            f"{lists_named(adjective).capitalize()}, against the process: no difference beyond the margin is shown for "
            f"{joined(alike)}."
        )
    filled = part.sel(contrast=ALL_EARLIER)
    if verdict(float(filled["change_low"]), float(filled["change_high"]), margin_of(results)) == "matters":
        out.append(
            f"{lists_named(adjective).capitalize()} with fillers on all earlier items: A is {_value(filled, 'change')} "
            f"logits away from that of lists without; by the process {float(filled['change_truth']):+.2f}."
        )
    return out


def _at_item(results: xr.Dataset) -> str:
    told = []
    for adjective in results["adjective"].values.tolist():
        part = results.sel(adjective=adjective)
        terms = [term for term in TERMS if np.isfinite(part["coefficient_item"].sel(term=term))]
        values = [f"{NAMES[term]} {_value(part.sel(term=term), 'coefficient_item')}" for term in terms]
        told.append(f"{lists_named(adjective)}: {', '.join(values)}")
    return f"B (blank minus line break) at the last token of the last item, in logits: {'; '.join(told)}."


def _there(part: xr.Dataset) -> list[str]:
    return [term for term in TERMS if np.isfinite(part["coefficient"].sel(term=term))]


def _value(part: xr.Dataset, name: str) -> str:
    value, low, high = (float(part[f"{name}{end}"]) for end in ENDS)
    return with_interval(value, low, high)


def _coefficients(results: xr.Dataset) -> go.Figure:
    shown = beside_truth(results, "coefficient", "truth").rename(term="x")
    shown = shown.assign_coords(x=[NAMES[term] for term in shown["x"].values.tolist()])
    return draw.interval_bars(
        shown["coefficient"],
        **ends(shown, "coefficient"),
        title="What each factor of a list does to A",
        caption="Logits of end of turn minus hyphen at the line break behind the last item, for one more of each "
        f"factor with all others held; {OVER_TOPICS}.",
        x_title="factor",
        y_title="change of A (logits)",
    )


def _curve(results: xr.Dataset, filler: str) -> go.Figure:
    chosen = results.sel(last_filler=filler, drop=True)
    shown = beside_truth(chosen, "A", "A_truth", also=["A_topics"]).rename(items="x")
    return draw.interval_lines(
        shown["A"],
        **ends(shown, "A"),
        title=f"A by number of items, {filler} a filler on the last",
        caption="Best-known items, no filler on earlier ones. Above 0 the end of the turn has the higher logit; "
        f"{OVER_TOPICS}.",
        x_title="items of the list",
        y_title="A: end of turn - hyphen (logits)",
        note=counted(shown["A_topics"], "topics"),
    )


def _kinds(results: xr.Dataset, adjective: str) -> go.Figure:
    chosen = results["A_kind"].sel(adjective=adjective, drop=True)
    curves = {str(kind): chosen.sel(kind=kind, drop=True) for kind in chosen["kind"].values}
    return draw.position_lines(
        {kind: curve.dropna("items") for kind, curve in curves.items() if np.isfinite(curve).any()},
        title=f"A by number of items, {lists_named(adjective)} with other items",
        caption="Means over topics; lists without fillers of the best-known items, of items of few or many tokens, "
        "with the first item once more as the last, and of one item in every line.",
        x_title="items of the list",
        y_title="A: end of turn - hyphen (logits)",
    )
