"""What is known of a circuit's faithfulness and of the scores of edges: computed once, saved, and read again."""

from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.experiments.effects import SEED, estimated, read, saved
from mechlist.metrics.faithfulness import faithfulness, faithfulness_interval

SCORE = "mean_score"
"""Name of the mean scores over prompts."""
MIB = ("mib_metric", "mib_complement", "mib_absolute")
MEASURED = ("circuit_metric", "complement_metric", *MIB, "random", "chosen", "without", "held_out")
"""What has a faithfulness."""
WITH_INTERVAL = ("circuit_metric", "complement_metric", "chosen", "held_out")


def with_statistics(results: xr.Dataset) -> xr.Dataset:
    """The results with the faithfulness of all that was measured, and the mean scores of edges; over prompts."""
    base, empty = results["base"].values, results["empty"].values
    labels = results["cluster"].values if "cluster" in results else None
    variables = {}
    for name in (one for one in MEASURED if one in results):
        dims, values = results[name].dims[1:], results[name].values
        variables[f"{name}_faithfulness"] = (dims, faithfulness(values, base, empty))
        if name in WITH_INTERVAL:
            interval = partial(faithfulness_interval, values, base, empty, clusters=labels)
            ends = interval(generator=np.random.default_rng(SEED))
            variables |= {f"{name}_faithfulness_{end}": (dims, getattr(ends, end)) for end in ("low", "high")}
    cells = estimated(results["score"], "prompt", clusters=labels)
    return results.assign(variables).assign(saved(cells, SCORE, results["base"].attrs["units"]))


def shares(results: xr.Dataset, name: str) -> np.ndarray:
    """Faithfulness of everything that was measured under a name."""
    return results[f"{name}_faithfulness"].values


def interval(results: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of `shares`; NaN with one cluster."""
    low, high = (results[f"{name}_faithfulness_{end}"].values for end in ("low", "high"))
    return low, high


def scores(results: xr.Dataset) -> xr.Dataset:
    """Mean scores of all edges, with intervals and tests; see `mechlist.experiments.effects.read`."""
    return read(results, SCORE)


def verified(results: xr.Dataset) -> pd.DataFrame:
    """Score and exact effect of the edges that were patched one by one."""
    exact = (results["exact"] - results["base"]).mean("prompt").values
    names = results["verified"].values.tolist()
    score = scores(results)["estimate"].sel(edge=names).values
    return pd.DataFrame({"edge": names, "score": score, "exact": exact})
