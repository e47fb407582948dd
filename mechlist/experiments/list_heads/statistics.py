"""What is known of heads on lists: means with intervals and tests, and how estimates rank what was verified; saved."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from mechlist.experiments.effects import EPSILON, MEAN, SEED, estimated_lists, read, rounding, rows, saved
from mechlist.metrics.by_topic import ENDS, LEVEL
from mechlist.metrics.ratios import ratio_draws
from mechlist.metrics.statistics import rank_correlation

EXACT = "mean_exact"
WHOLE = "mean_effect_of_head"
"""Of a head at all roles together."""
RUNS = ("base", "source")
FEWEST = 3
"""Cells from which on a rank correlation says something."""
RESAMPLES = 1000


class Agreement(NamedTuple):
    """How estimates rank the cells that were patched exactly."""

    rank: float
    """Spearman's correlation of mean estimates and mean exact effects."""
    low: float
    high: float


def with_statistics(results: xr.Dataset) -> xr.Dataset:
    """The results with means over lists: of the runs, of estimated and exact effects, and how these agree."""
    values = {MEAN: results["effect"], EXACT: results["exact"]}
    values[WHOLE] = results["effect"].sum("role", min_count=1)
    values |= {f"mean_{name}": results[name] for name in RUNS}
    noise = rounding(results["base"], results.attrs.get("resolution", EPSILON))
    for name, of_lists in values.items():
        results = results.assign(saved(estimated_lists(of_lists, noise), name, "logits").data_vars)
    found = zip(ENDS, _agreement(results), strict=True)
    return results.assign({f"rank_correlation{end}": ((), value) for end, value in found})


def rank_agreement(results: xr.Dataset) -> Agreement:
    """Of the cells that were patched exactly; the interval is a bootstrap over topics. NaN with too few cells."""
    return Agreement(*(float(results[f"rank_correlation{end}"]) for end in ENDS))


def checked_cells(results: xr.Dataset) -> pd.DataFrame:
    """Means over lists of the cells that were patched exactly, the largest estimates first; with intervals."""
    exact = read(results, EXACT)
    exact = exact.assign(exact=exact["estimate"], estimate=read(results, MEAN)["estimate"])
    columns = ["layer", "head", "role", "estimate", "exact", "low", "high", "n", "p_corrected"]
    table: pd.DataFrame = rows(exact).loc[:, columns]
    return table.sort_values("estimate", key=np.abs, ascending=False, ignore_index=True)


def _agreement(results: xr.Dataset) -> Agreement:
    pair = [
        results[name].stack(cell=("layer", "head", "role")).transpose("list", "cell") for name in ("effect", "exact")
    ]
    chosen = pair[1].notnull().any("list").values
    if chosen.sum() < FEWEST:
        return Agreement(np.nan, np.nan, np.nan)
    values = [one.values[:, chosen].astype(float) for one in pair]
    there = np.isfinite(values[0]) & np.isfinite(values[1])
    filled, weight = [np.where(there, one, 0.0) for one in values], there.astype(float)
    rank = rank_correlation(*(one.sum(axis=0) / weight.sum(axis=0) for one in filled))
    topics = results["topic"].values
    if len(np.unique(topics)) < 2:
        return Agreement(rank, np.nan, np.nan)
    both, weights = np.concatenate(filled, axis=1), np.tile(weight, 2)
    generator = np.random.default_rng(SEED)
    drawn = ratio_draws(both, weights, topics, resamples=RESAMPLES, generator=generator)
    low, high = drawn.map(_ranks).interval(LEVEL)
    return Agreement(rank, float(low[0]), float(high[0]))


def _ranks(rows: Float[np.ndarray, "row cell"]) -> Float[np.ndarray, "row one"]:
    """Rank correlation of the two halves of each row; NaN where a cell is."""
    return np.array([[rank_correlation(*np.split(row, 2)) if np.isfinite(row).all() else np.nan] for row in rows])
