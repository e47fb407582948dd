"""Figures, tables and findings of `list-temperature`, from its saved results alone."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiment import Claim
from mechlist.figures.notes import NOT_FEW, OVER_TOPICS, counted, ends
from mechlist.metrics.by_topic import ENDS, FEWEST, enough
from mechlist.text import joined, lists_named, number_of, with_interval

MOST_ENDED = 0.5
"""Of the lists, so many ended at least, or their endings are the early ones and do not stand for all."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Logit difference by item; for each adjective what temperatures make of it; endings that are noise."""
    out = {"end-logit": _logit(results)}
    for adjective in results["by_adjective"].values.tolist():
        out[f"scaled-logit-{adjective}"] = _scaled(results, adjective)
        out[f"end-by-temperature-{adjective}"] = _probability(results, adjective)
    out["noise-endings"] = _expected(results)
    if np.isfinite(results["noise_endings"]).any():
        out["noise-endings-of-lists"] = _observed(results)
    return out


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """The end at line breaks by adjective, item and temperature, and endings by adjective and temperature."""
    means = results[[f"mean_end_at_break{end}" for end in ENDS]]
    frame = means.to_dataframe(dim_order=["by_adjective", "grid", "item"]).reset_index()
    frame = frame.loc[frame["mean_end_at_break"].notna()].rename(columns={"by_adjective": "adjective"})
    names = ["noise_endings", "noise_endings_low", "noise_endings_high", "n_noise", "n_ended", "noise_continuations"]
    conditions: dict[str, Any] = {
        "adjective": results["condition_adjective"].values,
        "temperature": results["condition_temperature"].values,
    }
    return {
        "items": frame.reset_index(drop=True),
        "endings": pd.DataFrame(conditions | {name: results[name].values for name in names}),
    }


def findings(results: xr.Dataset) -> list[str]:
    """What the results say, with intervals over topics."""
    lists, ended = results.sizes["list"], int(results["ended"].sum())
    out = [f"{results.attrs['model']}: {lists} lists, of which {ended} ended within their tokens."]
    for adjective in results["by_adjective"].values.tolist():
        out.append(_turn(results, adjective))
    for i in range(results.sizes["condition"]):
        part, (written, done) = results.isel(condition=i), _written(results, i)
        if done < MOST_ENDED * written:
            out.append(
                f"{_named(part)}: {done} of {number_of(written, 'lists')} ended before they were cut off; what share "
                "of all endings is sampling noise is not known."
            )
        elif done >= FEWEST:
            out.append(_observed_words(part))
    return out


def claims(results: xr.Dataset) -> list[Claim]:
    """What sampling noise makes of the endings of the first adjective whose lists ended."""
    for adjective in results["by_adjective"].values.tolist():
        part = results.sel(by_adjective=adjective)
        ended = results["ended"].values[results["adjective"].values == adjective]
        grid = part["grid"].values
        ends = [part.sel(grid=t) for t in dict.fromkeys((grid.min(), grid.max()))]
        if ended.mean() >= MOST_ENDED and all(np.isfinite(one["expected_noise_endings"]) for one in ends):
            told = [f"{_share(one, 'expected_noise_endings')} at T = {float(one['grid']):g}" for one in ends]
            text = f"Of the endings of {lists_named(adjective)}, sampling noise would make {joined(told)}."
            return [Claim(text, "noise-endings")]
    done, lists = int(results["ended"].sum()), results.sizes["list"]
    text = f"{done} of {number_of(lists, 'lists')} ended, too few to tell endings from sampling noise."
    return [Claim(text, "end-logit")]


def _written(results: xr.Dataset, condition: int) -> tuple[int, int]:
    """Lists of a condition, and those of them that ended."""
    part = results.isel(condition=condition)
    temperature, here = float(part["condition_temperature"]), results["temperature"].values
    same = np.isnan(here) if np.isnan(temperature) else here == temperature
    same = same & (results["adjective"].values == str(part["condition_adjective"].values))
    return int(same.sum()), int(part["n_ended"])


def _turn(results: xr.Dataset, adjective: str) -> str:
    """Where the end becomes the model's preference, and what noise does at the outer temperatures."""
    part = results.sel(by_adjective=adjective)
    above = np.flatnonzero((part["mean_end_logit"] > 0) & enough(part["lists_at"], "item"))
    turn = (
        f"on average the end overtakes the hyphen after {number_of(int(part['item'].values[above[0]]), 'items')}"
        if len(above)
        else "on average the end does not overtake the hyphen within the items seen"
    )
    rows = results["adjective"].values == adjective
    if results["ended"].values[rows].mean() < MOST_ENDED:
        return (
            f"{lists_named(adjective).capitalize()}: {turn}; {int(results['ended'].values[rows].sum())} of "
            f"{number_of(int(rows.sum()), 'lists')} ended before they were cut off, so that what share of endings "
            "sampling noise would make is not known."
        )
    coldest, hottest = (part.sel(grid=t) for t in (part["grid"].values.min(), part["grid"].values.max()))
    shares = [
        f"{_share(one, 'expected_noise_endings')} of the endings at T = {float(one['grid']):g}"
        for one in ([coldest] if part.sizes["grid"] == 1 else [coldest, hottest])
    ]
    return (
        f"{lists_named(adjective).capitalize()}: {turn}; with top-p {results.attrs['nucleus']:g}, sampling noise would "
        f"make {' and '.join(shares)}."
    )


def _observed_words(part: xr.Dataset) -> str:
    went_on = part["noise_continuations"]
    rest = (
        f"; after {_share(part, 'noise_continuations')} of the line breaks where it was, a list went on"
        if went_on.notnull()
        else ""
    )
    return (
        f"{_named(part)}: "
        f"{int(part['n_noise'])} of {int(part['n_ended'])} endings ({_share(part, 'noise_endings')}) came where the "
        f"end of the turn was not the most probable token{rest}."
    )


def _named(part: xr.Dataset) -> str:
    temperature = float(part["condition_temperature"])
    at = "" if np.isnan(temperature) else f" at T = {temperature:g}"
    return f"{lists_named(str(part['condition_adjective'].values)).capitalize()} as they were written{at}"


def _share(part: xr.Dataset, name: str) -> str:
    value, low, high = (float(part[f"{name}{end}"]) for end in ENDS)
    if np.isnan(value):
        return "none"
    return with_interval(value, low, high, ".0%")


def _shown(part: xr.Dataset, name: str) -> xr.Dataset:
    """A mean by item with its interval, without points that stand on few lists."""
    return part[[f"{name}{end}" for end in ENDS]].where(enough(part["lists_at"], "item"))


def _logit(results: xr.Dataset) -> go.Figure:
    renamed = {"by_adjective": "series", "item": "x"}
    shown = _shown(results, "mean_end_logit")
    return draw.interval_lines(
        shown["mean_end_logit"].rename(renamed),
        **ends(shown, "mean_end_logit", **renamed),
        title="Direction A at line breaks: logit of end of turn minus hyphen",
        caption="Where a curve crosses zero, the model's preference turns from another item to the end; "
        f"{OVER_TOPICS}; {NOT_FEW}.",
        x_title="items written",
        y_title="logit difference",
        note=counted(results["lists_at"].rename(renamed), "lists"),
    )


def _scaled(results: xr.Dataset, adjective: str) -> go.Figure:
    part = results.sel(by_adjective=adjective)
    renamed = {"item": "x", "grid": "series"}
    shown = _shown(part, "mean_end_logit") / part["grid"]
    crosses = bool((shown["mean_end_logit"] > 0).any() and (shown["mean_end_logit"] < 0).any())
    said = "All curves cross zero after the same item" if crosses else "No curve crosses zero within the items seen"
    return draw.interval_lines(
        shown["mean_end_logit"].rename(renamed).assign_coords(series=_temperatures(results)),
        **ends(shown, "mean_end_logit", **renamed),
        title=f"Direction A divided by the temperature, {lists_named(adjective)}",
        caption=f"{said}: a temperature changes how firmly the model decides, and not what it prefers; {OVER_TOPICS}.",
        x_title="items written",
        y_title="logit difference / T",
    )


def _probability(results: xr.Dataset, adjective: str) -> go.Figure:
    renamed = {"item": "x", "grid": "series"}
    shown = _shown(results.sel(by_adjective=adjective), "mean_end_at_break")
    return draw.interval_lines(
        shown["mean_end_at_break"].rename(renamed).assign_coords(series=_temperatures(results)),
        **ends(shown, "mean_end_at_break", **renamed),
        title=f"Probability of the end at line breaks by temperature, {lists_named(adjective)}",
        caption=f"Under top-p {results.attrs['nucleus']:g}, along the same lists, by the temperature that "
        f"the logits are divided by; {OVER_TOPICS}.",
        x_title="items written",
        y_title="probability of the end",
    )


def _expected(results: xr.Dataset) -> go.Figure:
    renamed = {"by_adjective": "series", "grid": "x"}
    return draw.interval_lines(
        results["expected_noise_endings"].rename(renamed),
        **ends(results, "expected_noise_endings", **renamed),
        title="Share of endings that sampling noise makes, along the given lists",
        caption="An ending is noise where the end of turn is not the most probable token; top-p "
        f"{results.attrs['nucleus']:g}; {OVER_TOPICS}.",
        x_title="temperature",
        y_title="share of endings",
    )


def _observed(results: xr.Dataset) -> go.Figure:
    temperatures = results["condition_temperature"].values
    labels = [
        lists_named(a) + ("" if np.isnan(t) else f", T = {t:g}")
        for a, t in zip(results["condition_adjective"].values.tolist(), temperatures, strict=True)
    ]
    rows = results[[f"noise_endings{end}" for end in ENDS]].rename(condition="category")
    rows = rows.drop_vars(["condition_adjective", "condition_temperature"]).assign_coords(category=labels)
    return draw.interval_rows(
        rows["noise_endings"],
        **ends(rows, "noise_endings"),
        title="Share of the lists' own endings at which the end was not the model's first choice",
        caption=f"Lists as they were written, each at its own temperature; {OVER_TOPICS}.",
        x_title="share of endings",
        note=counted(results["n_ended"], "endings"),
    )


def _temperatures(results: xr.Dataset) -> list[str]:
    return [f"T = {temperature:g}" for temperature in results["grid"].values]
