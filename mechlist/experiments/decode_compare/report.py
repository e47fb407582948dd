"""Figures, tables and sentences of `decode-compare`, from its saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments.decode_compare.compare import MEASURES
from mechlist.figures import grouped_bars
from mechlist.text import joined, number_of, unescaped, visible

FIGURES = {
    "log_prob_per_token": (
        "Log-probability of the texts under the plain model",
        "Mean over tokens and texts, behind the plain prompt: nearer to zero is what the model itself finds likely.",
        "nats a token",
    ),
    "kl": (
        "How far the next-token distribution is moved",
        "KL(distribution that tokens are chosen from || the plain model's), mean over tokens and texts. Rules on "
        "words and the steering text are measured before the greedy choice; beams have no such distribution.",
        "nats",
    ),
    "distance": (
        "How much the texts of one prompt differ",
        "Mean distance of two texts' token frequencies: 0 the same, 1 none shared. Without drawing there is one text.",
        "distance",
    ),
    "distinct_2": (
        "How little the texts repeat themselves",
        "Different pairs of neighbouring tokens as a share of all, within the texts of one prompt.",
        "share",
    ),
}


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Bars by strategy, one colour a kind of prompt."""
    drawn = {}
    for name, (title, caption, unit) in FIGURES.items():
        values = results[name].groupby("kind").mean("prompt").dropna("strategy", how="all")
        if values.sizes["strategy"]:
            values = values.rename(strategy="category", kind="series").sel(series=_kinds(results))
            drawn[name.replace("_", "-")] = grouped_bars(values, title=title, caption=caption, y_title=unit)
    return drawn


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Means by strategy over all prompts; every text."""
    means = results[list(MEASURES)]
    strategies = means.mean("prompt").to_dataframe().reset_index()
    texts = [
        {
            "kind": str(results["kind"][i].item()),
            "prompt": visible(unescaped(str(results["prompt_text"][i].item()))),
            "strategy": str(results["strategy"][j].item()),
            "text": visible(unescaped(text)),
        }
        for i in range(results.sizes["prompt"])
        for j in range(results.sizes["strategy"])
        for text in results["text"].values[i, j]
        if text
    ]
    return {"strategies": strategies, "texts": pd.DataFrame(texts)}


def findings(results: xr.Dataset) -> list[str]:
    """The largest move of the distribution, what beams gain over greedy decoding, and the most varied strategy."""
    means = results[["log_prob", "kl", "distance"]].mean("prompt")
    kl = means["kl"].dropna("strategy")
    most, least = kl.isel(strategy=kl.values.argmax()), kl.isel(strategy=kl.values.argmin())
    said = [
        f"{number_of(results.sizes['prompt'], 'prompts')} ({joined(_kinds(results))}), "
        f"{number_of(results.sizes['strategy'], 'strategies')}.",
        f"The next-token distribution is moved most by {most['strategy'].item()} ({float(most):.3f} nats, mean over "
        f"the tokens) and least by {least['strategy'].item()} ({float(least):.3f}).",
    ]
    gain = (results["log_prob"].sel(strategy="beams") - results["log_prob"].sel(strategy="greedy")).values
    better = int((gain > 1e-6).sum())
    said.append(
        f"Beam search writes texts of {float(gain.mean()):+.2f} nats against greedy decoding on average (mean over the "
        f"beams that are kept); more probable ones on {better} of {number_of(len(gain), 'prompts')}."
    )
    distance = means["distance"].dropna("strategy")
    if distance.size:
        widest = distance.isel(strategy=distance.values.argmax())
        said.append(
            f"Texts of one prompt differ most under {widest['strategy'].item()} (mean distance {float(widest):.3f})."
        )
    return said


def _kinds(results: xr.Dataset) -> list[str]:
    return list(dict.fromkeys(str(kind) for kind in np.atleast_1d(results["kind"].values)))
