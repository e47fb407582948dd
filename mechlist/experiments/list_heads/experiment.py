"""Which heads tell a short list from a long one: attribution patching at z, the strongest heads patched exactly."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from jaxtyping import Float

from mechlist.datasets.lists.role_positions import CountFrom
from mechlist.errors import InputError
from mechlist.experiments.list_experiment import MadeListExperiment
from mechlist.experiments.list_heads import report as output
from mechlist.experiments.list_pairs import At, ListPairs, Side, list_pairs
from mechlist.patching.attribution import attribution_grid
from mechlist.patching.grid import prepare
from mechlist.patching.sweep.task import Task
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
        asked: dict[str, Any] = {**pairs.asked(side), "site": "z", "per": "head_position"}
        results = attribution_grid(runner, **asked, steps=self.steps).rename(prompt="list").assign_coords(pairs.coords)
        task, axes, _ = prepare(runner, **asked)
        exact = verified(task, results["effect"].values, self.verify_top).reshape(-1, *axes.values())
        results["exact"] = (results["effect"].dims, exact, {"units": "logits"})
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


def verified(task: Task, effect: Float[np.ndarray, "list *cell"], top: int) -> Float[np.ndarray, "list cell"]:
    """The exact effect of the cells with the `top` largest mean estimates; NaN for all others.

    A mean is over the lists that have the cell.
    """
    flat = effect.reshape(len(effect), -1)
    there = np.isfinite(flat)
    size = np.abs(np.where(there, flat, 0.0).sum(axis=0) / there.sum(axis=0).clip(min=1))
    chosen = np.argsort(-size, kind="stable")[:top]
    # A cell without any effect is none of the strongest.
    chosen = chosen[size[chosen] > 0]
    if not len(chosen):
        return np.full(flat.shape, np.nan)
    values = dataclasses.replace(task, parts=task.parts.only(torch.from_numpy(chosen))).values()
    out = np.full(flat.shape, np.nan)
    exact = (values.patched - values.base[:, None]).double().numpy()
    out[:, chosen] = exact[:, chosen]
    return out
