"""Figures, tables and sentences of a grid of effects over prompts, from saved results alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float

from mechlist.experiments.effects import AGAINST, MEAN, legend, marked, notes, read, sentences, site_name
from mechlist.experiments.pair_experiment import METRICS
from mechlist.experiments.pair_look import look_findings, look_table
from mechlist.figures import head_heatmap, position_heatmap, token_labels
from mechlist.figures.tokens import MIXED, MIXED_SAID, tokens_of_all
from mechlist.patching.sweep.cells import KEY_VALUE_SITES
from mechlist.text import joined
from mechlist.types import head_name

HALF = 0.5
"""A place holds the answer that recovers this share of the difference between the runs."""
REPLACEMENTS = {"zero": "zero", "mean": "the mean over the prompts", "resample": "another prompt's run"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """By layer and position or role, with the tokens below; by layer and head. Dots mark what survives."""
    cells, values = read(results, MEAN), _drawn(results)
    words, dotted, note = _words(results), marked(cells), notes(cells)
    caption = f"{words.pop('caption')} {legend(cells)}"
    if results.attrs["per"] == "head":
        return {"heads": head_heatmap(values, diverging=True, caption=caption, marked=dotted, note=note, **words)}
    axis = "role" if "role" in values.dims else "position"
    labels = values[axis].values.tolist() if axis == "role" else token_labels(_tokens(results))
    placed = f"{caption} {MIXED_SAID}" if axis == "position" and any(MIXED in label for label in labels) else caption
    if results.attrs["per"] == "position":
        grids = {"marked": _numbered(dotted, axis), "note": _numbered(note, axis)}
        return {f"{axis}s": position_heatmap(_numbered(values, axis), labels, caption=placed, **grids, **words)}
    best = {axis: abs(values).fillna(0).argmax(axis)}
    by_place = {"head": abs(values).fillna(0).argmax("head")}
    heads = {"marked": dotted.isel(best), "note": note.isel(best)}
    places = {"marked": _numbered(dotted.isel(by_place), axis), "note": _numbered(note.isel(by_place), axis)}
    return {
        "heads": head_heatmap(
            values.isel(best), diverging=True, caption=f"At each head's strongest {axis}. {caption}", **heads, **words
        ),
        f"{axis}s": position_heatmap(
            _numbered(values.isel(by_place), axis),
            labels,
            caption=f"The strongest head of each layer. {placed}",
            **places,
            **words,
        ),
    }


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """The `top` cells by the size of their mean effect, with intervals and tests over the prompts; and the prompts."""
    columns = {"prompt": ["".join(row) for row in results["token"].values], "base": results["base"].values}
    if "source" in results:
        columns["source"] = results["source"].values
    return {"cells": cell_table(results).head(top), "prompts": pd.DataFrame(columns)} | look_table(results)


def cell_table(results: xr.Dataset) -> pd.DataFrame:
    """One row a cell that some prompt has, the strongest first: its effect and, over several prompts, its interval.

    `recovered` is the mean of the prompts' shares, `share` the mean effect as a share of the mean difference between
    the two runs: one prompt whose runs hardly differ does not rule it.
    """
    cells = read(results, MEAN)
    columns: dict[str, Any] = {}
    if _of_pair(results):
        gap = float((results["source"] - results["base"]).mean())
        columns = {"recovered": _drawn(results), "share": cells["estimate"] / (gap or np.nan)}
    columns["effect"] = cells["estimate"]
    if results.sizes["prompt"] > 1:
        columns |= {name: cells[name] for name in ("low", "high", "n", "p_corrected")}
        columns["correction"] = cells.attrs["correction"]
    columns |= {name: cells[name].astype(bool) for name in AGAINST if name in cells}
    table = xr.Dataset(columns).to_dataframe().reset_index()
    if "position" in table:
        tokens = _tokens(results)
        table.insert(list(table.columns).index("position") + 1, "token", [tokens[int(p)] for p in table["position"]])
    table = table.dropna(subset=["effect"])
    return table.sort_values("effect", key=abs, ascending=False, ignore_index=True)


def findings(results: xr.Dataset) -> list[str]:
    """The runs, the cell that moves the metric most, and how many cells move it beyond chance."""
    what, many = METRICS[results.attrs["metric"]], results.sizes["prompt"] > 1
    base, mean = float(results["base"].mean()), f"mean over {results.sizes['prompt']} prompt{'s' if many else ''}"
    if _of_pair(results):
        source = float(results["source"].mean())
        said = [
            f"The {what} is {base:.3f} in the run that is changed and {source:.3f} in the run that the replacements "
            f"come from ({mean})."
        ]
    else:
        put = REPLACEMENTS[results.attrs["replacement"]]
        said = [f"The {what} is {base:.3f} in the unchanged run ({mean}); put in is {put}."]
    way = _way(results)
    if way:
        said.append(way)
    table = cell_table(results)
    if not way and len(table) and table["effect"].iloc[0]:
        best = table.iloc[0]
        share = best.get("share", np.nan)
        moved = f"changes it by {best['effect']:+.3f}" if np.isnan(share) else f"recovers {share:.1%}"
        token = f" ({best['token']!r})" if "token" in table else ""
        said.append(f"The largest effect is at {place(best, results.attrs['site'])}{token}: it {moved}.")
    said += sentences(results, read(results, MEAN), results["base"].attrs.get("units", ""))
    return said + look_findings(results)


def _way(results: xr.Dataset) -> str:
    """Where the answer moves, of the residual stream by position or role; empty for other sites and for estimates.

    There the largest effect is at the first layer of what was changed by construction, and no finding.
    """
    along = results.attrs["site"].startswith("resid") and results.attrs["per"] == "position"
    if not (along and _of_pair(results)) or results.attrs.get("estimated"):
        return ""
    axis = "role" if "role" in results["recovered"].dims else "position"
    shares = results["recovered"].mean("prompt").transpose("layer", axis)
    labels = [f"role {name}" for name in shares[axis].values]
    if axis == "position":
        held, prompts = _prompts_at(results), results.sizes["prompt"]
        within = ["" if count == prompts else f", in {count} of {prompts} prompts" for count in held]
        labels = [f"{token!r} (position {n}{within[n]})" for n, token in enumerate(_tokens(results))]
        if min(held) < prompts:
            said = way(shares.values, shares["layer"].values.tolist(), labels)
            return (
                f"{said} Positions count from the left of prompts of unequal length; --roles, where roles are known, "
                "compares like with like."
            )
    return way(shares.values, shares["layer"].values.tolist(), labels)


def _prompts_at(results: xr.Dataset) -> list[int]:
    """How many prompts reach each position."""
    return (results["token"].values != "").sum(axis=0).tolist()


def way(shares: Float[np.ndarray, "layer place"], layers: Sequence[int], places: Sequence[str]) -> str:
    """In which layers which place alone recovers at least half of the difference, in one sentence.

    Args:
        shares: recovered of the difference between the runs; NaN where a place is in no prompt.
        layers: numbers of the layers.
        places: names of the places.
    """
    found = np.nan_to_num(shares, nan=-np.inf)
    best = found.argmax(1)
    held = np.where(found[np.arange(len(best)), best] >= HALF, best, -1)
    stays: list[tuple[int, int, int]] = []
    for n, at in enumerate(held.tolist()):
        if stays and stays[-1][0] == at:
            stays[-1] = (at, stays[-1][1], n)
        else:
            stays.append((at, n, n))
    parts = []
    for at, first, last in (stay for stay in stays if stay[0] >= 0):
        values = found[first : last + 1, at]
        low, high = f"{values.min():.0%}", f"{values.max():.0%}"
        share = low if low == high else f"{low} to {high}"
        parts.append(f"at {places[at]} {_layers(layers, first, last)} ({share})")
    if not parts:
        return "No single place recovers half of the difference in any layer."
    return f"Put in alone, it recovers at least half of the difference {joined(parts)}."


def _layers(layers: Sequence[int], first: int, last: int) -> str:
    if first == 0 and last == len(layers) - 1:
        return "in every layer"
    if first == last:
        return f"in layer {layers[first]}"
    if first == 0:
        return f"up to layer {layers[last]}"
    if last == len(layers) - 1:
        return f"from layer {layers[first]} on"
    return f"from layer {layers[first]} to {layers[last]}"


def place(cell: Any, site: str) -> str:
    """Where a cell is: `layer 3 position 5`, `L3H2 role adjective`; of keys and values, L3H2.k and .v."""
    entry = site if site in KEY_VALUE_SITES else ""
    layer = int(cell["layer"])
    words = [head_name((layer, int(cell["head"])), entry) if "head" in cell else f"layer {layer}"]
    words += [f"position {int(cell['position'])}"] if "position" in cell else []
    words += [f"role {cell['role']}"] if "role" in cell else []
    return " ".join(words)


def _of_pair(results: xr.Dataset) -> bool:
    """Whether what is put in is the other run of the pair, so that there is a share to recover."""
    return results.attrs["replacement"] == "source"


def _drawn(results: xr.Dataset) -> xr.DataArray:
    """By cell, the share recovered, where there is one, else the change: means over the prompts."""
    return results["recovered"].mean("prompt") if _of_pair(results) else read(results, MEAN)["estimate"]


def _words(results: xr.Dataset) -> dict[str, Any]:
    site, replacement, what = results.attrs["site"], results.attrs["replacement"], METRICS[results.attrs["metric"]]
    name = site_name(site, ", estimated" if results.attrs.get("estimated") else "")
    if not _of_pair(results):
        return {
            "title": f"{name}: {REPLACEMENTS[replacement]} put into the clean run",
            "caption": f"Change of the {what} from the unchanged run; mean over the prompts.",
            "unit": results["base"].attrs.get("units", "effect"),
        }
    direction = "corrupt into clean" if results.attrs["noising"] else "clean into corrupt"
    return {
        "title": f"{name}: {direction}",
        "caption": f"{what[0].upper()}{what[1:]}: 0 is the run that is changed, 1 the run that "
        "replacements come from; mean over the prompts.",
        "unit": "recovered",
    }


def _numbered(values: xr.DataArray, axis: str) -> xr.DataArray:
    """The values with the roles numbered, as a figure by position takes them."""
    return values if axis == "position" else values.rename({axis: "position"}).drop_vars("position")


def _tokens(results: xr.Dataset) -> list[str]:
    """The token at each position; see `tokens_of_all`."""
    return tokens_of_all(results["token"].values.tolist())
