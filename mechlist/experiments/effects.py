"""Means over lists of a grid of effects, with intervals and tests clustered by topic."""

from collections.abc import Hashable

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.metrics.significance import effect_table

SEED = 0
"""Of the sign flips and the bootstrap: tables and sentences follow from the results alone."""
LEVEL = 0.95


def estimated(effects: xr.DataArray) -> xr.Dataset:
    """`estimate`, `low`, `high`, `n`, `p_corrected` and `survives` of every cell, over the dimension `list`.

    Corrected are the p values for all cells of the array (max-T, signs flipped by topic). A NaN says that a list lacks
    the cell. `reason` says why there is no test, or why none can succeed.
    """
    ordered = effects.transpose("list", ...)
    dims, clusters = ordered.dims[1:], ordered["topic"].values
    found = effect_table(
        ordered.values.astype(np.float64), clusters=clusters, level=LEVEL, generator=np.random.default_rng(SEED)
    )
    columns = {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n_units}
    columns |= {"p_corrected": found.p_corrected, "survives": found.survives, "tested": found.tested}
    coords = {dim: ordered[dim] for dim in dims if dim in ordered.coords}
    return xr.Dataset({name: (dims, value) for name, value in columns.items()}, coords, {"reason": found.reason})


def rows(cells: xr.Dataset, **labels: Hashable) -> pd.DataFrame:
    """One row a cell that some list has, with constant columns in front."""
    table = cells.drop_vars("tested").to_dataframe().reset_index()
    table = table.loc[table["n"] > 0].copy()
    for place, (name, value) in enumerate(labels.items()):
        table.insert(place, name, value)
    return table


def shown(cell: xr.Dataset, digits: int = 2) -> str:
    """The estimate of one cell with its interval, where there is one."""
    value, low, high = (float(cell[name]) for name in ("estimate", "low", "high"))
    interval = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if np.isfinite([low, high]).all() else ""
    return f"{value:+.{digits}f}{interval}"


def largest(cells: xr.Dataset) -> xr.Dataset:
    """The cell with the largest estimate in size; all dimensions are left out, and their labels kept.

    Of a grid without any estimate it is the first cell.
    """
    sizes = np.nan_to_num(np.abs(cells["estimate"].values), nan=-1.0)
    place = np.unravel_index(int(sizes.argmax()), sizes.shape)
    return cells.isel(dict(zip(cells["estimate"].dims, map(int, place), strict=True)))
