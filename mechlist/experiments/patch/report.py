"""Figures, tables and sentences of activation patching, from saved results alone."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.claims import Claims, claims, legend, sentences
from mechlist.figures import head_heatmap, position_heatmap, token_labels

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
    """By layer and position or role, with the tokens below; by layer and head. Dots mark what survives."""
    values, found = effects(results).mean("prompt"), claims(results)
    words, marked, note = _words(results), found.marked, found.notes
    caption = f"{words.pop('caption')} {legend(found)}"
    if results.attrs["per"] == "head":
        return {"heads": head_heatmap(values, diverging=True, caption=caption, marked=marked, note=note, **words)}
    place = "role" if "role" in values.dims else "position"
    labels = values[place].values.tolist() if place == "role" else token_labels(_tokens(results))
    if results.attrs["per"] == "position":
        grids = {"marked": _placed(marked, place), "note": _placed(note, place)}
        return {f"{place}s": position_heatmap(_placed(values, place), labels, caption=caption, **grids, **words)}
    best = {place: abs(values).fillna(0).argmax(place)}
    by_place = {"head": abs(values).fillna(0).argmax("head")}
    heads = {"marked": marked.isel(best), "note": note.isel(best)}
    places = {"marked": _placed(marked.isel(by_place), place), "note": _placed(note.isel(by_place), place)}
    return {
        "heads": head_heatmap(
            values.isel(best), diverging=True, caption=f"At each head's strongest {place}. {caption}", **heads, **words
        ),
        f"{place}s": position_heatmap(
            _placed(values.isel(by_place), place),
            labels,
            caption=f"The strongest head of each layer. {caption}",
            **places,
            **words,
        ),
    }


def tables(results: xr.Dataset, top: int) -> dict[str, pd.DataFrame]:
    """The `top` cells by the size of their mean effect, with intervals and tests over the prompts; and the prompts."""
    cells = cell_table(results, claims(results))
    columns = {"prompt": ["".join(row) for row in results["token"].values], "base": results["base"].values}
    if "source" in results:
        columns["source"] = results["source"].values
    return {"cells": cells.head(top), "prompts": pd.DataFrame(columns)}


def cell_table(results: xr.Dataset, found: Claims) -> pd.DataFrame:
    """One row a cell that some prompt has, the strongest first: its effect and, over several prompts, its interval."""
    raw, tested = found.effects, found.table
    columns: dict[str, Any] = {"recovered": results["recovered"].mean("prompt")} if _kind(results) != "effect" else {}
    columns["effect"] = (raw.dims[1:], tested.estimate)
    if results.sizes["prompt"] > 1:
        columns |= {name: (raw.dims[1:], getattr(tested, name)) for name in ("low", "high")}
        columns |= {"n": (raw.dims[1:], tested.n_units), "p_corrected": (raw.dims[1:], tested.p_corrected)}
        columns["correction"] = tested.correction
    if found.noise is not None:
        columns["below_noise"] = (raw.dims[1:], tested.below_noise)
    if found.null is not None:
        columns["beyond_null"] = (raw.dims[1:], found.null.survives)
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
        said = [
            f"The {what} is {base:.3f} in the run that is changed and {source:.3f} in the run that the replacements "
            f"come from ({mean})."
        ]
    else:
        put = REPLACEMENTS[results.attrs["replacement"]]
        said = [f"The {what} is {base:.3f} in the unchanged run ({mean}); put in is {put}."]
    found = claims(results)
    cells = cell_table(results, found)
    if len(cells):
        best, kind = cells.iloc[0], _kind(results)
        where = " ".join(f"{name} {best[name]}" for name in ("layer", "head", "position", "role") if name in cells)
        token = f" ({best['token']!r})" if "token" in cells else ""
        moved = f"recovers {best[kind]:.1%}" if kind == "recovered" else f"changes it by {best[kind]:+.3f}"
        said.append(f"The largest effect is at {where}{token}: it {moved}.")
    return said + sentences(found, results["base"].attrs.get("units", ""))


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
