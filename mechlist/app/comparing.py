"""Two finished runs side by side: what was asked differently, and how far their numbers differ."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from mechlist.errors import InputError
from mechlist.results import load_dataset
from mechlist.runs import RunDirectory, differences, read_config


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and what they have not."""

    changed: tuple[str, ...]
    """Differences of their configurations, in words."""
    variables: pd.DataFrame
    """Largest difference of each variable that both have, or why it cannot be told."""


def compare_runs(one: Path, other: Path) -> Comparison:
    """The second run against the first.

    Raises:
        InputError: a run without numbers.
    """
    for path in (one, other):
        if not RunDirectory(path).results.is_file():
            raise InputError(f"{path} has no numbers to compare: choose finished runs of one experiment.")
    changed = differences(read_config(one), read_config(other))
    first, second = (load_dataset(RunDirectory(path).results) for path in (one, other))
    return Comparison(tuple(changed), compare_results(first, second))


def compare_results(first: xr.Dataset, second: xr.Dataset) -> pd.DataFrame:
    """A row a variable: its shapes, and the largest absolute difference where both are numbers of one shape."""
    rows = []
    for name in dict.fromkeys([*map(str, first.data_vars), *map(str, second.data_vars)]):
        if name not in first or name not in second:
            rows.append({"variable": name, "said": f"only in the {'first' if name in first else 'second'}"})
            continue
        rows.append({"variable": name, "said": _difference(first[name].values, second[name].values)})
    return pd.DataFrame(rows)


def _difference(a: np.ndarray, b: np.ndarray) -> str:
    if a.shape != b.shape:
        return f"shapes {a.shape} and {b.shape}"
    if a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
        return "equal" if np.array_equal(a, b) else "different labels"
    x, y = a.astype(float), b.astype(float)
    if np.array_equal(x, y, equal_nan=True):
        return "equal"
    gone = int((np.isnan(x) != np.isnan(y)).sum())
    apart = np.abs(x - y)
    largest = float(np.nanmax(apart)) if np.isfinite(apart).any() else float("nan")
    return f"largest difference {largest:.4g}" + (f"; {gone} values in one alone" if gone else "")
