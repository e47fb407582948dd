"""Figures of how long lists are: numbers of items, survival and hazard."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.datasets.lists.conditions import conditions, membership
from mechlist.experiments.list_statistics.findings import condition_names, temperature_name
from mechlist.figures.notes import NOT_FEW, OVER_LISTS, OVER_TOPICS, counted, ends
from mechlist.metrics.by_topic import well_founded
from mechlist.text import NO_ADJECTIVE

ADJECTIVES = {"by_adjective": "series"}


def items_by_topic(results: xr.Dataset) -> dict[str, go.Figure]:
    """One figure an adjective, a row a topic."""
    adjectives = [str(name) for name in results["by_adjective"].values]
    out: dict[str, go.Figure] = {}
    for adjective in adjectives:
        part = results.sel(by_adjective=adjective)
        part = part.sel(by_topic=part["topic_n_lists"] > 0)
        chosen = results["adjective"].values == adjective
        topics = part["by_topic"].values
        rows = results["topic"].values[chosen][:, None] == topics
        several = len(adjectives) > 1
        out[f"items-by-topic-{adjective}" if several else "items-by-topic"] = _bubbles(
            _counts(results.isel(list=chosen), rows, topics.tolist()),
            part,
            "topic_median_items",
            "by_topic",
            title="Number of items by topic" + (f", {_adjective_words(adjective)}" if several else ""),
            interval=OVER_LISTS,
        )
    return out


def items(results: xr.Dataset) -> go.Figure:
    """A row an adjective and temperature."""
    names = condition_names(results)
    found = conditions(results["adjective"].values.tolist(), results["temperature"].values)
    rows = membership([one.rows for one in found], results.sizes["list"])
    several = len({*results["condition_adjective"].values}) < len(names)
    return _bubbles(
        _counts(results, rows, names),
        results,
        "condition_median_items",
        "condition",
        title="Number of items by adjective" + (" and temperature" if several else ""),
        interval=OVER_TOPICS,
    )


def _counts(results: xr.Dataset, rows: np.ndarray, names: list[str]) -> xr.DataArray:
    """Lists by row, by whether they ended, and by number of items."""
    ended, number = results["ended"].values, results["n_items"].values
    counts = np.zeros((len(names), 2, int(number.max()) + 1))
    for row, chosen in enumerate(rows.T):
        for series, kind in enumerate((ended, ~ended)):
            counts[row, series] = np.bincount(number[chosen & kind], minlength=counts.shape[2])
    coords = {"category": names, "series": ["ended", "cut off"], "x": np.arange(counts.shape[2])}
    return xr.DataArray(counts, dims=("category", "series", "x"), coords=coords)


def _bubbles(counts: xr.DataArray, results: xr.Dataset, name: str, dim: str, *, title: str, interval: str) -> go.Figure:
    return draw.bubble_rows(
        counts,
        title=title,
        caption="A bubble's area is a number of lists; lists that were cut off would have become longer. "
        f"Medians are Kaplan-Meier estimates with {interval}.",
        x_title="items of the list",
        unit="lists",
        median=results[name].rename({dim: "category"}),
        **ends(results, name, **{dim: "category"}),
    )


def survival(results: xr.Dataset) -> go.Figure:
    """One curve an adjective."""
    return _curves(results, "", "by_adjective", results["by_adjective"].values.tolist(), "Survival of lists")


def survival_by_temperature(results: xr.Dataset) -> dict[str, go.Figure]:
    """One figure an adjective that was sampled at several temperatures."""
    out: dict[str, go.Figure] = {}
    for adjective in results["by_adjective"].values.tolist():
        part = results.isel(condition=np.flatnonzero(results["condition_adjective"].values == adjective))
        if part.sizes["condition"] > 1:
            names = [temperature_name(t) for t in part["condition_temperature"].values]
            title = f"Survival by temperature, {_adjective_words(adjective)}"
            out[f"survival-by-temperature-{adjective}"] = _curves(part, "condition_", "condition", names, title)
    return out


def _curves(results: xr.Dataset, stem: str, dim: str, names: list[str], title: str) -> go.Figure:
    renamed = {dim: "series", "item": "x"}
    return draw.interval_lines(
        results[f"{stem}survival"].where(results[f"{stem}at_risk"] > 0).rename(renamed).assign_coords(series=names),
        **ends(results, f"{stem}survival", **renamed),
        title=title,
        caption="Share of lists that go on beyond an item (Kaplan-Meier: lists that were cut off count until then); "
        f"{OVER_TOPICS}.",
        x_title="items written",
        y_title="share of lists that go on",
        shape="step",
        note=counted(results[f"{stem}at_risk"].rename(renamed), "lists"),
    )


def hazard(results: xr.Dataset) -> go.Figure:
    """One curve an adjective."""
    names = {**ADJECTIVES, "item": "x"}
    shown = well_founded(results[["hazard", "hazard_low", "hazard_high", "at_risk"]], "at_risk", "item")
    return draw.interval_lines(
        shown["hazard"].rename(names),
        **ends(shown, "hazard", **names),
        title="Hazard: how likely a list ends after an item, if it got there",
        caption=f"Peaks are favoured lengths; {OVER_TOPICS}; {NOT_FEW}.",
        x_title="items written",
        y_title="probability of ending now",
        note=counted(shown["at_risk"].rename(names), "lists"),
    )


def _adjective_words(adjective: str) -> str:
    return "no adjective" if adjective == NO_ADJECTIVE else f'"{adjective}"'
