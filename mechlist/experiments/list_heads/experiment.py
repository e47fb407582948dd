"""Which heads tell a short list from a long one: attribution patching at z, the strongest heads patched exactly."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.role_positions import CountFrom
from mechlist.errors import InputError
from mechlist.experiments.effects import verified
from mechlist.experiments.list_experiment import MadeListExperiment
from mechlist.experiments.list_heads import report as output
from mechlist.experiments.list_heads.statistics import with_statistics
from mechlist.experiments.list_pairs import At, ListPairs, Side, list_pairs
from mechlist.patching.arguments import prepare
from mechlist.patching.attribution import estimate_cells
from mechlist.registry import register
from mechlist.runner import Runner


@register("list-heads")
@dataclass(frozen=True, kw_only=True)
class ListHeads(MadeListExperiment):
    """Estimate what every head's output does at every role between short and long; patch the strongest exactly."""

    at: At = "item"
    """What is measured: at the last item's last token, a blank minus a line break; or at its line break, end of turn
    minus hyphen."""
    adjective: Literal["short", "long"] = "short"
    """Whose lists: those written after this adjective."""
    noising: bool = False
    """Put long into short, instead of short into long."""
    steps: int = 1
    """Gradients a layer: 1 takes the unchanged run's, more average them on the way to what is put in."""
    verify_top: int = 20
    """Heads with a role, the strongest by their mean estimate, that are patched exactly."""
    count_from: CountFrom = "end"
    """Items with roles of their own are those nearest to the last item, or to the first."""
    role_items: int = 2
    """How many they are; all other items share one role."""
    top: int = 20
    """Rows of the table of heads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "role_items", "top"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.verify_top < 0:
            raise InputError(f"verify_top must be 0 or more, not {self.verify_top}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The estimated effect of every list, head and role, and the exact one of the strongest."""
        pairs = self._pairs(runner)
        side: Side = "noising" if self.noising else "denoising"
        arguments = pairs.arguments(side, "z", "head_position")
        found = estimate_cells(runner, arguments, steps=self.steps)
        exact = verified(prepare(runner, arguments), found["effect"], self.verify_top)
        found["exact"] = exact.assign_attrs(units="logits")
        results = with_statistics(found.rename(prompt="list").assign_coords(pairs.coords))
        return results.assign_attrs(
            direction=pairs.direction.name,
            own=pairs.own,
            adjective=self.adjective,
            side=side,
            left_out=pairs.left_out,
            model=runner.language_model.info["name"],
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Heads over all roles, heads by role, and how estimates agree with exact patching."""
        return output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """The strongest heads by role, with intervals and corrected p values; and those that were patched exactly."""
        return output.tables(results, self.top)

    def findings(self, results: xr.Dataset) -> list[str]:
        """The strongest heads, exactly, and how far the estimates can be trusted."""
        return output.findings(results)

    def _pairs(self, runner: Runner) -> ListPairs:
        data = self.data(runner)
        return list_pairs(data, self.adjective, self.at, count_from=self.count_from, role_items=self.role_items)
