"""Figures of the induction experiment, from its saved results alone."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechlist import figures as draw
from mechlist.experiments.induction.scores import SCORES, ranked
from mechlist.types import head_name

MLP_NAMES = {
    "mlp_loss_increase": "same token, one period earlier",
    "mlp_loss_increase_other_sequence": "another sequence",
    "mlp_loss_increase_mean": "mean over sequences",
}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """In the order of the argument: behaviour, heads, patterns, ablations, MLPs, circuit, natural text."""
    out = {"halves": _halves(results), "positions": _positions(results)}
    out |= {"induction-heads": _heads(results), "ranked-heads": _ranked(results), "head-roles": _roles(results)}
    if "pattern" in results:
        out["patterns"] = _patterns(results)
    if "ablated_accuracy" in results:
        out["ablations"] = _ablations(results)
    for name, words in MLP_NAMES.items():
        if name in results:
            out[name.replace("_", "-")] = _mlp(results[name], words)
    if "k_composition" in results:
        out["k-composition"] = _composition(results)
        out["circuit"] = _circuit(results)
    if "text_induction_score" in results:
        out |= {"text-positions": _text_positions(results), "text-heads": _text_heads(results)}
    return out


def _halves(results: xr.Dataset) -> go.Figure:
    period = results.attrs["period"]
    return draw.grouped_bars(
        results["accuracy"].rename(half="category"),
        title="Accuracy in the first and the second block",
        caption="A model with induction heads fails on the first block and copies the second.",
        y_title="share of tokens predicted right",
        reference={"ceiling of induction": (period - 1) / period},
    )


def _positions(results: xr.Dataset) -> go.Figure:
    values = results["log_prob_by_position"].isel(position=slice(1, None))
    return draw.position_lines(
        {"mean over sequences": values},
        title="Log-probability of each token",
        caption="The step comes one token after the second block starts: its first token cannot be known.",
        x_title="position of the predicted token",
        y_title="log-probability (nats)",
        marks={"second block": int(results.sizes["position"]) - results.attrs["period"]},
    )


def _heads(results: xr.Dataset) -> go.Figure:
    return draw.head_heatmap(
        results["induction_score"],
        title="Induction score of every head",
        caption="Bright cells attend, from a repeated token, to the one that followed it last time.",
        unit="mean attention weight",
        limit=1.0,
    )


def _ranked(results: xr.Dataset) -> go.Figure:
    heads = ranked(results["induction_score"])[:12]
    names = [head_name(head) for head in heads]

    def column(name: str) -> xr.DataArray:
        values = [float(results[name].values[head]) for head in heads]
        return xr.DataArray(values, dims="category", coords={"category": names})

    reference = {"uniform attention": float(results["uniform_attention"].sel(score="induction_score"))}
    if "null_largest_score" in results:
        reference["untrained model, best head"] = float(
            results["null_largest_score"].sel(score="induction_score").max()
        )
    return draw.grouped_bars(
        column("induction_score"),
        title="Strongest induction heads",
        caption="Bars are means over sequences with 95 % bootstrap intervals; only heads far above the null count.",
        y_title="mean attention weight",
        reference=reference,
        low=column("induction_score_low"),
        high=column("induction_score_high"),
    )


def _roles(results: xr.Dataset) -> go.Figure:
    return draw.heads_panel(
        {words: results[name] for name, words in SCORES.items()},
        title="Five scores of every head",
        caption="A circuit needs a bright previous-token cell in a layer below a bright induction cell.",
        unit="mean attention weight",
        limit=1.0,
    )


def _patterns(results: xr.Dataset) -> go.Figure:
    return draw.attention_panel(
        results["pattern"],
        title="Attention patterns on one sequence",
        caption="The stripe one block back, shifted by one, is what the induction score averages.",
        labels=[str(x) for x in results["token"].values],
    )


def _ablations(results: xr.Dataset) -> go.Figure:
    names = {"head_set": "category", "ablation": "series"}
    ends = {end: results[f"ablated_accuracy_{end}"] for end in ("low", "high") if f"ablated_accuracy_{end}" in results}
    known = {end: values.rename(names) for end, values in ends.items() if values.notnull().all()}
    return draw.grouped_bars(
        results["ablated_accuracy"].rename(names),
        title="Accuracy on the second block without some heads",
        caption="The found heads removed, and as many others: copying that needs the found heads falls with them alone."
        + (" Intervals are 95 % bootstrap over sequences." if known else ""),
        y_title="share of tokens predicted right",
        reference={"nothing ablated": float(results["accuracy"].sel(half="second"))},
        low=known.get("low"),
        high=known.get("high"),
    )


def _mlp(values: xr.DataArray, words: str) -> go.Figure:
    period = int(np.isfinite(values.values).any(axis=0).sum())
    shown = values.isel(position=slice(-period, None)).rename(position="key", layer="query")
    return draw.position_lines(
        {f"layer {i}": shown.isel(query=i).rename(key="position") for i in range(shown.sizes["query"])},
        title=f"Loss increase when one MLP output is replaced ({words})",
        caption="One line a layer; the same-token replacement keeps the token's identity and so removes little.",
        x_title="position",
        y_title="increase of the loss (nats a token)",
    )


def _composition(results: xr.Dataset) -> go.Figure:
    writers, readers = results.sizes["writer_layer"], results.sizes["layer"]
    heads = results.sizes["head"]
    above = results["k_composition"] - results.attrs["composition_null_mean"]
    best = above.max("writer_head") if writers * readers * heads > 4096 else None
    if best is not None:
        reduced = best.max("writer_layer").rename(None)
        return draw.head_heatmap(
            reduced.transpose("layer", "head"),
            title="K-composition of every head with its best writer",
            caption="How much more a head's keys read from one earlier head than a random pair would.",
            unit="score above random",
            diverging=True,
        )
    panels = {
        f"written by {head_name((layer, head))}": above.sel(writer_layer=layer, writer_head=head).transpose(
            "layer", "head"
        )
        for layer in range(writers)
        for head in range(heads)
        if np.isfinite(above.sel(writer_layer=layer, writer_head=head).values).any()
    }
    return draw.heads_panel(
        panels,
        title="K-composition of every pair of heads",
        caption="How much more a head's keys read from an earlier head than a random pair of heads would.",
        unit="score above random",
        diverging=True,
    )


def _circuit(results: xr.Dataset) -> go.Figure:
    previous, induction = results.attrs["circuit"]
    names = {"circuit_top1_accuracy": "top 1", "circuit_top5_accuracy": "top 5"}
    read, vocab = (results.attrs.get(name, 0) for name in ("circuit_tokens", "vocab"))

    def bars(end: str) -> xr.DataArray:
        values = xr.concat([results[f"{name}{end}"] for name in names], dim="series")
        return values.assign_coords(series=list(names.values())).rename(axis="category").transpose("category", "series")

    return draw.grouped_bars(
        bars(""),
        title=f"K-composition circuit of {previous} and {induction}, from weights alone",
        caption="query: how often a key's own token is highest among all queries; key: a query's own among all keys."
        + (f" Read on {read:,} of {vocab:,} tokens drawn at random; 95 % intervals." if read < vocab else ""),
        y_title="share of the vocabulary",
        low=bars("_low") if read < vocab else None,
        high=bars("_high") if read < vocab else None,
    )


def _text_positions(results: xr.Dataset) -> go.Figure:
    values = results["text_log_prob_by_position"].isel(text_position=slice(1, None)).rename(text_position="position")
    start = int(results.sizes["text_position"]) - results.attrs["text_period"]
    return draw.position_lines(
        {"natural passage": values.assign_coords(position=np.arange(1, values.size + 1))},
        title="Log-probability of each token of a natural passage shown twice",
        caption="The second copy can be copied from the first; unlike random tokens, the first is partly predictable.",
        x_title="position of the predicted token",
        y_title="log-probability (nats)",
        marks={"second copy": start},
    )


def _text_heads(results: xr.Dataset) -> go.Figure:
    return draw.head_heatmap(
        results["text_induction_score"],
        title="Induction score of every head on the natural passage",
        caption="Heads that are bright here and on random tokens induce on anything; others need meaning.",
        unit="mean attention weight",
        limit=1.0,
    )
