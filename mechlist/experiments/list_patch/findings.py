"""Tables and sentences of patching lists, from saved results alone."""

from itertools import groupby

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.effects import largest, read, rows, shown
from mechlist.experiments.list_pairs import run_names, side_name
from mechlist.experiments.list_patch.statistics import STREAM, cells, handovers
from mechlist.text import number_of
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
    texts = []
    for side in results["side"].values.tolist():
        own = cells(results, site, side)
        best, tested, reason = largest(own), int(own["tested"].sum()), own["reason"].item()
        text = f"with {side_name(results, side)}, {_place(best, site)} moves it most, by {shown(best)} logits"
        text += f" ({float(best['share']):.0%})"
        if not reason:
            text += f", and {int(own['survives'].sum())} of {tested} cells move beyond chance and rounding"
        elif tested:
            text += f" ({reason.rstrip('.')})"
        texts.append(text)
    return f"{site}: " + "; ".join(texts) + "."


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
    """How often the test of each site finds something where there is nothing."""
    if "null_rejections" not in results:
        return ["There is no null control: it takes lists of two topics and permutations."]
    tried = results.attrs["permutations"]
    each = ", ".join(
        f"{site} {int(n)}" for site, n in zip(results["site"].values, results["null_rejections"].values, strict=True)
    )
    share = float(results["null_rejections"].mean()) / tried
    return [
        "Null control: with the signs of all raw effects flipped at random by topic, the test of a whole grid rejects "
        f"in {share:.1%} of the permutations, where 5 % are allowed ({each} of {tried})."
    ]
