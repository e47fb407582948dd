"""What heads on lists show in a line, from saved results alone."""

from typing import Any

import numpy as np
import xarray as xr

from mechlist.experiment import Claim
from mechlist.metrics.by_topic import ENDS
from mechlist.text import with_interval
from mechlist.types import head_name


def claims(results: xr.Dataset) -> list[Claim]:
    """The head with the largest share of what differs, where shares are known; else the largest exact effect."""
    letter = str(results.attrs["direction"])[0]
    if "share" in results and np.isfinite(results["share"]).any():
        (layer, head), share = _largest(results, "share", ("layer", "head"))
        where = f"{head_name((int(layer), int(head)))} at the {results.attrs['own']}"
        text = f"{where} carries {with_interval(*share, '.0%')} of what the two runs differ by in {letter}."
        return [Claim(text, "shares")]
    if "mean_exact" not in results or not np.isfinite(results["mean_exact"]).any():
        return []
    (layer, head, role), effect = _largest(results, "mean_exact", ("layer", "head", "role"))
    whole = float(results["mean_source"] - results["mean_base"])
    moved = with_interval(*effect, unit="logits")
    where = f"{head_name((int(layer), int(head)))} at the {role}"
    return [Claim(f"{where} moves {letter} most of all heads, by {moved} of {whole:+.2f}.", "heads")]


def _largest(
    results: xr.Dataset, name: str, dims: tuple[str, ...]
) -> tuple[tuple[Any, ...], tuple[float, float, float]]:
    """Where the value farthest from 0 is, and the value with its ends."""
    found = results[[f"{name}{end}" for end in ENDS if f"{name}{end}" in results]].stack(cell=dims)
    best = found.isel(cell=int(np.nan_to_num(np.abs(found[name].values), nan=-1.0).argmax()))
    value, low, high = (float(best[f"{name}{end}"]) if f"{name}{end}" in best else np.nan for end in ENDS)
    return best["cell"].item(), (value, low, high)
