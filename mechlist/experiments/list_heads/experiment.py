"""Which heads carry what a factor of a list does: attribution patching at z, the strongest heads patched exactly."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.datasets.lists.factors import Factor
from mechlist.datasets.lists.role_positions import CountFrom
from mechlist.errors import InputError
from mechlist.experiment import Claim, Option
from mechlist.experiments.effects import strongest, verified
from mechlist.experiments.list_experiment import MadeListExperiment
from mechlist.experiments.list_heads import claims as told
from mechlist.experiments.list_heads import report as output
from mechlist.experiments.list_heads.shares import differing, joint, null_shares, shares, verified_until
from mechlist.experiments.list_heads.statistics import with_statistics
from mechlist.experiments.list_heads.ways import ways
from mechlist.experiments.list_pairs import At, ListPairs, Side, list_pairs
from mechlist.experiments.rules import by_rule, means_of
from mechlist.patching.arguments import PatchArguments, prepare
from mechlist.patching.attribution import estimate_cells
from mechlist.patching.gradients.gradient import Rule
from mechlist.registry import register
from mechlist.runner import Runner


@register("list-heads")
@dataclass(frozen=True, kw_only=True)
class ListHeads(MadeListExperiment):
    """Estimate what every head's output does at every role between two runs of a list; patch the strongest exactly.

    The runs differ in one factor: short or long, a filler on the last item or none, some items more or fewer. At the
    place that is measured every head is patched exactly, where that is cheap, and its share of the factor's effect is
    said; the strongest heads of one half of the topics are then changed together on the other half.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "fewer": Option(lambda experiment: "" if experiment.factor == "count" else f"with factor {experiment.factor}"),
        "ways": Option(
            lambda experiment: "" if experiment.factor == "adjective" else f"with factor {experiment.factor}"
        ),
        "random_sets": Option(lambda experiment: "" if experiment.strongest else "with strongest 0"),
    }
    captions: ClassVar[Mapping[str, str]] = {
        "heads": "the strongest heads and roles by estimate, in logits, with intervals and corrected p values",
        "verified": "heads and roles that were patched exactly, beside their estimates",
        "ways": "a row a way: what one sender adds, sent to one receiver alone; shares of what the two runs differ by",
        "shares": "a row a head: its share of what the two runs differ by, patched exactly",
    }

    factor: Factor = "adjective"
    """What the two runs differ in: the adjective, the number of items, or a filler on the last item."""
    fewer: int = 4
    """With factor count: items that the shorter run has fewer, the first ones of each list."""
    at: At | None = None
    """What is measured: at the last item's last token, a blank minus a line break; or at its line break, end of turn
    minus hyphen. By default the item with factor adjective, and the break with the others."""
    adjective: Literal["short", "long"] = "short"
    """Whose lists: those written after this adjective."""
    noising: bool = False
    """Put long into short, instead of short into long; fewer items into more, or no filler into one."""
    steps: int = 1
    """Gradients a layer: 1 takes the unchanged run's, more average them on the way to what is put in."""
    rule: Rule = "gradient"
    """What runs back from the metric: gradients, or relevance, in which norms, activation functions and gates are
    taken as linear with the coefficients of the run (RelP)."""
    verify_top: int = 20
    """Heads with a role, the strongest by their mean estimate, that are patched exactly; 0 leaves all at estimates."""
    strongest: int = 5
    """Heads at the place that is measured that must be known exactly, and that are changed together; 0 changes none."""
    random_sets: int = 20
    """Sets of as many other heads of the same layers, to compare these with."""
    null_pairs: int = 5
    """Irrelevant changes of every list, the items of the changed list in another order: what they do at each head at
    the place that is measured is the null. 19 make a threshold at .95; 0 leaves it out."""
    ways: int = 0
    """With factor adjective: so many of the strongest heads are traced back, by path patching from every earlier head
    and MLP to their queries, keys and values, and to the logits."""
    count_from: CountFrom = "end"
    """Items with roles of their own are those nearest to the last item, or to the first."""
    role_items: int = 2
    """How many they are; all other items share one role."""
    top: int = 20
    """Rows of the table of heads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "role_items", "top", "fewer"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("verify_top", "strongest", "random_sets", "null_pairs", "ways"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        if self.rule == "relp" and self.steps > 1:
            raise InputError(f"steps must be 1 with rule relp, which takes the unchanged run's, not {self.steps}.")
        if self.factor == "filler" and self.at == "item":
            raise InputError("at must be break with factor filler, not item: before the filler the two runs are one.")
        self.check_options()

    def run(self, runner: Runner) -> xr.Dataset:
        """The estimated effect of every list, head and role, the exact one of the strongest, and shares of heads."""
        pairs = self._pairs(runner)
        side: Side = "noising" if self.noising else "denoising"
        arguments = pairs.arguments(side, "z", "head_position")
        found = estimate_cells(runner, arguments, steps=self.steps, rule=self.rule)
        exact = verified(prepare(runner, arguments), found["effect"], self.verify_top)
        found["exact"] = exact.assign_attrs(units="logits")
        found["correlation"] = by_rule(
            self.rule,
            means_of(found["effect"], exact),
            means_of(exact, exact),
            lambda rule: means_of(estimate_cells(runner, arguments, rule=rule)["effect"], exact),
        )
        found = found.assign_attrs(found.attrs | {"resolution": torch.finfo(runner.language_model.dtype).eps})
        results = with_statistics(found.rename(prompt="list").assign_coords(pairs.coords))
        results = self._with_shares(runner, pairs, arguments, results)
        return results.assign_attrs(
            factor=self.factor,
            strongest=self.strongest,
            direction=pairs.direction.name,
            own=pairs.own,
            adjective=self.adjective,
            side=side,
            left_out=pairs.left_out,
            resolution=found.attrs["resolution"],
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

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return told.claims(results)

    def _pairs(self, runner: Runner) -> ListPairs:
        data = self.data(runner)
        return list_pairs(
            data,
            self.adjective,
            self.at or ("item" if self.factor == "adjective" else "break"),
            factor=self.factor,
            fewer=self.fewer,
            count_from=self.count_from,
            role_items=self.role_items,
        )

    def _with_shares(
        self, runner: Runner, pairs: ListPairs, arguments: PatchArguments, results: xr.Dataset
    ) -> xr.Dataset:
        """Heads at the place that is measured, one by one and together; nothing where nothing is verified."""
        gap = (results["source"] - results["base"]).values
        if not self.verify_top or not differing(results["base"].values, results["source"].values):
            return results
        side: Side = "noising" if self.noising else "denoising"
        own = replace(arguments, roles=pairs.own_role(side))
        if own.roles == {pairs.own: arguments.roles[pairs.own]}:  # pyright: ignore[reportOptionalSubscript]
            estimate = results["effect"].sel(role=pairs.own, drop=True)
        else:
            estimate = estimate_cells(runner, own, steps=self.steps, rule=self.rule)["effect"].isel(role=0, drop=True)
            estimate = estimate.rename(prompt="list").assign_coords(pairs.coords)
        task = prepare(runner, own)
        flat = estimate.transpose("list", "layer", "head").values.reshape(len(gap), -1)
        found = verified_until(task, flat, max(1, self.strongest), self.verify_top, every=task.reason is None)
        exact = estimate.transpose("list", "layer", "head").copy(data=found.effects.reshape(estimate.shape))
        parts = shares(estimate, exact, gap, max(1, self.strongest))
        if self.null_pairs and max(pairs.n_items) > 1:
            sources = (
                pairs.irrelevant(own, side, runner.numpy_generator(f"items in another order {draw}"))
                for draw in range(self.null_pairs)
            )
            parts["null_share"] = null_shares(runner, sources, exact, gap)
        if self.ways:
            best = strongest(parts["share"].values, self.ways)
            heads = [divmod(int(cell), runner.shape.n_heads) for cell in best]
            parts |= ways(runner, own, heads, gap, exact["topic"].values)
        if self.strongest:
            parts |= joint(runner, own, exact, gap, self.strongest, self.random_sets)
        patched = int(np.isfinite(found.effects).all(axis=0).sum())
        return results.assign(parts).assign_attrs(results.attrs | {"heads_patched": patched, "reach": found.reach})
