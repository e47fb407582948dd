"""Activation patching of one or more pairs of prompts, exactly and over a whole grid."""

from dataclasses import dataclass
from functools import partial

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiments import grid_report
from mechlist.experiments.grid_experiment import GridExperiment
from mechlist.experiments.pair_look import look_at
from mechlist.patching.grid import patch_cells
from mechlist.patching.noise import exact_effects
from mechlist.registry import register
from mechlist.runner import Runner


@register("patch")
@dataclass(frozen=True, kw_only=True)
class Patch(GridExperiment):
    """Patch a clean run into a corrupt one, every cell of a grid, and see what brings the answer back."""

    def run(self, runner: Runner) -> xr.Dataset:
        """The metric of every cell and prompt, with the tokens of the prompts that are changed; noise and null."""
        found = self.found_pairs(runner)
        seen = look_at(runner, found.pairs)
        arguments = self.arguments(runner, found)
        results = patch_cells(runner, arguments)
        effects = results["patched"] - results["base"]
        return self.finished(runner, results, effects, arguments, found, partial(exact_effects, runner)).merge(seen)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The share of the effect that each cell recovers, or its effect, averaged over the prompts."""
        return grid_report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Cells by the size of their effect, and the prompts."""
        return grid_report.tables(results, self.top)

    def findings(self, results: xr.Dataset) -> list[str]:
        """The runs, and the cell that moves the metric most."""
        return grid_report.findings(results)
