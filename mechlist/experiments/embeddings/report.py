"""Figures, tables and sentences of `embeddings`, from its saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.figures.points import named_points
from mechlist.text import joined, unescaped, visible


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Tokens on the first two components of every place; and by UMAP, if that was asked for."""
    texts = [visible(unescaped(str(text))) for text in results["text"].values]
    places = [str(place) for place in results["place"].values]
    share = results["explained"].values
    bos = (
        ""
        if results.attrs["fit_bos"] or not results.attrs["has_bos"]
        else " BOS did not decide the components; it is placed among the others."
    )
    drawn = {
        "components": named_points(
            _panels(results["coordinate"].isel(component=slice(0, 2)), "component"),
            texts,
            title="Tokens on the first two principal components",
            caption="Each point is a token of the prompt, from light (first) to dark (last); axes say how much of the "
            f"variance they explain.{bos}",
            panels=places,
            axes=[(f"component 1 ({row[0]:.0%})", f"component 2 ({row[1]:.0%})") for row in share],
        )
    }
    if "umap" in results:
        drawn["umap"] = named_points(
            _panels(results["umap"], "axis"),
            texts,
            title="Tokens by UMAP",
            caption="Neighbours stay neighbours; distances between groups mean little.",
            panels=places,
            axes=[("axis 1", "axis 2")] * len(places),
        )
    return drawn


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Variance explained by place; tokens with their coordinates and lengths."""
    share = results["explained"].to_pandas().add_prefix("component ").reset_index()
    texts = [visible(unescaped(str(text))) for text in results["text"].values]
    rows = []
    for place in results["place"].values:
        one = results.sel(place=place)
        for i, text in enumerate(texts):
            named = {f"component {c}": float(one["coordinate"][i, c - 1]) for c in results["component"].values}
            rows.append({"place": str(place), "position": i, "token": text, "norm": float(one["norm"][i]), **named})
    return {"explained": share, "tokens": pd.DataFrame(rows)}


def findings(results: xr.Dataset) -> list[str]:
    """The share of the variance on two components by place, and how long BOS is."""
    told = [
        f"{float(row[:2].sum()):.0%} {'of the ' + str(place) if place == 'embedding' else str(place)}"
        for place, row in zip(results["place"].values, results["explained"].values, strict=True)
    ]
    fitted = results.sizes["position"] - (not results.attrs["fit_bos"])
    said = [f"Two components hold this share of the variance of {fitted} tokens: {joined(told)}."]
    if results.attrs["has_bos"]:
        norms = results["norm"].values
        ratio = norms[:, 0] / np.median(norms[:, 1:], axis=1)
        largest = int(ratio.argmax())
        said.append(
            f"BOS is longest against the other tokens {results['place'].values[largest]}: {ratio[largest]:.1f} times "
            "their median length."
        )
    return said


def _panels(values: xr.DataArray, axis: str) -> xr.DataArray:
    plain = (
        values.rename({"place": "panel", "position": "point", axis: "axis"})
        if axis != "axis"
        else values.rename({"place": "panel", "position": "point"})
    )
    return plain.transpose("panel", "point", "axis")
