"""Tables and sentences of direct logit attribution, from saved results alone."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.direct_logit_attribution import summary
from mechlist.experiments.effects import estimated, largest, rows, shown
from mechlist.text import number_of

HEADS = 3
"""That sentences name."""


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """Components, the `top` heads of each direction and adjective, and those that the adjective changes most."""
    components, heads, changed = [], [], []
    parts = summary.components(results).isel(run=0, drop=True)
    for direction in results["direction"].values.tolist():
        own = results["heads"].sel(direction=direction, drop=True)
        for adjective in summary.adjectives(results):
            labels: dict[str, Any] = {"direction": direction, "lists": summary.group_name(adjective)}
            of_lists = summary.of_adjective(parts.sel(direction=direction, drop=True), adjective)
            for place, values in {"last": summary.from_end(of_lists, 0), "before": summary.earlier(of_lists)}.items():
                if values.notnull().any():
                    components.append(rows(estimated(values), **labels, items=place))
            last = summary.from_end(summary.of_adjective(own.isel(run=0, drop=True), adjective), 0)
            heads.append(_strongest(rows(estimated(last), **labels), top))
        change = summary.contrast(own)
        if change is not None:
            labels = {"direction": direction, "change": summary.contrast_name(results)}
            changed.append(_strongest(rows(estimated(change), **labels), top))
    out = {"components": pd.concat(components, ignore_index=True), "heads": pd.concat(heads, ignore_index=True)}
    return out | ({"changed_heads": pd.concat(changed, ignore_index=True)} if changed else {})


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
        out += [_totals(part, direction), _parts(part, direction), *_changes(part, direction)]
    return out


def _totals(part: xr.Dataset, direction: str) -> str:
    texts = []
    for adjective in summary.adjectives(part):
        own = summary.of_adjective(part["total"].isel(run=0, drop=True), adjective)
        text = f"{shown(estimated(summary.from_end(own, 0)))} in {number_of(own.sizes['list'], _named(adjective))}"
        before = summary.earlier(own)
        if before.notnull().any():
            text += f" ({shown(estimated(before))} at the items before)"
        texts.append(text)
    where = "last token" if part.attrs["origin"] == "pairs" else "last item"
    return f"{direction}: the logit difference at the {where} is {_joined(texts)}; intervals are over topics."


def _parts(part: xr.Dataset, direction: str) -> str:
    first = summary.adjectives(part)[0]
    last = {
        "component": summary.components(part).isel(run=0, drop=True),
        "head": part["heads"].isel(run=0, drop=True),
    }
    cells = {name: estimated(summary.from_end(summary.of_adjective(values, first), 0)) for name, values in last.items()}
    best = largest(cells["component"])
    flat = cells["head"].stack(place=("layer", "head"))
    order = np.argsort(-np.abs(flat["estimate"].fillna(0).values))[:HEADS]
    heads = [
        f"L{layer}H{head} {shown(flat.isel(place=i))}"
        for i, (layer, head) in zip(order, flat["place"].values[order], strict=True)
    ]
    return (
        f"{direction}: in {summary.group_name(first)} the largest component is {best['component'].item()} with "
        f"{shown(best)}; the heads that write most are {_joined(heads)}."
    )


def _changes(part: xr.Dataset, direction: str) -> list[str]:
    """What the adjective, or the corrupt prompt, changes in the same text."""
    total, heads = summary.contrast(part["total"]), summary.contrast(part["heads"])
    if total is None or heads is None:
        return []
    cells = estimated(heads)
    best, name = largest(cells), summary.contrast_name(part)
    text = (
        f"{direction}: after the same text the difference is {shown(estimated(total))} ({name}); of the heads "
        f"L{int(best['layer'])}H{int(best['head'])} changes most, by {shown(best)}"
    )
    if cells.attrs["reason"]:
        return [f"{text}. {cells.attrs['reason']}"]
    survive, asked = int(cells["survives"].sum()), int(cells["tested"].sum())
    return [f"{text}, and {survive} of {asked} heads change beyond chance (max-T over heads, signs flipped by topic)."]


def _named(adjective: str) -> str:
    return {"pairs": "prompts", "none": "plain lists"}.get(adjective, f"{adjective} lists")


def _strongest(table: pd.DataFrame, top: int) -> pd.DataFrame:
    return table.sort_values("estimate", key=np.abs, ascending=False, ignore_index=True).head(top)


def _joined(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
