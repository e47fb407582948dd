"""Figures of `sparse-output-basis`, from its saved results alone."""

import json

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist.figures import finish, interval_rows, plot_text
from mechlist.figures.style import MUTED, SERIES
from mechlist.metrics.by_topic import ENDS
from mechlist.text import number, visible

SHOWN = 20
"""Tokens of the texts from nothing that are drawn."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Divergence and agreement against sparsity; tokens that dimensions write; tokens of the texts from nothing."""
    return {
        "divergence": _against(
            results,
            "kl",
            title="How far a sparse unembedding is from the model's own",
            y_title="KL(model || sparse), nats",
        ),
        "agreement": _against(
            results,
            "agreement",
            title="How often a sparse unembedding's first choice is the model's",
            y_title="share of states",
        ),
        "tokens-a-dimension": _written(results),
        "top-of-mind": _mind(results, "holds", "Tokens that texts from nothing hold"),
        "first-tokens": _mind(results, "begins", "Tokens that texts from nothing begin with"),
    }


def _against(results: xr.Dataset, name: str, *, title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    x = results["sparsity"].values
    for index, way in enumerate(results["way"].values.tolist()):
        y, low, high = (results[f"{name}{end}"].sel(way=way).values for end in ENDS)
        hover = [
            f"{way}: {number(float(v))} [{number(float(a))}, {number(float(b))}], {s:.1%} of the weights 0"
            for v, a, b, s in zip(y, low, high, x, strict=True)
        ]
        trace = go.Scatter(x=x, y=y, mode="lines+markers", name=way, line={"width": 1.8, "color": SERIES[index]})
        error = {"array": high - y, "arrayminus": y - low, "thickness": 1.2, "width": 3, "color": SERIES[index]}
        trace.update(customdata=hover, hovertemplate="%{customdata}<extra></extra>", error_y=error)
        figure.add_trace(trace)
    own = float(results[f"own_{name}"])
    figure.add_hline(y=own, line={"width": 1.2, "dash": "dot", "color": MUTED})
    figure.update_layout(height=400, hovermode="closest", meta={"min_width": 320})
    figure.update_xaxes(title="share of weights that are 0", tickformat=".3~p")
    figure.update_yaxes(title=plot_text(y_title), rangemode="tozero")
    return finish(
        figure,
        title=title,
        caption=f"On {results.attrs['held_out']} held-out states: weights refitted under an L1 penalty, and the "
        f"model's own with as many of the smallest set to 0; dotted the model's own weights, all of them "
        f"({number(own)}). 95 % bootstrap intervals over texts.",
    )


def _written(results: xr.Dataset) -> go.Figure:
    counts = np.sort(results["written"].values)[::-1]
    trace = go.Scatter(x=np.arange(len(counts)), y=counts, mode="lines", line={"width": 1.8, "color": SERIES[0]})
    figure = go.Figure(trace)
    figure.update_layout(height=360, meta={"min_width": 320})
    figure.update_xaxes(title="dimensions, sorted")
    figure.update_yaxes(title="tokens with a weight", rangemode="tozero")
    return finish(
        figure,
        title="Tokens that each dimension writes after refitting",
        caption="Weights that are not 0, in the sparsest refit that agrees with the model nine times out of ten as "
        "often as its own weights do, or else in the densest.",
    )


def _mind(results: xr.Dataset, name: str, title: str) -> go.Figure:
    at = results.isel({f"{name}_rank": slice(0, SHOWN)})
    labels = [f"{n}. {visible(json.loads(text))}" for n, text in enumerate(at[f"{name}_text"].values.tolist(), start=1)]
    rows = {
        end: xr.DataArray(at[f"{name}_share{end}"].values, dims="category", coords={"category": labels}) for end in ENDS
    }
    return interval_rows(
        rows[""],
        low=rows["_low"],
        high=rows["_high"],
        title=title,
        caption=f"Share of {results.attrs['samples']} texts written from the empty prompt at temperature "
        f"{results.attrs['temperature']:g}, with 95 % intervals.",
        x_title="share of texts",
    )
