"""What experiments share that patch every cell of a grid: what is put where, and against what the effects are held."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechlist.datasets.pairs.pair import Pairs, own_pairs, read_pairs
from mechlist.errors import InputError
from mechlist.experiment import Option
from mechlist.experiments.effects import MEAN, estimated_prompts, saved
from mechlist.experiments.pair_experiment import (
    PROMPT_GROUP,
    PairExperiment,
    metric_of,
    padded_pairs,
    pair_options,
)
from mechlist.metrics.significance import Correction
from mechlist.patching.arguments import PatchArguments, token_labels_of
from mechlist.patching.noise import EffectsOf, noise
from mechlist.patching.null import irrelevant_sources, null
from mechlist.patching.replacements import Mean, Replacement, Resample, Zero
from mechlist.patching.sweep.cells import Per, Site
from mechlist.runner import Runner

MetricName = Literal["logit_difference", "log_prob", "probability", "rank", "kl", "entropy", "loss"]
ReplacementName = Literal["source", "zero", "mean", "resample"]


def _into_clean(experiment: "GridExperiment") -> str:
    """Where the direction is fixed: a replacement that is no run of the pair goes into the clean one."""
    if experiment.replacement == "source":
        return ""
    return f"with replacement {experiment.replacement}, which goes into the clean run anyway"


@dataclass(frozen=True, kw_only=True)
class GridExperiment(PairExperiment):
    """Base of experiments on every cell of a grid: of a site, layer by layer, by position, role or head."""

    options: ClassVar[Mapping[str, Option]] = {
        **pair_options(data="list", topics=("Fruits",), examples=8),
        "noising": Option(_into_clean),
    }
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **PROMPT_GROUP,
        "what is patched": ("site", "per", "roles", "replacement", "noising"),
        "what is measured": ("metric",),
        "statistics": ("correction", "noise_repeats", "null_pairs", "null_file", "top"),
    }

    data: Literal["list", "ioi"] | None = None
    """Pairs that are built in: a finished list after "short" and after "long" (chat models), or two people's names; by
    default list."""
    topics: tuple[str, ...] | None = None
    """Topics of the lists, one pair each; by default Fruits."""
    examples: int | None = None
    """Pairs of prompts with two people's names; by default 8."""
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
    replacement: ReplacementName = "source"
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
        self._check_null()
        if self.roles and self.own:
            raise InputError("roles are known for the built-in data only, not for pairs of one's own.")
        if self.replacement == "resample" and self._at_least < 2:
            raise InputError("To resample there must be another prompt: give more pairs.")

    def arguments(self, runner: Runner, found: Pairs) -> PatchArguments:
        """What is patched, with what chance decides decided."""
        return self._arguments(found, self.replacement).drawn(runner)

    def finished(
        self,
        runner: Runner,
        results: xr.Dataset,
        effects: xr.DataArray,
        arguments: PatchArguments,
        found: Pairs,
        effects_of: EffectsOf,
    ) -> xr.Dataset:
        """The described results, with the noise and the null of their effects where they are wanted, and their means.

        Args:
            runner: with the model.
            results: of the sweep.
            effects: by prompt and cell.
            arguments: of the sweep.
            found: the pairs.
            effects_of: computes the effects of other arguments.
        """
        results = self._described(runner, results, arguments, found)
        units = {"units": results["base"].attrs["units"]}
        if self.null_pairs or self.null_file is not None:
            draws = (effects_of(one, 1.0) for one in self._null(runner, arguments, found))
            results["null"] = null(draws, effects).assign_attrs(units)
        if self.noise_repeats:
            measured = noise(runner, effects_of, arguments, effects, self.noise_repeats)
            results["noise"] = measured.assign_attrs(units)
        return results.assign(saved(estimated_prompts(results, effects), MEAN, units["units"]))

    @property
    def _at_least(self) -> int:
        """Pairs that there are; two of one's own, which are counted when they are read."""
        if self.own:
            return 2
        return len(self.value_of("topics")) if self.origin == "list" else self.value_of("examples")

    def _check_null(self) -> None:
        """Whether this null can be had."""
        if self.null_pairs and self.null_file is not None:
            raise InputError("null_pairs and null_file exclude each other: give one of them.")
        if self.null_pairs and self.own:
            raise InputError("null_pairs are known for the built-in data only: give null_file for pairs of one's own.")
        if self.null_file is not None and self.roles:
            raise InputError("roles are not known for the pairs of null_file: take null_pairs, or leave out roles.")
        if (self.null_pairs or self.null_file is not None) and self.replacement in ("zero", "mean"):
            raise InputError(
                f"null_pairs and null_file are for replacements that come from a run, source or resample, not "
                f"{self.replacement}: a token that should not matter does not say what {self.replacement} does."
            )

    def _null(self, runner: Runner, arguments: PatchArguments, found: Pairs) -> Iterator[PatchArguments]:
        """What to sweep for each draw of the null."""
        if self.null_file is None:
            generator = runner.generator("irrelevant tokens")
            yield from irrelevant_sources(arguments, found.irrelevant, self.null_pairs, generator)
            return
        pairs = own_pairs(runner, read_pairs(self.null_file), vocabulary=runner.shape.d_vocab_out)
        for draw in pairs.in_draws(len(found.pairs)):
            yield self._arguments(draw, "source")

    def _arguments(self, found: Pairs, replacement: ReplacementName) -> PatchArguments:
        clean, corrupt, lengths = padded_pairs(found.pairs)
        sources: dict[ReplacementName, Tensor | Replacement] = {
            "source": corrupt if self.noising else clean,
            "zero": Zero(),
            "mean": Mean(torch.cat([clean, corrupt]), lengths.repeat(2)),
            "resample": Resample(clean, lengths),
        }
        return PatchArguments(
            base=clean if self.noising or replacement != "source" else corrupt,
            source=sources[replacement],
            site=self.site,
            per=self.per,
            metric=metric_of(self.metric, found.pairs),
            lengths=lengths,
            roles=dict(found.roles) if self.roles and found.roles is not None else None,
        )

    def _described(self, runner: Runner, results: xr.Dataset, arguments: PatchArguments, found: Pairs) -> xr.Dataset:
        """The results with the tokens of the prompts that are changed, their clusters, and what was patched."""
        assert arguments.lengths is not None
        labels = token_labels_of(runner, arguments.base, arguments.lengths)
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
