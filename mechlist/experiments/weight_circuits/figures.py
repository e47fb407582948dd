"""Figures of `weight-circuits`, from its saved results alone."""

import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.metrics.by_topic import ENDS

_READS = {"Q": "queries", "K": "keys", "V": "values"}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Copying, eigenvalue scores, positions, composition, induction circuits."""
    out = {"copying": _copying(results), "eigenvalues": _eigenvalues(results)}
    if "previous_position" in results:
        out["previous-position"] = _positions(results)
    if "composition" in results:
        out["composition"] = _composition(results)
    if "induction_top1" in results:
        out["induction-circuits"] = _induction(results)
    return out


def sample_words(results: xr.Dataset) -> str:
    """On which tokens shares were read, where not on all."""
    read, vocab = results.attrs["circuit_tokens"], results.attrs["vocab"]
    return "" if read >= vocab else f" Read on {read:,} of {vocab:,} tokens drawn at random."


def _copying(results: xr.Dataset) -> go.Figure:
    panels = {"most": results["copying_top1"], "among the five most": results["copying_top5"]}
    return draw.heads_panel(
        panels,
        title="Share of tokens that each head copies",
        caption="How often attending to a token raises the logit of that same token most, or among the five most; "
        f"guessing gives 1 and 5 in {results.attrs['vocab']:,}.{sample_words(results)}",
        unit="share of tokens",
        limit=1.0,
    )


def _eigenvalues(results: xr.Dataset) -> go.Figure:
    random = {kind: results[f"random_{kind}_eigenvalue_score"] for kind in ("ov", "qk")}
    told = " and ".join(
        f"{kind.upper()} {float(values.mean()):+.2f} (sd {float(values.std()):.2f})" for kind, values in random.items()
    )
    panels = {"OV (copying)": results["ov_eigenvalue_score"], "QK (same token)": results["qk_eigenvalue_score"]}
    return draw.heads_panel(
        panels,
        title="Eigenvalue scores of each head's circuits between tokens",
        caption="Sum of the eigenvalues over the sum of their sizes: near 1 what is read is written, or matched, as it "
        f"is. Random heads between the same tokens score {told}.",
        unit="score",
        diverging=True,
        limit=1.0,
    )


def _positions(results: xr.Dataset) -> go.Figure:
    return draw.head_heatmap(
        results["previous_position"],
        title="Attention to the position before, by learned positions alone",
        caption="Mean over positions, from the position embeddings through each head's queries and keys, without any "
        "token.",
        unit="attention weight",
        limit=1.0,
    )


def _composition(results: xr.Dataset) -> go.Figure:
    mean, sd = results.attrs["chance_mean"], results.attrs["chance_sd"]
    above = results["composition"] - mean
    best = above.max(["writer_layer", "writer_head"])
    panels = {
        f"{kind}: {_READS[kind]}": best.sel(kind=kind, drop=True).transpose("layer", "head")
        for kind in results["kind"].values.tolist()
    }
    return draw.heads_panel(
        panels,
        title="Composition of every head with the earlier head that it reads most",
        caption=f"Score less that of random matrices of the same sizes ({mean:.4f}, sd {sd:.4f}); grey in the first "
        "layer, which has no earlier one.",
        unit="score above random",
        diverging=True,
    )


def _induction(results: xr.Dataset) -> go.Figure:
    values = {end: results[f"induction_top1{end}"].rename(pair="category", axis="series") for end in ENDS}
    sampled = results.attrs["circuit_tokens"] < results.attrs["vocab"]
    return draw.grouped_bars(
        values[""],
        title="Induction in weights: pairs of heads with the strongest K-composition",
        caption="How often a token's own entry is the largest of the circuit, among all queries and among all keys."
        f"{sample_words(results)}",
        y_title="share of tokens",
        low=values["_low"] if sampled else None,
        high=values["_high"] if sampled else None,
    )
