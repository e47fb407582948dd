"""Tables and sentences of `weight-circuits`, from its saved results alone."""

from statistics import NormalDist

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.plain_prompts import told
from mechlist.experiments.weight_circuits.figures import sample_words
from mechlist.metrics.by_topic import ENDS
from mechlist.text import joined, number
from mechlist.types import head_name

NAMED = 5
ALPHA = 0.05


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """One row a head, those that copy most first; one row a pair of heads; one row an induction circuit."""
    columns = [str(name) for name in results.data_vars if results[name].dims == ("layer", "head")]
    heads = results[columns].to_dataframe().reset_index()
    heads.insert(0, "name", [head_name(pair) for pair in zip(heads["layer"], heads["head"], strict=True)])
    out = {"heads": heads.sort_values("copying_top1", ascending=False, kind="stable", ignore_index=True)}
    if "composition" in results:
        out["composition"] = _pairs(results)
    if "induction_top1" in results:
        names = [f"induction_top1{end}" for end in ENDS]
        out["induction-circuits"] = results[names].to_dataframe().reset_index()
    return out


def findings(results: xr.Dataset) -> list[str]:
    """Copying, eigenvalues, positions, composition, induction circuits; each with what chance gives."""
    out = [_copying(results), _eigenvalues(results), _positions(results)]
    if "composition" not in results:
        return [*out, "The model has one layer, so there is no composition of heads and no induction circuit."]
    return [*out, _composition(results), *_induction(results)]


def _pairs(results: xr.Dataset) -> pd.DataFrame:
    frame = results["composition"].to_dataframe("score").dropna().reset_index()
    mean, sd = results.attrs["chance_mean"], results.attrs["chance_sd"]
    columns = {
        "kind": frame["kind"],
        "writer": [head_name(h) for h in zip(frame["writer_layer"], frame["writer_head"], strict=True)],
        "reader": [head_name(h) for h in zip(frame["layer"], frame["head"], strict=True)],
        "score": frame["score"],
        "above_random": frame["score"] - mean,
        "random_sds": (frame["score"] - mean) / sd,
    }
    return pd.DataFrame(columns).sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _copying(results: xr.Dataset) -> str:
    scores = results["copying_top1"]
    order = np.argsort(-scores.values.ravel(), kind="stable")[:NAMED]
    heads = [(int(i) // scores.sizes["head"], int(i) % scores.sizes["head"]) for i in order]
    named = [
        f"{head_name(head)} {told(results.isel(layer=head[0], head=head[1]), 'copying_top1', '.1%')}" for head in heads
    ]
    return (
        f"The heads whose OV circuits raise a token's own logit most, most often, are {joined(named)} of tokens; "
        f"guessing gives {1 / results.attrs['vocab']:.2%}.{sample_words(results)}"
    )


def _eigenvalues(results: xr.Dataset) -> str:
    parts = []
    for kind, words in (("ov", "OV"), ("qk", "QK")):
        random, own = results[f"random_{kind}_eigenvalue_score"].values, results[f"{kind}_eigenvalue_score"].values
        bar = float(np.quantile(random, 1 - ALPHA))
        parts.append(
            f"{int((own > bar).sum())} of {own.size} heads have a larger {words} eigenvalue score than 95 % of random "
            f"heads between the same tokens ({number(bar)}); the largest is {number(float(np.nanmax(own)))}"
        )
    return f"{'; '.join(parts)}."


def _positions(results: xr.Dataset) -> str:
    if "previous_position" not in results:
        return (
            "Attention to the position before cannot be read from these weights: the model has no learned position "
            "embedding, and rotation acts on queries and keys of tokens."
        )
    scores = results["previous_position"].values
    at = np.unravel_index(int(np.nanargmax(scores)), scores.shape)
    return (
        f"By learned positions alone, {head_name((int(at[0]), int(at[1])))} attends most to the position before, with "
        f"a mean weight of {float(scores[at]):.3f}."
    )


def _composition(results: xr.Dataset) -> str:
    """Pairs beyond chance after Bonferroni over all pairs and kinds, taking random scores as normal."""
    mean, sd = results.attrs["chance_mean"], results.attrs["chance_sd"]
    scores = results["composition"]
    pairs = int(scores.notnull().sum())
    bar = mean - sd * NormalDist().inv_cdf(ALPHA / pairs)
    parts = []
    for kind in scores["kind"].values.tolist():
        values = scores.sel(kind=kind)
        a, b, c, d = (int(i) for i in np.unravel_index(int(np.nanargmax(values.values)), values.shape))
        most = f"{head_name((a, b))} to {head_name((c, d))}, {float(values.max()):.4f}"
        parts.append(f"{kind} {int((values > bar).sum())} (most {most})")
    return (
        f"Of {pairs // 3} pairs of heads in different layers, those that compose beyond random matrices ({mean:.4f}, "
        f"sd {sd:.4f}; Bonferroni at {ALPHA:g}) are, by kind: {', '.join(parts)}."
    )


def _induction(results: xr.Dataset) -> list[str]:
    if "induction_top1" not in results:
        return []
    best = results["induction_top1"].max("axis")
    pair = str(best["pair"].values[int(np.argmax(best.values))])
    named = [
        f"{told(results.sel(pair=pair, axis=axis), 'induction_top1', '.1%')} among all {words}"
        for axis, words in (("query", "queries"), ("key", "keys"))
    ]
    return [
        f"Of the {results.sizes['pair']} pairs with the strongest K-composition, {pair} comes nearest to an induction "
        f"circuit: a token's own entry is the largest for {' and '.join(named)}."
    ]
