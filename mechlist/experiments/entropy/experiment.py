"""Entropy along lists: how sure the model is of the next token after an item and after its line break."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.experiment import Claim
from mechlist.experiments.entropy import report as entropy_output
from mechlist.experiments.entropy.moments import entropies, last_items, means
from mechlist.experiments.list_experiment import MadeListExperiment
from mechlist.registry import register
from mechlist.runner import Runner


@register("entropy")
@dataclass(frozen=True, kw_only=True)
class Entropy(MadeListExperiment):
    """Entropy of the next token by item of lists, as written and with short and long exchanged in the prompt."""

    captions: ClassVar[Mapping[str, str]] = {
        "curves": "means over lists by place, run and item, with intervals over topics",
        "matched": "last items against other items of equal number and filler, with intervals over topics",
        "lists": "a row a list, place, run and item",
    }

    def run(self, runner: Runner) -> xr.Dataset:
        """Entropy and varentropy of every list and item, and their means over lists."""
        lists = self.data(runner)
        results = entropies(runner, lists)
        generator = runner.numpy_generator("entropy bootstrap")
        results = results.merge(means(results, generator)).merge(last_items(results, generator))
        return results.assign_attrs(origin=lists.origin, model=runner.language_model.info["name"])

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Mean curves from either end, last items against others, and every list, also with the adjective swapped."""
        return entropy_output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """The mean curves with their intervals; every list."""
        return entropy_output.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """Entropy at the last item, also against others of its number and filler, and what the adjective changes."""
        return entropy_output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return entropy_output.claims(results)
