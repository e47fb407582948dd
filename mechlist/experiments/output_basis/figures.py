"""Figures of `output-basis`, from its saved results alone."""

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.figures.style import MUTED, SERIES
from mechlist.metrics.by_topic import ENDS
from mechlist.text import number, visible

HOVER_TOKENS = 6
"""Of either end, in the box that a point opens."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Three maps of the dimensions, their entropies, and the kinds of tokens at their ends."""
    out = {
        f"map-{slug}": _map(results, method)
        for slug, method in (("rows", "PCA of rows"), ("distances", "PCA of distances"))
    }
    out["shape"] = _shape(results)
    out["entropies"] = _entropies(results)
    out["token-kinds"] = _kinds(results)
    return out


def opened(results: xr.Dataset) -> list[str]:
    """The box of each dimension: its numbers and the tokens that it writes."""
    texts = {end: results[f"{end}_text"].values[:, :HOVER_TOKENS].tolist() for end in ("up", "down")}
    boxes = []
    for n in range(results.sizes["dimension"]):
        up, down = (
            ", ".join(draw.plot_text(visible(json.loads(text))) for text in texts[end][n]) for end in ("up", "down")
        )
        boxes.append(
            f"<b>dimension {n}</b>: norm {number(float(results['norm'][n]))}, kurtosis "
            f"{number(float(results['kurtosis'][n]))}<br>up: {up}<br>down: {down}"
        )
    return boxes


def _map(results: xr.Dataset, method: str) -> go.Figure:
    scores = results["component_score"].sel({"method": method}).values
    held = results["component_variance"].sel({"method": method}).values
    count = int(results["outlier"].sel({"method": method}).sum())
    return _scatter(
        results,
        scores[0],
        scores[1],
        results["outlier"].sel({"method": method}).values,
        title=f"Hidden dimensions by {method}",
        caption=f"One point a dimension; a point's box shows the tokens it writes most up and down. {count} "
        f"outlier{'' if count == 1 else 's'}; the components hold {held[0]:.1%} and {held[1]:.1%} of the variance.",
        x_title="first component",
        y_title="second component",
    )


def _shape(results: xr.Dataset) -> go.Figure:
    figure = _scatter(
        results,
        results["norm"].values,
        results["kurtosis"].values,
        results["outlier"].any("method").values,
        title="Size and shape of what each dimension writes",
        caption="Norm and excess kurtosis of each dimension's row of the unembedding, and of random directions; "
        "outliers by any method.",
        x_title="norm over the vocabulary",
        y_title="excess kurtosis over the vocabulary",
    )
    marker = {"size": 6, "color": MUTED, "symbol": "cross"}
    control = go.Scatter(x=results["random_norm"].values, y=results["random_kurtosis"].values, mode="markers")
    control.update(marker=marker, name="random directions", hovertemplate="random direction<extra></extra>")
    return figure.add_trace(control)


def _scatter(
    results: xr.Dataset,
    x: np.ndarray,
    y: np.ndarray,
    outlier: np.ndarray,
    *,
    title: str,
    caption: str,
    x_title: str,
    y_title: str,
) -> go.Figure:
    boxes = np.array(opened(results), dtype=object)
    figure = go.Figure()
    for name, chosen, colour, size in (("dimensions", ~outlier, SERIES[0], 5), ("outliers", outlier, SERIES[1], 8)):
        marker = {"size": size, "color": colour, "opacity": 0.7}
        trace = go.Scatter(x=x[chosen], y=y[chosen], mode="markers", marker=marker, name=name)
        trace.update(customdata=boxes[chosen], hovertemplate="%{customdata}<extra></extra>")
        figure.add_trace(trace)
    figure.update_layout(height=460, hovermode="closest", showlegend=True, meta={"min_width": 360})
    figure.update_xaxes(title=draw.plot_text(x_title), zeroline=True, zerolinecolor="#e6e8ec")
    figure.update_yaxes(title=draw.plot_text(y_title), zeroline=True, zerolinecolor="#e6e8ec")
    return draw.finish(figure, title=title, caption=caption)


def _entropies(results: xr.Dataset) -> go.Figure:
    """Deficits below the uniform distribution, sorted, on a logarithmic axis: at coefficient 1 they are tiny."""
    uniform = float(np.log(results.attrs["vocab"]))
    names = {
        "entropy": "coefficient 1",
        "entropy_typical": "typical size",
        "entropy_prompt": "value on the first prompt",
    }
    look: dict[str, Any] = {"mode": "lines", "line": {"width": 1.8}}
    figure = go.Figure()
    for index, (name, words) in enumerate(names.items()):
        deficit = np.sort(uniform - results[name].values)
        shown = np.where(deficit > 1e-12, deficit, np.nan)
        line = {"width": 1.8, "color": SERIES[index]}
        figure.add_trace(go.Scatter(x=np.arange(len(shown)), y=shown, name=words, **(look | {"line": line})))
    figure.update_traces(hovertemplate="%{y:.4g} nats<extra></extra>")
    figure.update_layout(height=400, hovermode="x", meta={"min_width": 320})
    figure.update_xaxes(title="dimensions, sorted")
    figure.update_yaxes(title="nats below uniform", type="log", exponentformat="power")
    return draw.finish(
        figure,
        title="How far each dimension's softmax is from uniform",
        caption=f"ln(vocabulary) = {uniform:.5f} nats less the entropy of the softmax of one row of the unembedding, "
        "at three sizes of the dimension: near-uniform at one coefficient is not so at another.",
    )


def _kinds(results: xr.Dataset) -> go.Figure:
    shares = {end: results[f"kind_share{end}"].rename(kind="category", group="series") for end in ENDS}
    there = shares[""].notnull().all("category").values
    kept = {end: values.isel(series=np.flatnonzero(there)) for end, values in shares.items()}
    known = bool(kept["_low"].notnull().all())
    return draw.grouped_bars(
        kept[""].transpose("category", "series"),
        title="Kinds of tokens at the ends of dimensions",
        caption="Mean share among the tokens that a dimension writes most up and most down"
        + ("; 95 % bootstrap intervals over dimensions." if known else "."),
        y_title="share of tokens",
        low=kept["_low"].transpose("category", "series") if known else None,
        high=kept["_high"].transpose("category", "series") if known else None,
    )
