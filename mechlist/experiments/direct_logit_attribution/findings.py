"""Tables and sentences of direct logit attribution, from saved results alone."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiment import Claim
from mechlist.experiments.direct_logit_attribution import summary
from mechlist.experiments.direct_logit_attribution.statistics import MATCHED, cells, matched
from mechlist.experiments.effects import NOT_MATCHED, largest, matched_words, read, rows, shown, strongest
from mechlist.figures.notes import resampled
from mechlist.text import joined, number_of
from mechlist.types import head_name

HEADS = 3
"""That sentences name."""
OF_PAIRS = {
    "components": "what each part writes at the last token, in logits",
    "heads": "the heads that write most at the last token, in logits",
    "changed_heads": "the heads that the corrupt prompt changes most, in logits",
}
"""What the tables hold where the data are pairs of prompts."""


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """Components, the `top` heads of each direction and adjective, and those that the adjective changes most."""
    components, heads, changed = [], [], []
    for direction in results["direction"].values.tolist():
        part = results.sel(direction=direction, drop=True)
        for group in summary.adjectives(results):
            labels: dict[str, Any] = {"direction": direction, "lists": summary.group_name(group)}
            found = cells(part, "component_last", group)
            if found is not None:
                components.append(rows(found, **labels))
            heads.append(_strongest(rows(read(part, "head_last").sel(group=group, drop=True), **labels), top))
        change = cells(part, "head_change")
        if change is not None:
            labels = {"direction": direction, "change": summary.contrast_name(results)}
            changed.append(_strongest(rows(change, **labels), top))
    out = {"components": pd.concat(components, ignore_index=True), "heads": pd.concat(heads, ignore_index=True)}
    if "component_matched_mean" in results:
        names = {f"component_matched_{of}": of for of in MATCHED}
        frame = results[list(names)].rename(names).to_dataframe().reset_index().rename(columns={"group": "adjective"})
        out["matched"] = frame.loc[frame["lists"] > 0].reset_index(drop=True)
    out |= {"changed_heads": pd.concat(changed, ignore_index=True)} if changed else {}
    return _without_lists(out) if results.attrs["origin"] == "pairs" else out


def _without_lists(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables as pairs of prompts have them, which are no lists and have no items."""
    out = {name: table.drop(columns="items", errors="ignore") for name, table in tables.items()}
    out = {name: table.rename(columns={"lists": "prompts"}) for name, table in out.items()}
    for name, table in out.items():
        table.attrs["caption"] = OF_PAIRS[name]
    return out


def findings(results: xr.Dataset) -> list[str]:
    """That the terms add up; then of each direction the difference, its largest parts, and what the adjective does."""
    error, biggest = float(results["error"].max()), float(results["largest"].max())
    cap = results.attrs["softcap"]
    before = f", before the softcap of {cap:g}," if cap else ""
    out = [
        f"The terms of all heads, MLPs, embeddings and biases add up to the model's logit difference{before} to within "
        f"{error:.1g} logits everywhere; the largest term is {biggest:.3g}."
    ]
    for direction in results["direction"].values.tolist():
        part = results.sel(direction=direction)
        out += [_totals(part, direction), *_against_others(part, direction)]
        out += [_parts(part, direction), *_changes(part, direction)]
    return out


def claims(results: xr.Dataset) -> list[Claim]:
    """The head that writes most of the first direction, in the lists of the first adjective."""
    direction, first = results["direction"].values.tolist()[0], summary.adjectives(results)[0]
    best = largest(read(results.sel(direction=direction), "head_last").sel(group=first, drop=True))
    name = head_name((int(best["layer"]), int(best["head"])))
    text = f"{name} writes most of {direction} directly, {shown(best)} logits in {summary.group_name(first)}."
    return [Claim(text, f"heads_{direction[0].lower()}")]


def _totals(part: xr.Dataset, direction: str) -> str:
    texts = []
    for group in summary.adjectives(part):
        last = read(part, "total_last").sel(group=group, drop=True)
        texts.append(f"{shown(last)} in {number_of(int((part['adjective'] == group).sum()), _named(group))}")
    where = "last token" if part.attrs["origin"] == "pairs" else "last item"
    over = resampled(part)
    return f"{direction}: the logit difference at the {where} is {joined(texts)}; intervals are over {over}."


def _against_others(part: xr.Dataset, direction: str) -> list[str]:
    """Last items against others of equal number and filler; nothing of pairs."""
    if "total_matched_mean" not in part:
        return []
    said = []
    for group in summary.adjectives(part):
        found = matched(part, "total", group)
        if found is not None:
            said.append(f"{matched_words(found, '+.2f', '')} in {summary.group_name(group)}")
    start = f"{direction}: the logit difference at last items less that at other items of equal number and filler"
    return [f"{start} is {'; '.join(said) or f'not known, as {NOT_MATCHED}'}."]


def _parts(part: xr.Dataset, direction: str) -> str:
    first = summary.adjectives(part)[0]
    component, head = (read(part, f"{name}_last").sel(group=first, drop=True) for name in ("component", "head"))
    best, flat = largest(component), head.stack(place=("layer", "head"))
    heads = []
    for i in strongest(flat["estimate"].values, HEADS):
        layer, number = flat["place"].values[i]
        heads.append(f"{head_name((int(layer), int(number)))} {shown(flat.isel(place=i))}")
    return (
        f"{direction}: in {summary.group_name(first)} the largest component is {best['component'].item()} with "
        f"{shown(best)}; the heads that write most are {joined(heads)}."
    )


def _changes(part: xr.Dataset, direction: str) -> list[str]:
    """What the adjective, or the corrupt prompt, changes in the same text."""
    total, heads = cells(part, "total_change"), cells(part, "head_change")
    if total is None or heads is None:
        return []
    best, name = largest(heads), summary.contrast_name(part)
    pairs = part.attrs["origin"] == "pairs"
    after = "between the two prompts" if pairs else "after the same text"
    text = (
        f"{direction}: {after} the difference is {shown(total)} ({name}); of the heads "
        f"{head_name((int(best['layer']), int(best['head'])))} changes most, by {shown(best)}"
    )
    if heads["reason"].item():
        return [f"{text}. {heads['reason'].item()}"]
    survive, tested = int(heads["survives"].sum()), int(heads["tested"].sum())
    unit = resampled(part).removesuffix("s").replace("clusters", "cluster")
    return [
        f"{text}, and {survive} of {tested} heads change beyond chance (max-T over heads, signs flipped by {unit})."
    ]


def _named(adjective: str) -> str:
    return {"pairs": "prompts", "none": "plain lists"}.get(adjective, f"{adjective} lists")


def _strongest(table: pd.DataFrame, top: int) -> pd.DataFrame:
    return table.sort_values("estimate", key=np.abs, ascending=False, ignore_index=True).head(top)
