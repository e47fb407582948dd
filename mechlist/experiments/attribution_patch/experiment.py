"""Attribution patching of pairs of prompts: every cell estimated at once, the strongest patched exactly."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments import grid_report
from mechlist.experiments.effects import verified
from mechlist.experiments.grid_experiment import GridExperiment
from mechlist.experiments.pair_look import look_at
from mechlist.experiments.rules import FEWEST, by_rule, by_rule_words, means_of, reach_words
from mechlist.figures import agreement
from mechlist.metrics.ratios import recoverable
from mechlist.metrics.statistics import rank_correlation
from mechlist.patching.arguments import PatchArguments, prepare
from mechlist.patching.attribution import estimate_cells
from mechlist.patching.gradients.gradient import Rule
from mechlist.registry import register
from mechlist.runner import Runner


@register("attribution-patch")
@dataclass(frozen=True, kw_only=True)
class AttributionPatch(GridExperiment):
    """Estimate what patching every cell does from one backward pass, and patch the strongest cells exactly."""

    steps: int = 1
    """Gradients a layer: 1 takes the unchanged run's, more average them on the way to what is put in."""
    rule: Rule = "gradient"
    """What runs back from the metric: gradients, or relevance, in which norms, activation functions and gates are
    taken as linear with the coefficients of the run (RelP)."""
    fix_qk: bool = False
    """Keep attention's softmax exact at the sites q and k: a part of AtP*, which drops gradients (GradDrop) besides."""
    verify_top: int = 20
    """Cells, the strongest by their estimate, that are patched exactly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, not {self.steps}.")
        if self.rule == "relp" and self.steps > 1:
            raise InputError(f"steps must be 1 with rule relp, which takes the unchanged run's, not {self.steps}.")
        if self.verify_top < 0:
            raise InputError(f"verify_top must be 0 or more, not {self.verify_top}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The estimated effect of every cell and prompt, and the exact one of the strongest cells; noise and null."""

        def estimates(of: PatchArguments, rule: Rule = self.rule) -> xr.Dataset:
            steps = self.steps if rule == self.rule else 1
            return estimate_cells(runner, of, steps=steps, fix_qk=self.fix_qk, rule=rule)

        found = self.found_pairs(runner)
        seen = look_at(runner, found.pairs)
        arguments = self.arguments(runner, found)
        results = estimates(arguments)
        effects, base = results["effect"], results["base"]
        results["exact"] = verified(prepare(runner, arguments), effects, self.verify_top).assign_attrs(base.attrs)
        results["correlation"] = by_rule(
            self.rule,
            means_of(effects, results["exact"]),
            means_of(results["exact"], results["exact"]),
            lambda rule: means_of(estimates(arguments, rule)["effect"], results["exact"]),
        )
        if "source" in results:
            gap = recoverable(base.values, results["source"].values)
            results["recovered"] = effects / xr.DataArray(gap, dims="prompt")
        results = results.merge(seen).assign_attrs(estimated=True)
        # Batches are of prompts alone, and groups of fewer prompts are smaller ones.
        return self.finished(runner, results, effects, arguments, found, lambda of, _: estimates(of)["effect"])

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The estimates, and how they agree with exact patching."""
        drawn, checked, unit = grid_report.figures(results), _checked(results), results["base"].attrs["units"]
        if len(checked):
            drawn["agreement"] = agreement(
                checked["estimate"].tolist(),
                checked["exact"].tolist(),
                [grid_report.place(cell, results.attrs["site"]) for _, cell in checked.iterrows()],
                title="Estimated and exact effects",
                caption="Each point is one of the cells with the largest estimates; on the line the two are equal.",
                x_title=f"estimate ({unit})",
                y_title=f"exact ({unit})",
            )
        return drawn

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Cells by their estimate, those that were patched exactly, and the prompts."""
        return {**grid_report.tables(results, self.top), "verified": _checked(results)}

    def findings(self, results: xr.Dataset) -> list[str]:
        """What patching says, estimated, and how far the estimate can be trusted."""
        said, checked = grid_report.findings(results), _checked(results)
        if len(checked) < FEWEST:
            return [*said, "These are estimates; too few cells were patched exactly to say how good they are."]
        rank = rank_correlation(checked["estimate"].to_numpy(), checked["exact"].to_numpy())
        worst = checked.loc[(checked["estimate"] - checked["exact"]).abs().idxmax()]
        where = grid_report.place(worst, results.attrs["site"])
        rest = results["effect"].mean("prompt").where(results["exact"].isnull().all("prompt"))
        return [
            *said,
            f"These are estimates. Of the {len(checked)} cells with the largest, patched exactly, the rank correlation "
            f"is {rank:.2f}; the worst is {where}: estimated {worst['estimate']:+.3f}, exact {worst['exact']:+.3f}. "
            + reach_words(checked["estimate"], checked["exact"], rest, "cell", results["base"].attrs["units"]),
            *by_rule_words(results, "cells"),
        ]


def _checked(results: xr.Dataset) -> pd.DataFrame:
    """Means over the prompts of the cells that were patched exactly, the largest estimates first."""
    both = xr.Dataset({"estimate": results["effect"], "exact": results["exact"]}).mean("prompt")
    table = both.to_dataframe().reset_index().dropna(subset=["exact"])
    return table.sort_values("estimate", key=abs, ascending=False, ignore_index=True)
