"""Figures, tables and sentences of layers for SAEs, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.effects import decision
from mechlist.experiments.sae_features import transfer_warning
from mechlist.figures import grouped_bars, interval_lines
from mechlist.metrics.by_topic import ratio_of_sums
from mechlist.text import joined, number_of
from mechlist.types import format_bytes

SEED, RESAMPLES = 0, 2000
BEST = "the effects themselves"
"""The order that no heuristic can beat."""
ENOUGH = 0.8
"""Share of the effects of all layers that sentences ask for."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Each heuristic's scores as shares of its largest, and the effect that its first picks cover."""
    warning = transfer_warning(results)
    scores = results["score"] / results["score"].max("sae")
    shown = scores.drop_vars("layer").rename(sae="category", heuristic="series")
    covered = covered_by(results)
    return {
        "scores": grouped_bars(
            shown,
            title="Layers for SAEs by three heuristics",
            caption=f"{warning}Each score as a share of the heuristic's largest.",
            y_title="score (share of the largest)",
        ),
        "covered": interval_lines(
            covered["share"].rename(heuristic="series", kept="x"),
            low=covered["share_low"].rename(heuristic="series", kept="x"),
            high=covered["share_high"].rename(heuristic="series", kept="x"),
            title="Effect of features that a heuristic's first layers cover",
            caption=f"{warning}Change of {_metric(results)} without the strongest features that speak for the answer, "
            "one layer at a time: that of the picked layers added up, as a share of that of all; 95 % bootstrap "
            "intervals over topics.",
            x_title="layers with an SAE",
            y_title="share of the effects",
        ),
    }


def covered_by(results: xr.Dataset) -> xr.Dataset:
    """Share of the layers' effects, added up, that the first picks of each heuristic have, with intervals."""
    change, n = results["change"].transpose("sae", "list").values, results.sizes["sae"]
    names = [*results["heuristic"].values.tolist(), BEST]
    values = np.full((3, len(names), n), np.nan)
    for h, heuristic in enumerate(names):
        of_picks = np.cumsum(change[_order(results, heuristic)], axis=0).T
        whole = np.repeat(change.sum(axis=0)[:, None], n, axis=1)
        generator = np.random.default_rng(SEED)
        topics = results["topic"].values
        values[:, h] = ratio_of_sums(of_picks, whole, topics, resamples=RESAMPLES, generator=generator)
    coords = {"heuristic": names, "kept": np.arange(1, n + 1)}
    named = zip(("share", "share_low", "share_high"), values, strict=True)
    return xr.Dataset({name: (("heuristic", "kept"), value) for name, value in named}, coords)


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """`scores`, one row a heuristic and layer; `picks`, one row a heuristic and number of layers."""
    covered, rows = covered_by(results), []
    for heuristic in covered["heuristic"].values.tolist():
        order = _order(results, heuristic)
        for kept in covered["kept"].values.tolist():
            own = covered["share"].sel(heuristic=heuristic, kept=kept)
            memory = float(results["sae_bytes"].values[order[:kept]].sum())
            layers = ", ".join(str(layer) for layer in sorted(results["layer"].values[order[:kept]].tolist()))
            rows.append(
                {"heuristic": heuristic, "saes": kept, "layers": layers, "bytes": memory, "covered": float(own)}
            )
    return {"scores": results["score"].to_dataframe().reset_index(), "picks": pd.DataFrame(rows)}


def findings(results: xr.Dataset) -> list[str]:
    """What is explained, and for each heuristic its order, how many layers are enough and what they take."""
    warning = transfer_warning(results).strip()
    out = [warning] if warning else ["The SAEs pass the check on these lists."]
    change = results["change"].mean("list")
    parts = [f"{change.values[i]:+.2f} at layer {layer}" for i, layer in enumerate(results["layer"].values.tolist())]
    out.append(
        f"Without the strongest features that speak for the answer, {_metric(results)} falls by {', '.join(parts)} "
        f"(logits, mean over {number_of(results.sizes['list'], 'lists')}, one layer at a time)."
    )
    covered = covered_by(results)["share"]
    for heuristic in covered["heuristic"].values.tolist():
        order = _order(results, heuristic)
        layers = [str(layer) for layer in results["layer"].values[order].tolist()]
        own = covered.sel(heuristic=heuristic).values
        enough = np.flatnonzero(own >= ENOUGH)
        first = int(enough[0]) + 1 if len(enough) else len(own)
        memory = float(results["sae_bytes"].values[order[:first]].sum())
        room = f" ({format_bytes(int(memory))} of SAEs in float32)" if np.isfinite(memory) else ""
        out.append(
            f"By {heuristic} the layers come in the order {joined(layers)}: the first has {own[0]:.0%} of these "
            f"effects together, the first {first}{room} {own[first - 1]:.0%}."
        )
    return out


def _order(results: xr.Dataset, heuristic: str) -> np.ndarray:
    if heuristic == BEST:
        return np.argsort(-results["change"].mean("list").values, kind="stable")
    return np.argsort(-results["score"].sel(heuristic=heuristic).values, kind="stable")


def _metric(results: xr.Dataset) -> str:
    attrs = results.attrs
    return f"the logit difference of {decision(attrs['direction'])} at the {attrs['own']} of {attrs['adjective']} lists"
