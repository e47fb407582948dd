"""Tables and sentences of patching lists, from saved results alone."""

from itertools import groupby

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.effects import largest, read, rows, shown
from mechlist.experiments.list_pairs import run_names, side_name
from mechlist.experiments.list_patch.statistics import MARGIN, STREAM, beyond_margin, cells, handovers
from mechlist.text import joined, number_of
from mechlist.types import head_name


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """The `top` cells of each site and side by the size of their mean effect; and the lists."""
    parts = []
    for site in results.attrs["sites"]:
        for side in results["side"].values.tolist():
            table = rows(cells(results, site, side), site=site, side=side)
            table = table.rename(columns={"kv_head": "head", "estimate": "effect"})
            parts.append(table.sort_values("effect", key=np.abs, ascending=False).head(top))
    lists = {"topic": results["topic"].values, "items": results["n_items"].values}
    first, second = run_names(results)
    lists |= {name: results["base"].sel(side=side).values for name, side in ((second, "denoising"), (first, "noising"))}
    return {"cells": pd.concat(parts, ignore_index=True), "lists": pd.DataFrame(lists)}


def findings(results: xr.Dataset) -> list[str]:
    """What the runs differ by; the strongest cell of each site; the layers at which roles take over; the control."""
    out = [_data(results)]
    out += [_strongest(results, site) for site in results.attrs["sites"]]
    if STREAM in results.attrs["sites"]:
        out += [handover_sentence(results, side) for side in results["side"].values.tolist()]
    return out + _control(results)


def _data(results: xr.Dataset) -> str:
    whole = read(results, "mean_gap").sel(side="denoising", drop=True)
    long, short = (read(results, "mean_base").sel(side=side, drop=True) for side in ("denoising", "noising"))
    topics = number_of(len(set(results["topic"].values.tolist())), "topics")
    lacking = results.attrs["left_out"]
    left = (
        f" {number_of(lacking, 'lists')} had no such position and {'is' if lacking == 1 else 'are'} left out."
        if lacking
        else ""
    )
    where = f"{results.attrs['direction']}, at the {results.attrs['own']}"
    lists = f'{number_of(results.sizes["list"], "lists")} of {topics} written after "{results.attrs["adjective"]}"'
    if results.attrs.get("factor", "adjective") != "adjective":
        one, other = run_names(results)
        return (
            f"{where}: {shown(short)} with {one} and {shown(long)} with {other}, over {lists}; the difference is "
            f"{shown(whole)} logits.{left}"
        )
    return (
        f'{where}: {shown(short)} after "short" and {shown(long)} after "long", over {lists}; exchanging the one word '
        f"moves it by {shown(whole)} logits.{left}"
    )


def _strongest(results: xr.Dataset, site: str) -> str:
    texts, exchanged = [], _is_exchanged(results, site)
    whole = float(read(results, "mean_gap")["estimate"].isel(side=0))
    for side in results["side"].values.tolist():
        own = cells(results, site, side)
        told = own.isel(layer=slice(1, None)) if exchanged else own
        best, tested, reason = largest(told), int(own["tested"].sum()), own["reason"].item()
        text = f"with {side_name(results, side)}, {_place(best, site)} moves it most, by {shown(best)} logits"
        text += f" ({float(best['share']):.0%})"
        if not reason:
            beyond = int(beyond_margin(own, whole).where(own["survives"].astype(bool), False).sum())
            text += (
                f"; {int(own['survives'].sum())} of {tested} cells move it beyond chance and rounding, {beyond} of "
                f"them by more than {MARGIN:.0%} of the difference (the whole interval)"
            )
        elif tested:
            text += f" ({reason.rstrip('.')})"
        texts.append(text)
    return f"{site}{' after the first layer' if exchanged else ''}: {'; '.join(texts)}."


def _is_exchanged(results: xr.Dataset, site: str) -> bool:
    """Whether what stands before the first layer is the exchange itself: that it moves all is no finding."""
    of_adjective = results.attrs.get("factor", "adjective") == "adjective"
    return of_adjective and site == STREAM and results.sizes["layer"] > 1


def handover_sentence(results: xr.Dataset, side: str) -> str:
    """Which role of the residual stream matters from which layer on."""
    found, roles = handovers(results, side), results["role"].values.tolist()
    layers = results["layer"].values.tolist()
    spans = []
    for number, group in groupby(zip(layers, found.largest.tolist(), strict=True), key=lambda pair: pair[1]):
        held = [layer for layer, _ in group]
        spans.append(f"{roles[number]} {_layers(held)}")
    text = (
        f"Residual stream with {side_name(results, side)}: the role with the largest effect is {', then '.join(spans)}."
    )
    end, first, own = len(layers), roles[found.largest[0]], results.attrs["own"]
    left = _interval(found.leaves_low, found.leaves_high, end) if found.known else ""
    came = _interval(found.arrives_low, found.arrives_high, end) if found.known else ""
    stops = (
        f"stops being the largest at layer {found.leaves}" if found.leaves < end else "is the largest in every layer"
    )
    takes = (
        f"is the largest in every layer from layer {found.arrives} on"
        if found.arrives < end
        else "is not the largest in the last layer"
    )
    over = "; 95 % intervals over topics" if found.known else ""
    return f"{text} The {first} {stops}{left}; the position's own ({own}) {takes}{came}{over}."


def _interval(low: int, high: int, end: int) -> str:
    """Of a layer; the number of layers stands for none of them."""
    low_name, high_name = ("none" if layer == end else str(layer) for layer in (low, high))
    return f" [{low_name}, {high_name}]"


def _layers(held: list[int]) -> str:
    return f"in layer {held[0]}" if len(held) == 1 else f"in layers {held[0]} to {held[-1]}"


def _place(cell: xr.Dataset, site: str) -> str:
    """Where a cell is; the heads of keys and values, which may be shared, are L4H1.k and L4H1.v."""
    layer = int(cell["layer"])
    heads = {"head": "", "kv_head": site}
    named = next((head_name((layer, int(cell[dim])), entry) for dim, entry in heads.items() if dim in cell.coords), "")
    return f"{named or f'layer {layer}'} at the {cell['role'].item()}"


def _control(results: xr.Dataset) -> list[str]:
    """What an irrelevant change does in the same sweep, and how many effects are larger."""
    sites = [site for site in results.attrs["sites"] if f"null_threshold_{site}" in results]
    if not sites:
        return ["There is no null of an irrelevant change: it takes null_pairs and a list of two items."]
    said = []
    for site in sites:
        largest_null = float(results[f"null_threshold_{site}"])
        survive = joined([str(int(n)) for n in results[f"null_survivors_{site}"].values])
        beyond = int(cells(results, site, "denoising")["marked"].sum())
        said.append(f"{site} {largest_null:.2g} logits and {survive} cells ({beyond} of the exchange go beyond)")
    draws, lists = number_of(results.sizes["draw"], "draws"), number_of(results.sizes["null_list"], "lists")
    level = results[f"null_threshold_{sites[0]}"].attrs["level"]
    return [
        "Where what is put in is the same list with its items in another order, which is not to matter "
        f"({draws} over {lists}, level {level:.2g}), the largest mean effect anywhere and the cells that survive the "
        f"same test are: {'; '.join(said)}."
    ]
