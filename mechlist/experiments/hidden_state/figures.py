"""Figures of `hidden-state`, from its saved results alone."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechlist.figures import finish, interval_rows, plot_text
from mechlist.figures.style import MUTED, SERIES
from mechlist.text import number

POINTS = 2000
"""Of a curve: a vocabulary has hundreds of thousands of values."""
BINS = 120
UNITS = {"hidden state": "component", "logits": "token"}
VALUES = {"hidden state": "state", "logits": "logit"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Three views of the state and of the logits after the first prompt; counts beyond noise of all prompts."""
    return {
        "state": _views(results, "hidden state"),
        "logits": _views(results, "logits"),
        "beyond-noise": _beyond(results),
    }


def _views(results: xr.Dataset, quantity: str) -> go.Figure:
    """In the order of the model, sorted, and as a density with the normal curves of both scales."""
    values = results[VALUES[quantity]].isel(prompt=0).values.astype(np.float64)
    found = results["summary"].sel(quantity=quantity).isel(prompt=0)
    unit = UNITS[quantity]
    figure = make_subplots(rows=1, cols=3, horizontal_spacing=0.09)
    look: dict[str, Any] = {"mode": "lines", "line": {"width": 1, "color": SERIES[0]}, "showlegend": False}
    figure.add_trace(go.Scatter(**_envelope(values), **look), row=1, col=1)
    ordered = np.sort(values)
    places = np.unique(np.linspace(0, len(ordered) - 1, POINTS).round().astype(int))
    figure.add_trace(go.Scatter(x=places, y=ordered[places], **look), row=1, col=2)
    for trace in _density(values, found):
        figure.add_trace(trace, row=1, col=3)
    titles = (f"{unit}", f"{unit}, sorted", quantity if quantity == "hidden state" else "logit")
    for column, title in enumerate(titles, start=1):
        figure.update_xaxes(title=plot_text(title), row=1, col=column)
    figure.update_yaxes(title=plot_text("value" if quantity == "hidden state" else "logits"), row=1, col=1)
    figure.update_yaxes(title="density", type="log", row=1, col=3, exponentformat="power")
    figure.update_layout(height=340, hovermode="closest", meta={"min_width": 640}, legend={"x": 1, "xanchor": "right"})
    told = {str(name): number(float(found.sel(statistic=name))) for name in found["statistic"].values}
    parts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())
    entropy = "" if quantity != "logits" else f", softmax entropy {float(results['softmax_entropy'][0]):.3f} nats"
    return finish(
        figure,
        title=f"{quantity.capitalize()} after {results.attrs['prompts'][0]}",
        caption=f"In the model's order, sorted, and as a density beside normal curves of plain and robust spread: "
        f"{parts}{entropy}.",
    )


def _envelope(values: np.ndarray) -> dict[str, np.ndarray]:
    """The values, or the least and the largest of each stretch where there are more than can be drawn."""
    if len(values) <= POINTS:
        return {"x": np.arange(len(values)), "y": values}
    edges = np.linspace(0, len(values), POINTS // 2 + 1).astype(int)
    ends = np.array([[part.min(), part.max()] for part in np.split(values, edges[1:-1])])
    return {"x": np.repeat(edges[:-1], 2), "y": ends.ravel()}


def _density(values: np.ndarray, found: xr.DataArray) -> list[go.Scatter]:
    height, edges = np.histogram(values, bins=BINS, density=True)
    middle = (edges[1:] + edges[:-1]) / 2
    seen = np.where(height > 0, height, np.nan)
    bars = go.Scatter(x=middle, y=seen, mode="markers", marker={"size": 4, "color": SERIES[0]}, showlegend=False)
    out = [bars]
    least = float(height[height > 0].min())
    for name, centre, spread, dash in (("sd", "mean", "sd", "solid"), ("robust sd", "median", "robust_sd", "dot")):
        mean, sd = float(found.sel(statistic=centre)), float(found.sel(statistic=spread))
        if not sd > 0:
            continue
        curve = np.exp(-0.5 * ((middle - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
        shown = np.where(curve >= least / 3, curve, np.nan)
        line = {"width": 1.4, "color": MUTED, "dash": dash}
        out.append(go.Scatter(x=middle, y=shown, mode="lines", line=line, name=f"normal, {name}"))
    return out


def _beyond(results: xr.Dataset) -> go.Figure:
    """Median over prompts of the share of components beyond noise, with its range."""
    flat = results["beyond"].stack(category=("scale", "correction"), create_index=False) / results.sizes["component"]
    names = [
        f"{scale} scale, {correction}"
        for scale, correction in zip(flat["scale"].values, flat["correction"].values, strict=True)
    ]
    bare = flat.drop_vars(["scale", "correction", "prompt"]).assign_coords(category=names)
    return interval_rows(
        bare.median("prompt"),
        low=bare.min("prompt"),
        high=bare.max("prompt"),
        title="Components of the hidden state beyond noise",
        caption=f"Median over {results.sizes['prompt']} prompts, and the range; alpha {results.attrs['alpha']:g}. "
        "Outliers inflate the plain scale and hide behind it.",
        x_title=f"share of {results.sizes['component']} components",
    )
