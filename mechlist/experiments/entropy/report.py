"""Figures, tables and sentences of the entropy experiment, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.prompts import SWAP
from mechlist.experiment import Claim
from mechlist.experiments.effects import NOT_MATCHED, matched_words
from mechlist.experiments.entropy.moments import ENDS, QUANTITIES, RUNS
from mechlist.figures import interval_bars, interval_lines
from mechlist.figures.notes import (
    MATCHED,
    NOT_FEW,
    OVER_TOPICS,
    counted,
    items_from_last,
    matched_counts,
    matched_differences,
)
from mechlist.figures.row_maps import row_maps
from mechlist.metrics.by_topic import counted_from, well_founded
from mechlist.text import from_last, joined, lists_named, number_of, with_interval

_PARTS = ("mean", "low", "high", "lists")
_INTERVALS = f"{OVER_TOPICS}; {NOT_FEW}"


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Entropy by item from both ends, varentropy from the end, last items against others, and every list."""
    out = {}
    for place in results["place"].values.tolist():
        for end in ENDS:
            out[f"entropy-{_slug(place)}-from-{end}"] = _curves(results, "entropy", place, end)
        out[f"varentropy-{_slug(place)}"] = _curves(results, "varentropy", place, "end")
    if results["entropy_matched_lists"].any():
        out["entropy-matched"] = _matched(results)
    return out | {f"lists-{adjective}": _lists(results, adjective) for adjective in _adjectives(results)}


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """The mean curves and last items against others, with intervals; entropy and varentropy of every list and item."""
    curves = results[[f"{name}_{part}" for name in QUANTITIES for part in _PARTS]].to_dataframe().reset_index()
    parts = [f"{name}_matched_{part}" for name in QUANTITIES for part in (*_PARTS, "others")]
    matched = results[parts].to_dataframe().reset_index()
    single = results[list(QUANTITIES)].reset_coords(["topic", "adjective"]).drop_vars("n_items").to_dataframe()
    return {
        "curves": curves.query("entropy_lists > 0").reset_index(drop=True),
        "matched": matched.query("entropy_matched_lists > 0").reset_index(drop=True),
        "lists": single.reset_index().dropna(subset=["entropy"]).reset_index(drop=True),
    }


def findings(results: xr.Dataset) -> list[str]:
    """For each adjective: the last item, also against others, at both places; and what the swap changes."""
    out = [of(results, adjective) for adjective in _adjectives(results) for of in (_of_last, _of_matched)]
    return out + [_of_swap(results, adjective) for adjective in _adjectives(results) if adjective in SWAP]


def claims(results: xr.Dataset) -> list[Claim]:
    """Entropy at the place that decides about the end, of the first adjective's lists."""
    place = results["place"].values.tolist()[-1]
    for adjective in _adjectives(results):
        last = _named(results, "entropy_last").sel(by_adjective=adjective, place=place, run=RUNS[0])
        if int(last["lists"]):
            text = f"Entropy at the {place} of {lists_named(adjective)}: {_value(last, 'nats')} at the last item."
            return [Claim(text, f"entropy-{_slug(place)}-from-end")]
    return []


def _curves(results: xr.Dataset, name: str, place: str, end: str) -> go.Figure:
    at = results[[f"{name}_{part}" for part in _PARTS]].sel(place=place, end=end)
    means = at.rename({f"{name}_{part}": part for part in _PARTS})
    series = means.stack(series=("by_adjective", "run"), create_index=False)
    labels = [_label(*pair) for pair in zip(series["by_adjective"].values, series["run"].values, strict=True)]
    series = series.drop_vars(["by_adjective", "run"]).assign_coords(series=labels)
    series = well_founded(series.isel(series=series["lists"].any("item_index").values), "lists", "item_index")
    index = series["item_index"].values
    shown = (
        series.drop_vars("item_index").rename(item_index="x").assign_coords(x=index + 1 if end == "start" else index)
    )
    figure = interval_lines(
        shown["mean"],
        low=shown["low"],
        high=shown["high"],
        title=f"{name.capitalize()} at the {place}, by item from the {end}",
        caption=_curve_caption(name, place),
        x_title="item",
        y_title=f"{name} ({QUANTITIES[name]})",
        note=counted(shown["lists"], "lists"),
    )
    return figure if end == "start" else items_from_last(figure, len(index))


def _curve_caption(name: str, place: str) -> str:
    if name == "varentropy":
        return (
            "How much the surprisal of the next token varies about its mean: 0 where one token is certain or several "
            f"are equally likely and all others out of the question; {_INTERVALS}."
        )
    decided = "filler or line break is" if place == "last item token" else "to end or to go on is"
    return f"Mean over lists, as written and with the other adjective; {decided} decided here; {_INTERVALS}."


def _matched(results: xr.Dataset) -> go.Figure:
    found = matched_differences(_named(results, "entropy_matched", "others")).rename(place="x")
    return interval_bars(
        found["mean"],
        low=found["low"],
        high=found["high"],
        title="Entropy at last items less that at other items of equal number and filler",
        caption=f"Compared are {MATCHED}; what number and filler do to the entropy cancels; {OVER_TOPICS}.",
        x_title="where the next token is asked for",
        y_title="difference of entropy (nats)",
        note=matched_counts(found),
    )


def _lists(results: xr.Dataset, adjective: str) -> go.Figure:
    """Every list of an adjective, aligned at its last item: each place as written and, if it was, swapped."""
    chosen = results["entropy"].isel(list=np.flatnonzero(results["adjective"].values == adjective))
    behind = counted_from(chosen, "end")
    told = np.flatnonzero(behind.notnull().any(["list", "run", "place"]).values)
    behind = behind.isel(item_index=slice(told[-1] if len(told) else 0, None, -1))
    panels = behind.stack(name=("place", "run"), create_index=False)
    names = [f"{p}, {r}" for p, r in zip(panels["place"].values, panels["run"].values, strict=True)]
    panels = panels.drop_vars(["place", "run"]).assign_coords(name=names)
    panels = panels.isel(name=panels.notnull().any(["list", "item_index"]).values)
    values = panels.drop_vars("item_index").rename(list="row", item_index="column")
    return row_maps(
        values.assign_coords(column=[from_last(back) for back in behind["item_index"].values.tolist()]),
        chosen["topic"].values.tolist(),
        title=f"Entropy of each list, {lists_named(adjective)}",
        caption="One row a list, aligned at its last item; grey where a list has no such item.",
        unit="nats",
        row_title="list",
        column_title="item",
        columns=2 if adjective in SWAP else 1,
    )


def _of_last(results: xr.Dataset, adjective: str) -> str:
    """The last item by itself."""
    said = []
    for place in results["place"].values.tolist():
        last = _named(results, "entropy_last").sel(by_adjective=adjective, place=place, run=RUNS[0])
        if int(last["lists"]):
            said.append(f"{_value(last, 'nats')} at the {place}")
    lists = int((results["adjective"] == adjective).sum())
    what = f"{number_of(lists, 'lists')} ({lists_named(adjective)})"
    return f"Entropy of {what}, at the last item: {joined(said) if said else 'there is none'}."


def _of_matched(results: xr.Dataset, adjective: str) -> str:
    """The last item against others of equal number and filler."""
    said = []
    for place in results["place"].values.tolist():
        found = _named(results, "entropy_matched", "others").sel(by_adjective=adjective, place=place)
        differ = matched_words(found, "+.2f", "nats")
        said += [f"at the {place} {differ}"] if differ else []
    start = f"Entropy of {lists_named(adjective)} at last items less that at other items of equal number and filler"
    return f"{start}: {'; '.join(said) or f'not known, as {NOT_MATCHED}'}."


def _of_swap(results: xr.Dataset, adjective: str) -> str:
    """What the other adjective changes in the same lists."""
    said = []
    for place in results["place"].values.tolist():
        at = _named(results, "entropy_change").sel(by_adjective=adjective, place=place)
        if int(at["lists"]):
            said.append(f"{_value(at, 'nats')} at the {place}")
    return f'"{SWAP[adjective]}" in place of "{adjective}" changes the entropy of the last item by {joined(said)}.'


def _value(means: xr.Dataset, unit: str = "") -> str:
    mean, low, high = (float(means[name]) for name in ("mean", "low", "high"))
    return with_interval(mean, low, high, ".2f", unit)


def _named(results: xr.Dataset, name: str, *more: str) -> xr.Dataset:
    names = {f"{name}_{part}": part for part in (*_PARTS, *more)}
    return results[list(names)].rename(names)


def _adjectives(results: xr.Dataset) -> list[str]:
    return results["by_adjective"].values.tolist()


def _label(adjective: str, run: str) -> str:
    return lists_named(adjective) if run == RUNS[0] else f'{lists_named(adjective)} after "{SWAP.get(adjective, "")}"'


def _slug(place: str) -> str:
    return place.replace(" ", "-")
