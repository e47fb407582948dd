"""Path patching of one or more pairs of prompts: what senders do through chosen receivers, exactly."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.effects import MEAN, estimated_prompts, saved
from mechlist.experiments.pair_experiment import PairExperiment, metric_of, padded_pairs
from mechlist.experiments.pair_look import look_at
from mechlist.experiments.path_patch import report
from mechlist.patching.arguments import token_labels_of
from mechlist.patching.circuits.nodes import node_label
from mechlist.patching.path import path_patch
from mechlist.patching.paths.inputs import Frozen
from mechlist.registry import register
from mechlist.runner import Runner

MetricName = Literal["logit_difference", "log_prob", "probability", "kl"]


@register("path-patch")
@dataclass(frozen=True, kw_only=True)
class PathPatch(PairExperiment):
    """Send what a head or MLP adds in one run along its paths to chosen receivers in another, and see what it does."""

    data: Literal["list", "ioi"] | None = None
    """Pairs that are built in: a finished list after "short" and after "long" (chat models), or two people's names; by
    default list."""
    receivers: tuple[str, ...] = ("logits",)
    """What is sent to: queries, keys or values of a head, such as L9H9.q, an MLP (m3) or logits; several that are
    replaced together are joined by commas, such as L9H9.q,L9H6.q."""
    senders: tuple[str, ...] = ()
    """What sends: input (the embedding), a head (L3H5) or an MLP (m3); by default all that the model has."""
    frozen: Frozen = "all"
    """What keeps its output between sender and receiver: all (the direct path alone), or heads (all paths through MLPs
    between the two as well; Wang et al. 2022)."""
    metric: MetricName = "logit_difference"
    """What is measured at the end of the prompt: the answer's logit minus the wrong one's, the answer's log-probability
    or probability, or the KL divergence from the unchanged run."""
    noising: bool = False
    """Send what is added in the corrupt run into the clean one, instead of the other way round."""
    top: int = 20
    """Rows of the table of senders with the largest effect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top < 1:
            raise InputError(f"top must be at least 1, not {self.top}.")
        if not self.receivers:
            raise InputError("receivers must hold one receiver at least, not none.")
        if len(set(map(_label, self.receivers))) < len(self.receivers):
            raise InputError(f"receivers must hold each set once, not {', '.join(self.receivers)}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The metric of every sender, set of receivers and prompt, with the tokens of the prompts that are changed."""
        found = self.found_pairs(runner)
        seen = look_at(runner, found.pairs)
        clean, corrupt, lengths = padded_pairs(found.pairs)
        base, source = (clean, corrupt) if self.noising else (corrupt, clean)
        results = path_patch(
            runner,
            base=base,
            source=source,
            receivers={_label(name): [one.strip() for one in name.split(",")] for name in self.receivers},
            senders=list(self.senders) or None,
            frozen=self.frozen,
            metric=metric_of(self.metric, found.pairs),
            lengths=lengths,
        )
        results["token"] = (("prompt", "token_position"), token_labels_of(runner, base, lengths))
        if found.clusters is not None:
            results["cluster"] = ("prompt", np.array(found.clusters))
        effects = results["patched"] - results["base"]
        results = results.assign(saved(estimated_prompts(results, effects), MEAN, results["base"].attrs["units"]))
        return results.merge(seen).assign_attrs(
            noising=self.noising, metric=self.metric, model=runner.language_model.info["name"]
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Effects of the heads, and of the embedding and the MLPs, averaged over the prompts."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Senders by the size of their effect, and the prompts."""
        return report.tables(results, self.top)

    def findings(self, results: xr.Dataset) -> list[str]:
        """The runs, the senders that move the metric most, and how many move it beyond chance."""
        return report.findings(results)


def _label(receivers: str) -> str:
    """A set of receivers with its nodes named as MIB names them, joined as it was typed."""
    return ",".join(one.replace(one.strip(), node_label(one)) if one.strip() else one for one in receivers.split(","))
