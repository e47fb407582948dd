"""Tables and sentences of `output-basis`, from its saved results alone."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.text import joined, number, number_of, visible, with_interval

NAMED = 8
_NUMBERS = (
    "norm",
    "sd",
    "kurtosis",
    "entropy",
    "entropy_typical",
    "entropy_prompt",
    "typical_size",
    "prompt_value",
    "gain",
)


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """One row a dimension, those furthest out first; the outliers of any method by themselves."""
    methods = [str(name) for name in results["method"].values]
    frame = pd.DataFrame({"dimension": results["dimension"].values})
    for name in _NUMBERS:
        frame[name] = results[name].values
    for method in methods:
        frame[f"z, {method}"] = results["outlier_score"].sel({"method": method}).values
    for end in ("up", "down"):
        frame[end] = [_tokens(row) for row in results[f"{end}_text"].values.tolist()]
    frame.insert(1, "outlier_by", results["outlier"].sum("method").values)
    furthest = results["outlier_score"].max("method").values
    order = np.lexsort((-furthest, -results["outlier"].sum("method").values))
    ordered = frame.iloc[order].reset_index(drop=True)
    return {"dimensions": ordered, "outliers": ordered[ordered["outlier_by"] > 0].reset_index(drop=True)}


def findings(results: xr.Dataset) -> list[str]:
    """What was read, how uniform dimensions are at which size, outliers with their tokens, and the controls."""
    out = [_read(results), _uniform(results), _controls(results)]
    return [*out, *_outliers(results), *_kinds(results), *_conventions(results)]


def _read(results: xr.Dataset) -> str:
    gain = "with the final norm's gain taken in" if results.attrs["fold_gain"] else "without the final norm's gain"
    factor = results.attrs["tied_factor"]
    tied = (
        "The embedding is a different matrix."
        if not factor
        else "It is the embedding itself."
        if factor == 1
        else f"The embedding is the same matrix times {factor:g}."
    )
    return (
        f"Read is the unembedding of {results.sizes['dimension']} dimensions and {results.attrs['vocab']:,} tokens, "
        f"{results.attrs['basis']}, {gain}. {tied}"
    )


def _uniform(results: xr.Dataset) -> str:
    uniform = float(np.log(results.attrs["vocab"]))
    deficit = {name: uniform - results[name].values for name in ("entropy", "entropy_typical", "entropy_prompt")}
    second_order = results["sd"].values ** 2 / 2
    agrees = float(np.median(deficit["entropy"] / np.where(second_order > 0, second_order, np.nan)))
    times = np.median(deficit["entropy_typical"]) / max(float(np.median(deficit["entropy"])), 1e-300)
    return (
        f"At coefficient 1 the softmax of the median dimension lies {np.median(deficit['entropy']):.3g} nats below "
        f"uniform ({uniform:.5f} nats), {agrees:.3f} times what the variance of its weights gives to second order; at "
        f"its typical size {np.median(deficit['entropy_typical']):.3g} nats, {times:.3g} times as far, and at most "
        f"{deficit['entropy_typical'].max():.3g}; at its value on the first prompt at most "
        f"{deficit['entropy_prompt'].max():.3g}."
    )


def _controls(results: xr.Dataset) -> str:
    own, random = results["kurtosis"].values, results["random_kurtosis"].values
    bar = float(np.nanquantile(random, 0.95))
    return (
        f"The median dimension has an excess kurtosis of {number(float(np.nanmedian(own)))} over the vocabulary, the "
        f"median of {len(random)} random directions {number(float(np.nanmedian(random)))}; {np.mean(own > bar):.1%} of "
        "the dimensions exceed the 95th percentile of the random ones."
    )


def _outliers(results: xr.Dataset) -> list[str]:
    found = results["outlier"].sum("dimension").values.tolist()
    counts = [f"{count} by {method}" for count, method in zip(found, results["method"].values.tolist(), strict=True)]
    every = np.flatnonzero(results["outlier"].all("method").values)
    said = f"Of {results.sizes['dimension']} dimensions {joined(counts)} are outliers, {len(every)} by all three."
    order = np.argsort(-results["outlier_score"].max("method").values, kind="stable")
    named = [int(n) for n in order if n in set(every.tolist())][:3]
    return [said, *(f"Dimension {n} writes {_ends(results, n)}." for n in named)]


def _ends(results: xr.Dataset, n: int) -> str:
    up, down = (_tokens(results[f"{end}_text"].values[n, :5].tolist()) for end in ("up", "down"))
    return f"up {up}; and down {down}"


def _kinds(results: xr.Dataset) -> list[str]:
    share = 1 - results["kind_share"].sel(kind="English letters")
    if share.isnull().any():
        return []
    low, high = (1 - results[f"kind_share_{end}"].sel(kind="English letters") for end in ("high", "low"))
    parts = [
        with_interval(float(share.sel(group=group)), float(low.sel(group=group)), float(high.sel(group=group)), ".1%")
        for group in share["group"].values.tolist()
    ]
    return [
        f"Of the tokens at the ends of outliers {parts[0]} have no letters or others than English ones, of those at "
        f"the ends of other dimensions {parts[1]}."
    ]


def _conventions(results: xr.Dataset) -> list[str]:
    """What a reader must know of the vocabulary and the logits."""
    attrs, said = results.attrs, []
    if attrs["equal_tokens"]:
        said.append(f"{number_of(attrs['equal_tokens'], 'tokens')} have exactly the column of another token")
    if attrs["unnamed_tokens"]:
        said.append(f"{number_of(attrs['unnamed_tokens'], 'columns')} have no token in the tokenizer")
    if attrs["output_bias"]:
        said.append("the model adds a bias to its logits, which is left out here")
    if attrs["softcap"]:
        said.append(f"it softcaps its logits at {attrs['softcap']:g}, which is left out here")
    return [f"To know: {joined(said)}."] if said else []


def _tokens(texts: list[str]) -> str:
    return ", ".join(f'"{visible(json.loads(text))}"' for text in texts)
