"""Tables and sentences of `hidden-state`, from its saved results alone."""

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.text import joined, number
from mechlist.weights.outliers import bonferroni_z


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """One row a prompt and quantity; one row a component that is beyond noise by the robust scale and Bonferroni."""
    labels = results.attrs["prompts"]
    summed = results["summary"].to_series().unstack("statistic").reset_index()
    summed.insert(0, "text", [labels[n] for n in summed["prompt"]])
    entropy = results["softmax_entropy"].values[summed["prompt"]]
    summed["softmax_entropy"] = np.where(summed["quantity"] == "logits", entropy, np.nan)
    marked = results["beyond_noise"].sel(scale="robust", correction="bonferroni").values
    prompt, component = np.nonzero(marked)
    rows = {
        "text": [labels[n] for n in prompt],
        "component": component,
        "value": results["state"].values[prompt, component],
    }
    order = np.argsort(-np.abs(rows["value"]), kind="stable")
    return {"summary": summed, "components": pd.DataFrame(rows).iloc[order].reset_index(drop=True)}


def findings(results: xr.Dataset) -> list[str]:
    """Spread and tails, what is beyond noise, and which components are so after every prompt."""
    state = results["summary"].sel(quantity="hidden state")
    middle = {str(name): float(state.sel(statistic=name).median("prompt")) for name in state["statistic"].values}
    logits = results["summary"].sel(quantity="logits")
    prompts, size = results.sizes["prompt"], results.sizes["component"]
    bar = bonferroni_z(size, alpha=results.attrs["alpha"])
    counts = {
        (scale, correction): results["beyond"].sel(scale=scale, correction=correction).values
        for scale in results["scale"].values
        for correction in results["correction"].values
    }
    always = results["beyond_noise"].sel(scale="robust", correction="bonferroni").all("prompt").values
    named = np.flatnonzero(always)
    return [
        f"Over {prompts} prompts the hidden state has a median standard deviation of {number(middle['sd'])} "
        f"({number(middle['robust_sd'])} by the median absolute deviation) and an excess kurtosis of "
        f"{number(middle['kurtosis'])}; 0 is normal.",
        f"Beyond noise at {results.attrs['alpha']:g} (Bonferroni: {bar:.3f} standard deviations of {size} components) "
        f"are {_range(counts['plain', 'bonferroni'])} components of a prompt by the plain scale and "
        f"{_range(counts['robust', 'bonferroni'])} by the robust one; by Benjamini and Hochberg "
        f"{_range(counts['plain', 'benjamini-hochberg'])} and {_range(counts['robust', 'benjamini-hochberg'])}.",
        _always(named, prompts),
        f"The logits have a median standard deviation of {number(float(logits.sel(statistic='sd').median()))} and an "
        f"excess kurtosis of {number(float(logits.sel(statistic='kurtosis').median()))}; the softmax entropy goes from "
        f"{float(results['softmax_entropy'].min()):.3f} to {float(results['softmax_entropy'].max()):.3f} nats.",
    ]


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _always(named: np.ndarray, prompts: int) -> str:
    if not len(named):
        return f"No component is beyond noise after all {prompts} prompts (robust scale, Bonferroni)."
    shown = joined([str(n) for n in named[:8].tolist()]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
    plural = len(named) > 1
    return (
        f"Component{'s' if plural else ''} {shown} {'are' if plural else 'is'} beyond noise after "
        f"{'all of them' if prompts > 1 else 'it'} (robust scale, Bonferroni): a dimension that is large whatever the "
        "prompt says little about the prompt."
    )
