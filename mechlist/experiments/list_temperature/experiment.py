"""Temperature: where the rules of sampling, rather than the model's preference, end a list."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.decode import Sampling
from mechlist.errors import InputError
from mechlist.experiment import Claim
from mechlist.experiments.list_experiment import SampledListExperiment
from mechlist.experiments.list_temperature import endings as list_temperature_steps
from mechlist.experiments.list_temperature import report as list_temperature_output
from mechlist.registry import register
from mechlist.runner import Runner


@register("list-temperature")
@dataclass(frozen=True, kw_only=True)
class ListTemperature(SampledListExperiment):
    """Divide the final logit difference by the temperature, and ask where a list ends that the model would go on with.

    An ending is one of sampling noise where the end of the turn was not the most probable token.
    """

    captions: ClassVar[Mapping[str, str]] = {
        "items": "P(end) at line breaks by adjective, temperature and number of items",
        "endings": "a row an adjective and temperature of the lists as they were written",
    }

    grid: tuple[float, ...] = (0.1, 0.5, 0.7, 0.9, 1.3)
    """Temperatures at which the line breaks of the lists are looked at."""
    nucleus: float | int = 0.8
    """Nucleus (top-p) at these temperatures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.grid or len(set(self.grid)) < len(self.grid):
            raise InputError(f"grid must hold one temperature at least, each once, not {list(self.grid)}.")
        _ = self._rules

    def run(self, runner: Runner) -> xr.Dataset:
        """The logit difference and the end's probability at every line break, and how the lists did end."""
        lists = self.data(runner)
        level = list_temperature_steps.line_breaks(runner, lists, self._rules)
        level = level.assign_coords(grid=np.array(sorted(self.grid)))
        parts = [
            level,
            list_temperature_steps.by_item(runner, level, self.resamples),
            list_temperature_steps.endings(runner, level, self.resamples),
            list_temperature_steps.expected_endings(runner, level, self.resamples),
        ]
        return xr.merge(parts, compat="equals", join="exact").assign_attrs(
            model=runner.language_model.info["name"], nucleus=self.nucleus
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Logit difference, what a temperature makes of it, and the share of endings that are noise."""
        return list_temperature_output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """By item, and endings by adjective and temperature."""
        return list_temperature_output.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the results say, with intervals over topics."""
        return list_temperature_output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return list_temperature_output.claims(results)

    @property
    def _rules(self) -> list[Sampling]:
        return [Sampling(temperature=temperature, top_p=self.nucleus) for temperature in sorted(self.grid)]
