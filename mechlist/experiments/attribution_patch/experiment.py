"""Attribution patching of pairs of prompts: every cell estimated at once, the strongest patched exactly."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.noise import Asked
from mechlist.experiments.patch import report as patch_output
from mechlist.experiments.patch.experiment import Patch
from mechlist.figures import agreement
from mechlist.metrics.statistics import rank_correlation
from mechlist.patching.attribution import attribution_grid
from mechlist.patching.grid import prepare
from mechlist.patching.sweep.task import Task
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.types import Plan


@register("attribution-patch")
@dataclass(frozen=True, kw_only=True)
class AttributionPatch(Patch):
    """Estimate what patching every cell does from one backward pass, and patch the strongest cells exactly."""

    steps: int = 1
    """Gradients a layer: 1 takes the unchanged run's, more average them on the way to what is put in."""
    fix_qk: bool = False
    """Keep attention's softmax exact at the sites q and k."""
    verify_top: int = 20
    """Cells, the strongest by their estimate, that are patched exactly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, not {self.steps}.")
        if self.verify_top < 0:
            raise InputError(f"verify_top must be 0 or more, not {self.verify_top}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The estimated effect of every cell and prompt, and the exact one of the strongest cells; noise and null."""
        found = self.found_pairs(runner)
        asked = self._fixed(runner, self._asked(found))
        results = attribution_grid(runner, **asked, steps=self.steps, fix_qk=self.fix_qk)
        task, axes, _ = prepare(runner, **asked)
        exact = _verified(task, results["effect"].values, self.verify_top).reshape(len(task.base), *axes.values())
        results["exact"] = (results["effect"].dims, exact, results["base"].attrs)
        return self._checked(runner, results, results["effect"], asked, found)

    def _sweep(self, runner: Runner, asked: Asked, batch_share: float) -> xr.DataArray:  # noqa: ARG002 (prompts alone)
        """Estimated effects; batches are of prompts, and groups of fewer prompts are smaller ones."""
        return attribution_grid(runner, **asked, steps=self.steps, fix_qk=self.fix_qk)["effect"]

    def plan(self, runner: Runner) -> Plan:
        """All passes, and the exact patching of the strongest cells."""
        return self.rehearse(runner).plan

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The estimates, and how they agree with exact patching."""
        drawn = patch_output.figures(_as_patched(results))
        checked = _pairs_of(results)
        if len(checked):
            drawn["agreement"] = agreement(
                checked["estimate"].tolist(),
                checked["exact"].tolist(),
                _names(checked),
                title="Estimated and exact effects",
                caption="Each point is one of the cells with the largest estimates; on the line the two are equal.",
                x_title=f"estimate ({results['base'].attrs.get('units', '')})",
                y_title=f"exact ({results['base'].attrs.get('units', '')})",
            )
        return drawn

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Cells by their estimate, those that were patched exactly, and the prompts."""
        return {**patch_output.tables(_as_patched(results), self.top), "verified": _pairs_of(results)}

    def findings(self, results: xr.Dataset) -> list[str]:
        """What patching says, estimated, and how far the estimate can be trusted."""
        sentences = patch_output.findings(_as_patched(results))
        checked = _pairs_of(results)
        if len(checked) < 3:
            return [*sentences, "These are estimates; too few cells were patched exactly to say how good they are."]
        rank = rank_correlation(checked["estimate"].to_numpy(), checked["exact"].to_numpy())
        worst = checked.loc[(checked["estimate"] - checked["exact"]).abs().idxmax()]
        named = _names(checked.loc[[worst.name]])[0]
        return [
            *sentences,
            f"These are estimates. Of the {len(checked)} cells with the largest, patched exactly, the rank correlation "
            f"is {rank:.2f}; the worst is at {named}: estimated {worst['estimate']:+.3f}, exact {worst['exact']:+.3f}.",
        ]


def _verified(task: Task, effect: np.ndarray, top: int) -> np.ndarray:
    """The exact effect of the cells with the `top` largest mean estimates; NaN for all others."""
    size = np.abs(np.nan_to_num(effect).mean(axis=0)).ravel()
    # A cell without any effect is none of the strongest.
    chosen = torch.from_numpy(np.argsort(-size, kind="stable")[:top].copy())
    chosen = chosen[torch.from_numpy(size)[chosen] > 0]
    if not len(chosen):
        return np.full((len(effect), size.size), np.nan)
    parts = task.parts.only(chosen)
    values = dataclasses.replace(task, parts=parts).values()
    return (values.patched - values.base[:, None]).double().numpy()


def _as_patched(results: xr.Dataset) -> xr.Dataset:
    """The estimates by the names of activation patching, so that its figures and tables serve."""
    out = results.assign(patched=results["base"] + results["effect"]).assign_attrs(estimated=True)
    out["patched"].attrs = results["base"].attrs
    if "source" in results:
        gap = results["source"] - results["base"]
        out["recovered"] = results["effect"] / gap.where(gap != 0)
    order = results["effect"].dims
    return out.assign({name: out[name].transpose(*order) for name in ("patched", "recovered") if name in out})


def _pairs_of(results: xr.Dataset) -> pd.DataFrame:
    """Means over the prompts of the cells that were patched exactly, the largest estimates first."""
    both = xr.Dataset({"estimate": results["effect"], "exact": results["exact"]}).mean("prompt")
    table = both.to_dataframe().reset_index().dropna(subset=["exact"])
    return table.sort_values("estimate", key=abs, ascending=False, ignore_index=True)


def _names(table: pd.DataFrame) -> list[str]:
    places = [name for name in ("layer", "head", "position", "role") if name in table]
    return [", ".join(f"{n} {v}" for n, v in zip(places, row, strict=True)) for row in table[places].to_numpy()]
