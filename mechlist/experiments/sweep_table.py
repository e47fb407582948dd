"""Runs of one experiment side by side: what differs between them, and every number that they have in common."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.figures import interval_lines
from mechlist.registry import register
from mechlist.results import load_dataset
from mechlist.runner import Runner
from mechlist.runs import RESULTS, read_config
from mechlist.text import joined, number

FIGURES, TOLD = 12, 6
"""Variables that are drawn, and of which a sentence tells; the table has all."""
_OF_A_RUN = ("experiment", "parameters", "engine", "device", "memory")


@register("sweep-table")
@dataclass(frozen=True, kw_only=True)
class SweepTable(Experiment):
    """Set runs of one experiment side by side: every number of theirs against the parameters in which they differ."""

    needs_model: ClassVar[bool] = False

    runs: tuple[Path, ...] = ()
    """Directories of finished runs of one experiment, two or more."""

    def __post_init__(self) -> None:
        if len(self.runs) < 2:
            raise InputError(f"runs must be two directories of finished runs at least, not {len(self.runs)}.")

    def run(self, runner: Runner | None = None) -> xr.Dataset:  # noqa: ARG002
        """Mean, smallest and largest value of every variable that all runs have, by run."""
        configs = [_config(path) for path in self.runs]
        kinds = sorted({str(config["experiment"]) for config in configs})
        if len(kinds) > 1:
            raise InputError(f"runs must be of one experiment, not of {joined(kinds)}.")
        told = [{**config["parameters"], **config} for config in configs]
        differ = [
            name
            for name in told[0]
            if name not in _OF_A_RUN and len({json.dumps(config.get(name), default=str) for config in told}) > 1
        ]
        if not differ:
            raise InputError("runs must differ in a parameter, in the model or in the seed; these do in none.")
        saved = [load_dataset(path / RESULTS) for path in self.runs]
        names = [name for name in saved[0].data_vars if all(_numbers(one, str(name)) for one in saved)]
        values = np.array([[_summary(one[name].values) for name in names] for one in saved])
        return xr.Dataset(
            {
                name: (("run", "variable"), values.reshape(len(saved), len(names), 3)[..., n])
                for n, name in enumerate(("mean", "smallest", "largest"))
            }
            | {name: ("run", _column([config.get(name) for config in told])) for name in differ},
            {"run": [path.name for path in self.runs], "variable": [str(name) for name in names]},
            {"of": kinds[0], "swept": differ},
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Each variable against the first parameter that differs, where that is a number; a curve for the others."""
        first, *others = _swept(results)
        x = results[first].values
        if not np.issubdtype(x.dtype, np.number):
            return {}
        labels = [", ".join(f"{name} {results[name].values[n]}" for name in others) for n in range(len(x))]
        drawn = {}
        for variable in _measures(results)[:FIGURES]:
            parts = {n: _curves(results[n].sel(variable=variable), x, labels) for n in ("mean", "smallest", "largest")}
            drawn[variable] = interval_lines(
                parts["mean"],
                low=parts["smallest"],
                high=parts["largest"],
                title=f"{variable} of {results.attrs['of']} by {first}",
                caption=f"Mean of {variable} over all that a run has of it; bars run from the smallest to the largest.",
                x_title=str(first),
                y_title=str(variable),
            )
        return drawn

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """A row for each run and variable."""
        frame = results[["mean", "smallest", "largest"]].to_dataframe().reset_index()
        swept = results[_swept(results)].to_dataframe().reset_index()
        return {"sweep": swept.merge(frame, on="run").drop(columns="run")}

    def findings(self, results: xr.Dataset) -> list[str]:
        """The range of each variable's mean, and where it is largest."""
        swept = _swept(results)
        said = []
        for variable in _measures(results)[:TOLD]:
            means = results["mean"].sel(variable=variable).values
            if not np.isfinite(means).any() or np.nanmin(means) == np.nanmax(means):
                continue
            low, high = int(np.nanargmin(means)), int(np.nanargmax(means))
            where = [joined([f"{name} {results[name].values[n]}" for name in swept]) for n in (low, high)]
            said.append(
                f"The mean of {variable} goes from {number(means[low])} (with {where[0]}) to {number(means[high])} "
                f"(with {where[1]}) over {len(means)} runs."
            )
        return said or [f"No number differs between the {results.sizes['run']} runs."]


def _config(path: Path) -> dict[str, Any]:
    """The configuration of a finished run.

    Raises:
        InputError: the directory holds none.
    """
    if not all((path / name).is_file() for name in ("config.yaml", RESULTS)):
        raise InputError(f"{path} is no directory of a finished run: it must hold config.yaml and {RESULTS}.")
    config = read_config(path)
    if "experiment" not in config:
        raise InputError(f"{path / 'config.yaml'} must be the configuration of one experiment.")
    return config


def _numbers(results: xr.Dataset, name: str) -> bool:
    return name in results and np.issubdtype(results[name].dtype, np.number) and results[name].size > 0


def _summary(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, smallest and largest, of what is there."""
    found = values[np.isfinite(values)]
    return (float(found.mean()), float(found.min()), float(found.max())) if found.size else (np.nan, np.nan, np.nan)


def _column(values: list[Any]) -> np.ndarray:
    """Numbers as they are, anything else as text."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return np.array(values if numeric else [value if isinstance(value, str) else json.dumps(value) for value in values])


def _swept(results: xr.Dataset) -> list[str]:
    return [str(name) for name in np.atleast_1d(results.attrs["swept"])]


def _measures(results: xr.Dataset) -> list[str]:
    """The variables, without the ends of intervals."""
    names = [str(name) for name in results["variable"].values]
    ends = {f"{name}_{end}" for name in names for end in ("low", "high")}
    return [name for name in names if name not in ends]


def _curves(values: xr.DataArray, x: np.ndarray, labels: list[str]) -> xr.DataArray:
    """By series and x: NaN where a series has no run."""
    series, places = list(dict.fromkeys(labels)), np.unique(x)
    out = np.full((len(series), len(places)), np.nan)
    for n, label in enumerate(labels):
        out[series.index(label), np.searchsorted(places, x[n])] = values.values[n]
    return xr.DataArray(out, {"series": series, "x": places}, ("series", "x"))
