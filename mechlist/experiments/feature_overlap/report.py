"""Figures, tables and sentences of the overlap between topics, from saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.figures.pairs import pair_map
from mechlist.metrics.multiple import benjamini_hochberg

LEVEL = 0.05


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """The clustered map of Jaccard indices; the original's ratio in the same order."""
    order = np.argsort(results["order"].values)
    shown = results.isel(topic=order, other_topic=order)
    labels = [str(topic) for topic in shown["topic"].values]
    survives = xr.zeros_like(shown["p_value"], dtype=bool)
    corrected = _corrected(results)[np.ix_(order, order)]
    survives.values = np.nan_to_num(corrected, nan=1.0) <= LEVEL
    note = shown["p_value"].astype(object)
    note.values = np.where(np.isnan(corrected), "", [[f"p = {p:.3g}" for p in row] for row in shown["p_value"].values])
    words = (
        ""
        if not survives.any()
        else (f" A dot: more than chance, false discovery rate at most {LEVEL} (Benjamini-Hochberg over all pairs).")
    )
    out = {
        "overlap": pair_map(
            shown["jaccard"],
            labels,
            title="Overlap of features between topics",
            caption=f"Jaccard index of the features that {results.attrs['metric']} is attributed to; positions "
            f"ignored, position 0 (BOS) {'included' if results.attrs['keep_bos'] else 'left out'}; similar topics "
            f"stand together.{words}",
            unit="Jaccard index",
            marked=survives,
            note=note,
        )
    }
    if "original_ratio" in results:
        out["original"] = pair_map(
            shown["original_ratio"],
            labels,
            title="The original study's ratio",
            caption="Shared features over entries of the row's lists, summed over pairs of lists and divided by "
            "the number of topics: neither symmetric nor bounded by 1. Topics in the order of the Jaccard map.",
            unit="ratio",
        )
    return out


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Every pair once, largest index first; and every feature, with its topics."""
    return {"pairs": pairs(results), "features": _features(results)}


def pairs(results: xr.Dataset) -> pd.DataFrame:
    """Every pair of topics once, with p values corrected over all pairs; largest index first."""
    first, second = np.triu_indices(results.sizes["topic"], 1)
    topics = results["topic"].values
    table = pd.DataFrame(
        {
            "topic": topics[first],
            "other_topic": topics[second],
            "jaccard": results["jaccard"].values[first, second],
            "p_value": results["p_value"].values[first, second],
            "p_corrected": _corrected(results)[first, second],
        }
    )
    return table.sort_values("jaccard", ascending=False, ignore_index=True, kind="stable")


def findings(results: xr.Dataset) -> list[str]:
    """Mean, extremes, how many pairs go beyond chance, and how many entries stand at BOS."""
    table = pairs(results)
    top, low = table.iloc[0], table.iloc[-1]
    out = [
        f"Over the {len(table)} pairs of topics the mean Jaccard index of their features is "
        f"{table['jaccard'].mean():.4f}; {top['topic']} and {top['other_topic']} share most ({top['jaccard']:.3f}), "
        f"{low['topic']} and {low['other_topic']} least ({low['jaccard']:.3f})."
    ]
    entries, at_bos = results.attrs["entries"], results.attrs["at_bos"]
    kept = "are counted" if results.attrs["keep_bos"] else "are left out"
    out.append(f"{at_bos} of the {entries} entries stand at position 0 (BOS) and {kept}.")
    if np.isnan(table["p_value"].to_numpy()).all():
        return [*out, "There is no test: with two topics nothing can be dealt out to them otherwise."]
    beyond = int(np.count_nonzero(table["p_corrected"].to_numpy() <= LEVEL))
    out.append(
        f"{beyond} of the {len(table)} pairs share more than where features are dealt out at random, each topic with "
        f"its number of features and each feature with its number of topics ({results.attrs['permutations']} draws, "
        f"false discovery rate at most {LEVEL})."
    )
    return out


def _corrected(results: xr.Dataset) -> np.ndarray:
    """P values adjusted over all pairs, each once; NaN on the diagonal."""
    p = results["p_value"].values
    upper = np.where(np.triu(np.ones(p.shape, dtype=bool), 1), p, np.nan)
    adjusted = benjamini_hochberg(upper)
    return np.where(np.isnan(adjusted), adjusted.T, adjusted)


def _features(results: xr.Dataset) -> pd.DataFrame:
    has = results["has"].values.astype(bool)
    topics = results["topic"].values
    table = pd.DataFrame(
        {
            "hook": results["hook"].values,
            "feature": results["number"].values,
            "n_topics": has.sum(axis=0),
            "topics": [", ".join(topics[column]) for column in has.T],
        }
    )
    return table.sort_values(["n_topics", "hook", "feature"], ascending=[False, True, True], ignore_index=True)
