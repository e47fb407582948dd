"""Findings and tables of the list statistics, from their saved results alone."""

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.datasets.topics import RUNS_OUT
from mechlist.experiment import Claim
from mechlist.experiments.list_statistics.statistics import CAPACITIES, OUTCOMES
from mechlist.metrics.by_topic import ENDS, FEWEST
from mechlist.text import NO_ADJECTIVE, between, joined, lists_named, number_of, with_interval


def condition_names(results: xr.Dataset) -> list[str]:
    """Labels of adjectives with temperatures; the adjective alone where there is one temperature."""
    adjectives, temperatures = (results[f"condition_{name}"].values for name in ("adjective", "temperature"))
    if len(pd.unique(temperatures)) < 2:
        return adjectives.tolist()
    return [f"{a}, {temperature_name(t)}" for a, t in zip(adjectives, temperatures, strict=True)]


def temperature_name(temperature: float) -> str:
    """T = 0.7."""
    return "T unknown" if np.isnan(temperature) else f"T = {temperature:g}"


def findings(results: xr.Dataset) -> list[str]:
    """What the results say, with intervals over topics."""
    out = [_data(results)]
    if results.sizes["item_tokens"]:
        out.append(_tokens(results))
    for adjective in results["by_adjective"].values.tolist():
        part = results.sel(by_adjective=adjective)
        out.append(_length(part, adjective))
        out += _by_topic(part, adjective)
        if part["filler_lists_among"].sel(place="on any item") > 0:
            out.append(_fillers(part, adjective))
    out += [trend_sentence(results, outcome) for outcome in OUTCOMES] if _has_trend(results) else [_no_trend(results)]
    return out


def claims(results: xr.Dataset) -> list[Claim]:
    """Medians of the number of items, of the adjectives that have one."""
    told = []
    for adjective in results["by_adjective"].values.tolist():
        part = results.sel(by_adjective=adjective)
        median, (low, high) = float(part["median_items"]), _ends(part, "median_items")
        if np.isfinite(median):
            ends = f" [{low:.0f}, {high:.0f}]" if low < high < np.inf else ""
            told.append(f"{lists_named(adjective)} have a median of {number_of(round(median), 'items')}{ends}")
    if told:
        text = joined(told)
        return [Claim(f"{text[0].upper()}{text[1:]}.", "survival")]
    ended, lists = int(results["n_lists_ended"].sum()), int(results["n_lists"].sum())
    return [Claim(f"{ended} of {number_of(lists, 'lists')} ended, too few for a median of their length.", "survival")]


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Adjectives with temperatures, topics, survival and hazard by item, and every list."""
    return {
        "conditions": _conditions(results),
        "topics": _topics(results),
        "survival": _survival(results),
        "lists": _lists(results),
    }


def trend_sentence(results: xr.Dataset, outcome: str) -> str:
    """The trend of an outcome over the temperature, with its test; says so where there is none to test."""
    if not _has_trend(results):
        return _no_trend(results)
    trend = {name: float(results[f"trend_{name}"].sel(outcome=outcome)) for name in ("slope", "low", "high", "p_value")}
    units, strata = (int(results[f"trend_{name}"].sel(outcome=outcome)) for name in ("n_units", "n_strata"))
    change = with_interval(trend["slope"], trend["low"], trend["high"], "+.3f")
    p = f"{trend['p_value']:.2g}"
    if trend["p_value"] <= 1 / (1 + results.attrs["resamples"]):
        p += f", the least that {results.attrs['resamples']} permutations can give"
    return (
        f"The {outcome} changes by {change} for one unit of temperature within topic and adjective "
        f"({number_of(units, 'lists')} in {number_of(strata, 'groups')}). A permutation test of the hypothesis that "
        f"temperature does not matter within them gives p = {p}."
    )


def _has_trend(results: xr.Dataset) -> bool:
    return bool(np.isfinite(results["trend_slope"]).all())


def _no_trend(results: xr.Dataset) -> str:
    temperature = results["temperature"].values
    known, unknown = np.unique(temperature[np.isfinite(temperature)]), int(np.isnan(temperature).sum())
    if len(known) > 1:
        return "There is no trend over the temperature to test: no topic was sampled at several temperatures."
    here = f"are all at {temperature_name(known[0])}" if len(known) else "have no recorded temperature"
    if len(known) and unknown:
        here = f"are at {temperature_name(known[0])} or, {unknown} of them, at one that is not known"
    return f"There is no trend over the temperature to test: the lists {here}."


def _data(results: xr.Dataset) -> str:
    models = sorted(set(results["model"].values.tolist()))
    lists, items = results.sizes["list"], int(results["n_items"].sum())
    named = ", ".join(models[:4]) + (f" and {len(models) - 4} more" if len(models) > 4 else "")
    pooled = f"; all numbers pool the {len(models)} models" if len(models) > 1 else ""
    empty = int((results["n_items"] == 0).sum())
    without = f"; {number_of(empty, 'lists')} {'has' if empty == 1 else 'have'} no item" if empty else ""
    topics = len(set(results["topic"].values.tolist()))
    held = f"hold{'s' if lists == 1 else ''} {number_of(items, 'items')}"
    return f"{number_of(lists, 'lists')} of {named} on {number_of(topics, 'topics')} {held}{without}{pooled}."


def _tokens(results: xr.Dataset) -> str:
    counts = results["item_tokens_count"].sum("by_adjective")
    single, whole = int(counts.isel(item_tokens=0)), int(counts.sum())
    share = results["single_token_share"].dropna("by_topic")
    ends = [share.isel(by_topic=int(i)) for i in (share.values.argmin(), share.values.argmax())]
    named = [f"{float(end):.0%} ({end['by_topic'].item()})" for end in ends]
    spread = f"; from {named[0]} to {named[1]} by topic" if float(ends[0]) < float(ends[1]) else ""
    what = "complete item is a single token" if whole == 1 else "complete items are a single token"
    return f"{single} of {whole} {what} ({single / whole:.1%}){spread}."


def _length(part: xr.Dataset, adjective: str) -> str:
    lists, ended = int(part["n_lists"]), int(part["n_lists_ended"])
    median = float(part["median_items"])
    start = f"{_named(adjective)}: {ended} of {number_of(lists, 'lists')} ended"
    mean = f", with {float(_of(part, adjective)['n_items'].mean()):.2f} items on average"
    if ended < lists:
        left = lists - ended
        mean = (
            f"; {number_of(left, 'lists')} {'was' if left == 1 else 'were'} cut off, so that a mean would be too small"
        )
    if not np.isfinite(median):
        return f"{start}{mean}, and too few ended for a median."
    low, high = _ends(part, "median_items")
    interval = f" [{low:.0f}, {'not reached' if np.isinf(high) else f'{high:.0f}'}]" if low < high else ""
    length = f"{number_of(round(median), 'items')}{interval} (Kaplan-Meier)"
    return f"{start}{mean}; the median length is {length}.{_peak(part)}"


def _by_topic(part: xr.Dataset, adjective: str) -> list[str]:
    """How unlike topics are, by name, and lists of topics that run out apart from the others."""
    small, roomy = CAPACITIES
    median = part["topic_median_items"].where(part["topic_capacity"] > RUNS_OUT)
    told = median.isel(by_topic=np.flatnonzero(np.isfinite(median.values)))
    out = []
    if told.sizes["by_topic"] > 1:
        ends = [told.isel(by_topic=int(i)) for i in (told.values.argmin(), told.values.argmax())]
        named = [f"{number_of(float(end), 'items')} ({end['by_topic'].item()})" for end in ends]
        p = float(part["topics_p_value"])
        test = (
            ""
            if np.isnan(p)
            else f"; a test of one survival for all of them, lists exchanged between topics, gives p = {p:.2g}"
        )
        out.append(
            f"{_named(adjective)}, topics of {roomy}: of {told.sizes['by_topic']} with a median, medians go from "
            f"{named[0]} to {named[1]}{test}."
        )
    if int(part["capacity_n_lists"].min()) > 1 and np.isfinite(part["capacity_median_items"].sel(by_capacity=small)):
        one, other = (part.sel(by_capacity=kind) for kind in CAPACITIES)
        names = [
            f"{topic} {int(items)}"
            for topic, items in zip(part["by_topic"].values.tolist(), part["topic_capacity"].values, strict=True)
            if items <= RUNS_OUT
        ]
        out.append(
            f"{_named(adjective)}, topics of {small} ({joined(names)}): {int(one['capacity_n_run_out'])} of "
            f"{number_of(int(one['capacity_n_lists']), 'lists')} end with all there is, {_of_capacity(one)}; topics of "
            f"{roomy}, {_of_capacity(other)}."
        )
    return out


def _of_capacity(part: xr.Dataset) -> str:
    median, (low, high) = float(part["capacity_median_items"]), _ends(part, "capacity_median_items")
    if not np.isfinite(median):
        return "too few ended for a median"
    end = "not reached" if np.isinf(high) else f"{high:.0f}"
    return f"median {median:.0f}" + (f" [{low:.0f}, {end}]" if low < high else "")


def _peak(part: xr.Dataset) -> str:
    """Where the hazard is highest, among items that enough lists got to.

    At the last of these it is no peak: behind it the hazard may go on to rise.
    """
    enough = part["at_risk"] >= max(FEWEST, 0.1 * float(part["at_risk"].max()))
    hazard = part["hazard"].where(enough).dropna("item")
    if not hazard.size:
        return ""
    peak = hazard.isel(item=int(hazard.values.argmax()))
    if int(peak["item"]) == int(hazard["item"][-1]):
        return (
            f" The share of lists that end, of those that get there, is highest after "
            f"{number_of(int(peak['item']), 'items')} ({float(peak):.0%}), the last that enough lists get to: no peak "
            "is seen."
        )
    return (
        f" An ending is most likely after {number_of(int(peak['item']), 'items')}: {float(peak):.0%} of the lists that "
        "get there end there."
    )


def _fillers(part: xr.Dataset, adjective: str) -> str:
    among = part["filler_lists_among"]
    words: list[str] = []
    for place in among["place"].values.tolist():
        if int(among.sel(place=place)):
            here = part.sel(place=place)
            words.append(
                f"{int(here['filler_lists'])} of {int(here['filler_lists_among'])} {place}"
                + between(*_ends(here, "filler_lists_share"), ".0%")
            )
    share = with_interval(float(part["mean_filler_share"]), *_ends(part, "mean_filler_share"), ".1%")
    return (
        f"{_named(adjective)}: lists with a filler: {', '.join(words)}; on average {share} of a list's items have one."
    )


def _ends(part: xr.Dataset, name: str) -> tuple[float, float]:
    """Of the interval of a variable."""
    return float(part[f"{name}_low"]), float(part[f"{name}_high"])


def _of(results: xr.Dataset, adjective: str) -> xr.Dataset:
    return results.isel(list=np.flatnonzero(results["adjective"].values == adjective))


def _named(adjective: str) -> str:
    return "No adjective" if adjective == NO_ADJECTIVE else adjective.capitalize()


def _conditions(results: xr.Dataset) -> pd.DataFrame:
    names = {
        "adjective": "condition_adjective",
        "temperature": "condition_temperature",
        "lists": "condition_n_lists",
        "ended": "condition_n_lists_ended",
    }
    frame = pd.DataFrame({column: results[name].values for column, name in names.items()})
    for stem in ("median_items", "mean_items"):
        for end in ENDS:
            frame[f"{stem}{end}"] = results[f"condition_{stem}{end}"].values
    for outcome, column in zip(OUTCOMES, ("filler_share", "lists_with_filler"), strict=True):
        for end in ENDS:
            frame[f"{column}{end}"] = results[f"condition_filler{end}"].sel(outcome=outcome).values
    return frame


def _topics(results: xr.Dataset) -> pd.DataFrame:
    """A row a topic and adjective."""
    lists = results[["n_items", "n_whole_items", "n_single_token_items", "n_filler", "ended"]].to_dataframe()
    lists["topic"], lists["adjective"] = results["topic"].values, results["adjective"].values
    grouped = lists.groupby(["topic", "adjective"], sort=False)
    frame = grouped.agg(
        lists=("n_items", "size"), ended=("ended", "sum"), items=("n_items", "sum"), mean_items=("n_items", "mean"),
        single_token_items=("n_single_token_items", "sum"), fillers=("n_filler", "sum"),
    ).reset_index()  # fmt: skip
    capacity = dict(zip(results["by_topic"].values.tolist(), results["topic_capacity"].values.tolist(), strict=True))
    frame.insert(2, "capacity", [capacity[topic] for topic in frame["topic"]])
    medians = results[["topic_median_items", "topic_median_items_low", "topic_median_items_high"]].to_dataframe()
    medians.columns = medians.columns.str.removeprefix("topic_")
    return frame.merge(medians, left_on=["topic", "adjective"], right_on=["by_topic", "by_adjective"], how="left")


def _survival(results: xr.Dataset) -> pd.DataFrame:
    names = ["at_risk", "ended_after", "hazard", "hazard_low", "hazard_high"]
    names += ["survival", "survival_low", "survival_high"]
    frame = results[names].to_dataframe(dim_order=["by_adjective", "item"]).reset_index()
    frame = frame.rename(columns={"by_adjective": "adjective"})
    return frame.loc[frame["at_risk"] > 0].reset_index(drop=True)


def _lists(results: xr.Dataset) -> pd.DataFrame:
    names = [str(name) for name, variable in results.variables.items() if variable.dims == ("list",)]
    frame = pd.DataFrame({name: results[name].values for name in names})
    first = ["topic", "adjective", "temperature", "number", "n_items", "ended"]
    return frame.reindex(columns=first + [name for name in names if name not in first])
