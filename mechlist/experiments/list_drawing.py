"""What the figures of the list statistics share: intervals, hover texts, and which points stand on too little."""

from typing import Any

import numpy as np
import xarray as xr

from mechlist.text import number_of

OVER_TOPICS = "95 % bootstrap intervals over topics"
OVER_LISTS = "95 % bootstrap intervals over a topic's lists"
NOT_FEW = "points that stand on fewer than 5 lists are not drawn"
ADJECTIVES = {"by_adjective": "series"}
FEWEST = 5
"""Units behind a point of a curve that is drawn, where there are as many."""


def ends(results: xr.Dataset, name: str, **renamed: str) -> dict[str, Any]:
    """Both ends of the intervals of a variable, with its dimensions renamed."""
    return {end: results[f"{name}_{end}"].rename(renamed) for end in ("low", "high")}


def enough(results: xr.Dataset, name: str, counts: str) -> xr.Dataset:
    """The variables of a curve without points that stand on few units, up to the last x that has one."""
    held = results[counts]
    fewest = np.minimum(held.max(str(held.dims[1])), FEWEST)
    shown = results[[name, f"{name}_low", f"{name}_high"]].where((held >= fewest) & (held > 0))
    told = np.flatnonzero(np.isfinite(shown[name].values).any(axis=0))
    return shown.assign({counts: held}).isel({str(held.dims[1]): slice(0, told[-1] + 1 if len(told) else 1)})


def counted(counts: xr.DataArray, unit: str) -> xr.DataArray:
    """Hover texts: how many units stand behind each value."""
    texts = [number_of(int(count), unit) for count in counts.values.ravel()]
    return counts.copy(data=np.array(texts, dtype=object).reshape(counts.shape))
