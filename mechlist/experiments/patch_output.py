"""Figures, tables and sentences of activation patching, from saved results alone."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.figures import head_heatmap, position_heatmap, token_labels
from mechlist.metrics.significance import EffectTable, effect_table

SEED = 0
"""Of the sign flips and the bootstrap: tables and sentences follow from the results alone."""

METRICS = {
    "logit_difference": "logit difference",
    "log_prob": "log-probability of the answer",
    "probability": "probability of the answer",
    "rank": "rank of the answer",
    "kl": "KL divergence from the unchanged run",
    "entropy": "entropy",
    "loss": "loss",
}
REPLACEMENTS = {"zero": "zero", "mean": "the mean over the prompts", "resample": "another prompt's run"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """By layer and position or role, with the tokens below; by layer and head."""
    values = effects(results).mean("prompt")
    words = _words(results)
    if results.attrs["per"] == "head":
        return {"heads": head_heatmap(values, diverging=True, **words)}
    place = "role" if "role" in values.dims else "position"
    labels = values[place].values.tolist() if place == "role" else token_labels(_tokens(results))
    if results.attrs["per"] == "position":
        return {f"{place}s": position_heatmap(_placed(values, place), labels, **words)}
    caption = words.pop("caption")
    by_head = values.isel({place: abs(values).fillna(0).argmax(place)})
    by_place = values.isel(head=abs(values).fillna(0).argmax("head"))
    return {
        "heads": head_heatmap(by_head, diverging=True, caption=f"At each head's strongest {place}. {caption}", **words),
        f"{place}s": position_heatmap(
            _placed(by_place, place), labels, caption=f"The strongest head of each layer. {caption}", **words
        ),
    }


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """The `top` cells by the size of their mean effect, with intervals and tests over the prompts; and the prompts."""
    cells = cell_table(results, _tested(results))
    columns = {"prompt": ["".join(row) for row in results["token"].values], "base": results["base"].values}
    if "source" in results:
        columns["source"] = results["source"].values
    return {"cells": cells.head(top), "prompts": pd.DataFrame(columns)}


def cell_table(results: xr.Dataset, found: EffectTable) -> pd.DataFrame:
    """One row a cell that some prompt has, the strongest first: its effect and, over several prompts, its interval."""
    raw = results["patched"] - results["base"]
    columns: dict[str, Any] = {"recovered": results["recovered"].mean("prompt")} if _kind(results) != "effect" else {}
    columns["effect"] = (raw.dims[1:], found.estimate)
    if results.sizes["prompt"] > 1:
        columns |= {name: (raw.dims[1:], getattr(found, name)) for name in ("low", "high")}
        columns |= {"n": (raw.dims[1:], found.n_units), "p_corrected": (raw.dims[1:], found.p_corrected)}
    coords = {name: raw[name] for name in raw.dims[1:]}
    table = xr.Dataset(columns, coords=coords).to_dataframe().reset_index()
    if "position" in table:
        tokens = _tokens(results)
        table.insert(list(table.columns).index("position") + 1, "token", [tokens[int(p)] for p in table["position"]])
    table = table.dropna(subset=[_kind(results)])
    return table.sort_values(_kind(results), key=abs, ascending=False, ignore_index=True)


def findings(results: xr.Dataset) -> list[str]:
    """The runs, the cell that moves the metric most, and how many cells move it beyond chance."""
    what, many = METRICS[results.attrs["metric"]], results.sizes["prompt"] > 1
    base, mean = float(results["base"].mean()), f"mean over {results.sizes['prompt']} prompt{'s' if many else ''}"
    if _kind(results) == "recovered":
        source = float(results["source"].mean())
        sentences = [
            f"The {what} is {base:.3f} in the run that is changed and {source:.3f} in the run that the replacements "
            f"come from ({mean})."
        ]
    else:
        put = REPLACEMENTS[results.attrs["replacement"]]
        sentences = [f"The {what} is {base:.3f} in the unchanged run ({mean}); put in is {put}."]
    found = _tested(results)
    cells = cell_table(results, found)
    if len(cells):
        best, kind = cells.iloc[0], _kind(results)
        where = " ".join(f"{name} {best[name]}" for name in ("layer", "head", "position", "role") if name in cells)
        token = f" ({best['token']!r})" if "token" in cells else ""
        moved = f"recovers {best[kind]:.1%}" if kind == "recovered" else f"changes it by {best[kind]:+.3f}"
        sentences.append(f"The largest effect is at {where}{token}: it {moved}.")
    return sentences + (_significance(results, found) if many else [])


def _significance(results: xr.Dataset, found: EffectTable) -> list[str]:
    if found.reason:
        return [found.reason]
    tested, survive = int(found.tested.sum()), int(found.survives.sum())
    return [
        f"{survive} of {tested} cells change the metric beyond chance at the level {found.level:g} (max-T over all "
        f"cells, signs of raw effects flipped by {'cluster' if 'cluster' in results else 'prompt'})."
    ]


def _tested(results: xr.Dataset) -> EffectTable:
    """Raw effects over the prompts: the ratio that is recovered would not change when base and source change places."""
    clusters = results["cluster"].values if "cluster" in results else None
    raw = (results["patched"] - results["base"]).values
    return effect_table(raw, clusters=clusters, generator=np.random.default_rng(SEED))


def effects(results: xr.Dataset) -> xr.DataArray:
    """The share recovered, where there is a source run, else the change."""
    return results["recovered"] if _kind(results) == "recovered" else results["patched"] - results["base"]


def _kind(results: xr.Dataset) -> str:
    return "recovered" if results.attrs["replacement"] == "source" else "effect"


def _words(results: xr.Dataset) -> dict[str, Any]:
    site, replacement, what = results.attrs["site"], results.attrs["replacement"], METRICS[results.attrs["metric"]]
    site += " (estimated)" if results.attrs.get("estimated") else ""
    if _kind(results) == "effect":
        return {
            "title": f"{site}: {REPLACEMENTS[replacement]} put into the clean run",
            "caption": f"Change of the {what} from the unchanged run; mean over the prompts.",
            "unit": results["patched"].attrs.get("units", "effect"),
        }
    direction = "corrupt into clean" if results.attrs["noising"] else "clean into corrupt"
    return {
        "title": f"{site}: {direction}",
        "caption": f"{what[0].upper()}{what[1:]}: 0 is the run that is changed, 1 the run that "
        "replacements come from; mean over the prompts.",
        "unit": "recovered",
    }


def _placed(values: xr.DataArray, place: str) -> xr.DataArray:
    """The values with the places numbered, as a figure by position takes them."""
    if place == "position":
        return values
    return values.rename({place: "position"}).drop_vars("position")


def _tokens(results: xr.Dataset) -> list[str]:
    """The token at each position, where all prompts have the same; else a dot."""
    return [column[0] if len(set(column)) == 1 else "•" for column in results["token"].values.T.tolist()]
