"""Figures of the list statistics, from their saved results alone, in the study's order."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiments.list_statistics import length_figures as length
from mechlist.experiments.list_statistics.findings import condition_names, trend_sentence
from mechlist.experiments.list_statistics.length_figures import ADJECTIVES
from mechlist.experiments.list_statistics.statistics import MOST_TOKENS, OUTCOMES
from mechlist.figures.notes import NOT_FEW, OVER_LISTS, OVER_TOPICS, counted, ends, items_from_last
from mechlist.metrics.by_topic import well_founded


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Tokens per item, fillers, number of items, fillers by temperature, survival and hazard."""
    out: dict[str, go.Figure] = {}
    if results.sizes["item_tokens"]:
        out |= {"tokens-per-item": _tokens(results), "single-token-items": _single(results)}
        out |= {"fillers": _fillers(results), **_by_index(results, "from-end"), **_by_index(results, "from-start")}
    out |= length.items_by_topic(results) | {"items": length.items(results)}
    if results.sizes["item_tokens"]:
        out |= _by_temperature(results)
    if results["at_risk"].any():
        out |= {"survival": length.survival(results), "hazard": length.hazard(results)}
        out |= length.survival_by_temperature(results)
    return out


def _tokens(results: xr.Dataset) -> go.Figure:
    names = {**ADJECTIVES, "item_tokens": "x"}
    values = results["item_tokens_share"].rename(names)
    longest = int(results["longest_item"])
    labels = [f"{n}+" if n == MOST_TOKENS < longest else str(n) for n in values["x"].values]
    return draw.interval_bars(
        values.assign_coords(x=labels),
        **ends(results, "item_tokens_share", **names),
        title="Tokens per item",
        caption=f"Content tokens are those without hyphen, filler and line break; {OVER_TOPICS}.",
        x_title="content tokens of the item",
        y_title="share of items",
        note=counted(results["item_tokens_count"].rename(names), "items"),
    )


def _single(results: xr.Dataset) -> go.Figure:
    order = np.argsort(-results["single_token_share"].values, kind="stable")
    names = {"by_topic": "category"}
    values = results["single_token_share"].isel(by_topic=order).rename(names)
    first = results["item_tokens_count"].isel(item_tokens=0).sum()
    return draw.interval_rows(
        values,
        low=results["single_token_share_low"].isel(by_topic=order).rename(names),
        high=results["single_token_share_high"].isel(by_topic=order).rename(names),
        title="Single-token items by topic",
        caption=f"Topics in the order of their share; {OVER_LISTS}, a point where its lists agree.",
        x_title="share of items that are one token",
        note=counted(results["topic_n_lists"].sum("by_adjective").isel(by_topic=order), "lists"),
        mean=float(first / results["item_tokens_count"].sum()),
    )


def _fillers(results: xr.Dataset) -> go.Figure:
    names = {**ADJECTIVES, "place": "category"}
    return draw.grouped_bars(
        results["filler_lists_share"].rename(names),
        **ends(results, "filler_lists_share", **names),
        title="Lists with a filler blank, by where it stands",
        caption="A filler is a blank right before a line break; only a list that ended has a last item; "
        f"{OVER_TOPICS}.",
        y_title="share of lists",
    )


def _by_index(results: xr.Dataset, end: str) -> dict[str, go.Figure]:
    """Fillers by item; nothing from the end where no list ended."""
    stem, from_end = f"filler_{end.replace('-', '_')}", end == "from-end"
    names = {**ADJECTIVES, "item_index": "x"}
    curves = results[[stem, f"{stem}_low", f"{stem}_high", f"{stem}_items"]]
    shown = well_founded(curves, f"{stem}_items", "item_index")
    if not np.isfinite(shown[stem]).any():
        return {}
    # From the start the first item is item 1; from the end 0 is the last one.
    shown = shown.assign_coords(item_index=shown["item_index"].values + (0 if from_end else 1))
    what = "Lists that ended, by items from their end" if from_end else "Items that the token cap cut off are left out"
    figure = draw.interval_lines(
        shown[stem].rename(names),
        **ends(shown, stem, **names),
        title=f"Filler by item, counted from the {'end' if from_end else 'start'}",
        caption=f"{what}; {OVER_TOPICS}; {NOT_FEW}.",
        x_title="item",
        y_title="share of items with a filler",
        note=counted(shown[f"{stem}_items"].rename(names), "items"),
    )
    return {f"filler-{end}": items_from_last(figure, shown.sizes["item_index"]) if from_end else figure}


def _by_temperature(results: xr.Dataset) -> dict[str, go.Figure]:
    """Lines over the temperature where there are several; bars for each condition where there are not."""
    known = np.unique(results["condition_temperature"].values)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        names = {"condition": "category", "outcome": "series"}
        values = results["condition_filler"].rename(names).assign_coords(category=condition_names(results))
        bars = draw.grouped_bars(
            values,
            **ends(results, "condition_filler", **names),
            title="Items and lists with a filler" + (", by adjective and temperature" if len(values) > 1 else ""),
            caption=f"There is no trend over the temperature to test: one known temperature at most; {OVER_TOPICS}.",
            y_title="share",
        )
        return {"filler-by-temperature": bars}
    titles = {"filler-share-by-temperature": OUTCOMES[0], "filler-lists-by-temperature": OUTCOMES[1]}
    return {name: _over_temperature(results, outcome, known) for name, outcome in titles.items()}


def _over_temperature(results: xr.Dataset, outcome: str, known: np.ndarray) -> go.Figure:
    def grid(name: str) -> xr.DataArray:
        values = results[name].sel(outcome=outcome)
        cells = np.full((results.sizes["by_adjective"], len(known)), np.nan)
        for value, adjective, temperature in zip(
            values.values, results["condition_adjective"].values, results["condition_temperature"].values, strict=True
        ):
            if np.isfinite(temperature):
                row = results["by_adjective"].values.tolist().index(adjective)
                cells[row, np.flatnonzero(known == temperature)[0]] = value
        coords = {"series": results["by_adjective"].values, "x": known}
        return xr.DataArray(cells, dims=("series", "x"), coords=coords)

    return draw.interval_lines(
        grid("condition_filler"),
        low=grid("condition_filler_low"),
        high=grid("condition_filler_high"),
        title=f"{outcome[0].upper()}{outcome[1:]}, by temperature",
        caption=f"{trend_sentence(results, outcome)} Points are means over lists with {OVER_TOPICS}.",
        x_title="sampling temperature",
        y_title="share",
    )
