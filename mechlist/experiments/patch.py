"""Activation patching of one or more pairs of prompts, exactly and over a whole grid."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments import patch_output
from mechlist.experiments.patch_pairs import KEYS, Pairs, list_pairs, name_pairs, own_pairs, read_pairs
from mechlist.figures import visible
from mechlist.metrics.answers import LogitDifference, LogProb, Probability, Rank
from mechlist.metrics.distributions import Entropy, KLFromBase, Loss
from mechlist.metrics.measure import Metric
from mechlist.patching.cells import Per, Site
from mechlist.patching.grid import patch_grid, prepare
from mechlist.patching.plan import plan_patching
from mechlist.patching.replacements import Mean, Replacement, Resample, Zero
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.batching import pad_right
from mechlist.types import Plan

MetricName = Literal["logit_difference", "log_prob", "probability", "rank", "kl", "entropy", "loss"]


@register("patch")
@dataclass(frozen=True, kw_only=True)
class Patch(Experiment):
    """Patch a clean run into a corrupt one, every cell of a grid, and see what brings the answer back."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    clean: str = ""
    """Prompt that has the answer as its continuation; without, the pairs of --data."""
    corrupt: str = ""
    """Prompt of as many tokens that has the wrong answer as its continuation."""
    answer: str = ""
    """Continuation of the clean prompt: one token, with its leading blank."""
    wrong: str = ""
    """Continuation of the corrupt prompt: one token, with its leading blank."""
    pairs: Path | None = None
    """File of pairs, in place of the four: lines of JSON with clean, corrupt, answer and wrong."""
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
    top: int = 20
    """Rows of the table of cells with the largest effect."""

    def __post_init__(self) -> None:
        given = [name for name in KEYS if getattr(self, name)]
        if given and (len(given) < len(KEYS) or self.pairs is not None):
            raise InputError("clean, corrupt, answer and wrong must be given together, and without pairs.")
        for name in ("top", "examples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.topics:
            raise InputError("topics must hold one topic at least, not none.")
        if self.roles and (given or self.pairs is not None):
            raise InputError("roles are known for the built-in data only, not for pairs of one's own.")
        if self.replacement == "resample" and len(self._built_in) < 2:
            raise InputError("To resample there must be another prompt: give more pairs.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The metric of every cell and prompt, with the tokens of the prompts that are changed."""
        found = self._pairs(runner)
        asked = self._asked(found)
        return self._described(runner, patch_grid(runner, **asked), asked, found)

    def plan(self, runner: Runner) -> Plan:
        """What the sweep takes."""
        return plan_patching(prepare(runner, **self._asked(self._pairs(runner)))[0])

    def _described(self, runner: Runner, results: xr.Dataset, asked: dict[str, Any], found: Pairs) -> xr.Dataset:
        """The results with the tokens of the prompts that are changed, their clusters, and what was asked."""
        base, lengths = asked["base"], asked["lengths"]
        texts = [runner.token_texts(row[:n].tolist()) for row, n in zip(base, lengths.tolist(), strict=True)]
        width = base.shape[1]
        labels = np.array([[*map(visible, row), *[""] * (width - len(row))] for row in texts])
        results["token"] = (("prompt", "token_position"), labels)
        if found.clusters is not None:
            results["cluster"] = ("prompt", np.array(found.clusters))
        return results.assign_attrs(
            noising=self.noising,
            per=self.per,
            metric=self.metric,
            replacement=self.replacement,
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
        if self.clean or self.pairs is not None:
            return range(2)
        return self.topics if self.data == "list" else range(self.examples)

    def _pairs(self, runner: Runner) -> Pairs:
        if self.pairs is not None:
            return own_pairs(runner, read_pairs(self.pairs))
        if self.clean:
            return own_pairs(runner, [{name: getattr(self, name) for name in KEYS}])
        return list_pairs(runner, self.topics) if self.data == "list" else name_pairs(runner, self.examples)

    def _asked(self, found: Pairs) -> dict[str, Any]:
        """Arguments of `patch_grid`."""
        clean, corrupt = (
            pad_right([torch.tensor(getattr(pair, name)) for pair in found.pairs]) for name in ("clean", "corrupt")
        )
        lengths = torch.tensor([len(pair.clean) for pair in found.pairs])
        base = clean if self.noising or self.replacement != "source" else corrupt
        source = self._source(clean, corrupt, lengths)
        metric = self._metric([pair.answer for pair in found.pairs], [pair.wrong for pair in found.pairs])
        roles = dict(found.roles) if self.roles and found.roles is not None else None
        return {
            "base": base,
            "source": source,
            "site": self.site,
            "per": self.per,
            "metric": metric,
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

    def _metric(self, answer: list[int], wrong: list[int]) -> Metric:
        made: dict[MetricName, Metric] = {
            "logit_difference": LogitDifference(answer=answer, wrong=wrong),
            "log_prob": LogProb(answer=answer),
            "probability": Probability(answer=answer),
            "rank": Rank(answer=answer),
            "kl": KLFromBase(),
            "entropy": Entropy(),
            "loss": Loss(),
        }
        return made[self.metric]
