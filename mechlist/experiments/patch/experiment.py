"""Activation patching of one or more pairs of prompts, exactly and over a whole grid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from mechlist.errors import InputError
from mechlist.experiments import noise as patch_noise
from mechlist.experiments.noise import Asked
from mechlist.experiments.pair_experiment import PairExperiment, metric_of, padded_pairs, token_labels_of
from mechlist.experiments.patch import null as patch_null
from mechlist.experiments.patch import report as patch_output
from mechlist.experiments.patch_pairs import Pairs, own_pairs, read_pairs
from mechlist.metrics.significance import Correction
from mechlist.patching.grid import patch_grid, prepare
from mechlist.patching.replacements import Mean, Replacement, Resample, Zero, donors
from mechlist.patching.sweep.cells import Per, Site
from mechlist.patching.sweep.plan import plan_patching
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.types import Plan

MetricName = Literal["logit_difference", "log_prob", "probability", "rank", "kl", "entropy", "loss"]


@register("patch")
@dataclass(frozen=True, kw_only=True)
class Patch(PairExperiment):
    """Patch a clean run into a corrupt one, every cell of a grid, and see what brings the answer back."""

    data: Literal["list", "ioi"] = "list"
    """Pairs that are built in: a finished list after "short" and after "long" (chat models), or two people's names."""
    topics: tuple[str, ...] = ("Fruits",)
    """Topics of the lists, one pair each."""
    examples: int = 8
    """Pairs of prompts with two people's names."""
    site: Site = "resid_pre"
    """Activation that is replaced."""
    per: Per = "position"
    """Cells of the grid, in each layer."""
    roles: bool = False
    """Replace all positions of a role together, such as the line break after item 2, instead of single positions."""
    metric: MetricName = "logit_difference"
    """What is measured at the end of the prompt: the answer's logit minus the wrong one's, the answer's
    log-probability, probability or rank, the KL divergence from the unchanged run, the entropy, or the loss of the
    whole prompt."""
    replacement: Literal["source", "zero", "mean", "resample"] = "source"
    """What is put in: the other run of the pair; or, into the clean run, zero, the mean over all prompts of the pairs
    by position, or another of their clean prompts, drawn at random."""
    noising: bool = False
    """Patch corrupt activations into the clean run, instead of clean ones into the corrupt run."""
    correction: Correction = "max-t"
    """Of p values over the grid: max-t holds the chance of any false alarm, benjamini-hochberg their share."""
    noise_repeats: int = 1
    """How often effects are computed again in other batches, to know their numerical noise; 0 does not measure it."""
    null_pairs: int = 0
    """Irrelevant changes of every prompt, each a draw of the null and a sweep: another place or object in prompts with
    names, another word of the instruction for lists. 19 draws make a threshold at .95."""
    null_file: Path | None = None
    """Pairs of one's own for the null, as in --pairs: as many as there are prompts, or a multiple for more draws."""
    top: int = 20
    """Rows of the table of cells with the largest effect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top < 1:
            raise InputError(f"top must be at least 1, not {self.top}.")
        for name in ("noise_repeats", "null_pairs"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        patch_null.check(self.null_pairs, self.null_file, self.replacement, own=self.own, roles=self.roles)
        if self.roles and self.own:
            raise InputError("roles are known for the built-in data only, not for pairs of one's own.")
        if self.replacement == "resample" and len(self._built_in) < 2:
            raise InputError("To resample there must be another prompt: give more pairs.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The metric of every cell and prompt, with the tokens of the prompts that are changed; noise and null."""
        found = self.found_pairs(runner)
        asked = self._fixed(runner, self._asked(found))
        results = patch_grid(runner, **asked)
        return self._checked(runner, results, results["patched"] - results["base"], asked, found)

    def plan(self, runner: Runner) -> Plan:
        """What the sweep takes, with those for noise and null."""
        found = self.found_pairs(runner)
        task, _, _ = prepare(runner, **self._fixed(runner, self._asked(found)))
        prompts = len(task.base)
        again = self.noise_repeats * patch_noise.sampled(prompts, task.parts.n_cells) / prompts
        draws = self.null_pairs if self.null_file is None else len(read_pairs(self.null_file)) // prompts
        return patch_noise.times(plan_patching(task), 1 + again + draws)

    def _sweep(self, runner: Runner, asked: Asked, batch_share: float) -> xr.DataArray:
        """Effects of every prompt and cell."""
        return patch_noise.exact_effects(runner, asked, batch_share)

    def _checked(
        self, runner: Runner, results: xr.Dataset, effects: xr.DataArray, asked: Asked, found: Pairs
    ) -> xr.Dataset:
        """The described results with the noise and the null of their effects, where they are asked for."""

        def ask(order: Sequence[int]) -> Asked:
            return patch_noise.in_order(asked, order, metric_of(self.metric, [found.pairs[i] for i in order]))

        def sweep(asked: Asked, batch_share: float) -> xr.DataArray:
            return self._sweep(runner, asked, batch_share)

        results = self._described(runner, results, asked, found)
        units = {"units": results["base"].attrs["units"]}
        if self.null_pairs or self.null_file is not None:
            null = patch_null.null((sweep(one, 1.0) for one in self._null(runner, asked, found)), effects)
            results["null"] = null.assign_attrs(units)
        if self.noise_repeats:
            noise = patch_noise.noise(runner, sweep, ask, effects, self.noise_repeats)
            results["noise"] = noise.assign_attrs(units)
        return results

    def _null(self, runner: Runner, asked: Asked, found: Pairs) -> Iterator[Asked]:
        """What to sweep for each draw of the null."""
        if self.null_file is None:
            generator = runner.generator("irrelevant tokens")
            yield from patch_null.irrelevant_sources(asked, found.irrelevant, self.null_pairs, generator)
            return
        pairs = own_pairs(runner, read_pairs(self.null_file))
        plain = replace(self, replacement="source")
        for draw in patch_null.in_draws(pairs, len(found.pairs)):
            yield plain._asked(draw)

    def _described(self, runner: Runner, results: xr.Dataset, asked: Asked, found: Pairs) -> xr.Dataset:
        """The results with the tokens of the prompts that are changed, their clusters, and what was asked."""
        labels = token_labels_of(runner, asked["base"], asked["lengths"])
        results["token"] = (("prompt", "token_position"), labels)
        if found.clusters is not None:
            results["cluster"] = ("prompt", np.array(found.clusters))
        return results.assign_attrs(
            noising=self.noising,
            per=self.per,
            metric=self.metric,
            replacement=self.replacement,
            correction=self.correction,
            model=runner.language_model.info["name"],
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The share of the effect that each cell recovers, or its effect, averaged over the prompts."""
        return patch_output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Cells by the size of their effect, and the prompts."""
        return patch_output.tables(results, self.top)

    def findings(self, results: xr.Dataset) -> list[str]:
        """The runs, and the cell that moves the metric most."""
        return patch_output.findings(results)

    @property
    def _built_in(self) -> tuple[Any, ...] | range:
        """Something for each built-in pair; two for pairs of one's own, which are counted when they are read."""
        if self.own:
            return range(2)
        return self.topics if self.data == "list" else range(self.examples)

    @staticmethod
    def _fixed(runner: Runner, asked: Asked) -> Asked:
        """The same with what chance decides decided, so that it can be asked again in another order."""
        source = asked["source"]
        if not isinstance(source, Resample):
            return asked
        return asked | {"source": donors(runner, source, asked["base"], asked["lengths"])}

    def _asked(self, found: Pairs) -> Asked:
        """Arguments of `patch_grid`."""
        clean, corrupt, lengths = padded_pairs(found.pairs)
        base = clean if self.noising or self.replacement != "source" else corrupt
        source = self._source(clean, corrupt, lengths)
        roles = dict(found.roles) if self.roles and found.roles is not None else None
        return {
            "base": base,
            "source": source,
            "site": self.site,
            "per": self.per,
            "metric": metric_of(self.metric, found.pairs),
            "lengths": lengths,
            "roles": roles,
        }

    def _source(self, clean: Tensor, corrupt: Tensor, lengths: Tensor) -> Tensor | Replacement:
        if self.replacement == "source":
            return corrupt if self.noising else clean
        if self.replacement == "zero":
            return Zero()
        if self.replacement == "mean":
            return Mean(torch.cat([clean, corrupt]), lengths.repeat(2))
        return Resample(clean, lengths)
