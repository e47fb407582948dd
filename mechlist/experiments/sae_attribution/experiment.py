"""Which SAE features make a list end or take a filler: attribution streamed over SAEs, the strongest ablated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from mechlist.datasets.lists.role_positions import CountFrom
from mechlist.errors import InputError
from mechlist.experiment import Claim, Option
from mechlist.experiments.list_experiment import MadeListExperiment
from mechlist.experiments.list_pairs import At, ListPairs, list_pairs
from mechlist.experiments.sae_attribution import report as output
from mechlist.experiments.sae_attribution.edges import feature_edges, require_order
from mechlist.experiments.sae_attribution.statistics import with_statistics
from mechlist.experiments.sae_features import check_transfer, counted_positions
from mechlist.metrics.answers import LogitDifference, LogProb
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.raw import basis_words, raw_activations
from mechlist.sae.attribution import SUMMED, FeatureAttribution
from mechlist.sae.load import Place, hooks_of, places, stream_saes
from mechlist.sae.stream import Asked, stream_ablation, stream_attribution
from mechlist.sae.traces import Question
from mechlist.text import visible

Of = Literal["logit-difference", "minus-log-prob"]
TERMS = ("total", "features", "bias", "error")


def _with_contrast(experiment: "SaeAttribution") -> str:
    return "with contrast, where a feature belongs to two runs" if experiment.contrast else ""


@register("sae-attribution")
@dataclass(frozen=True, kw_only=True)
class SaeAttribution(MadeListExperiment):
    """Attribute the decision to end a list, or to put a filler, to SAE features; ablate the strongest exactly."""

    options: ClassVar[Mapping[str, Option]] = {"verify_top": Option(_with_contrast), "edges": Option(_with_contrast)}
    captions: ClassVar[Mapping[str, str]] = {
        "features": "a row a list and feature, with the exact change where it was set to 0",
        "over-lists": "each feature's mean over all lists, the largest first",
        "edges": "from a feature to one of a later SAE, beside exact ablation",
    }

    saes: tuple[str, ...] = ()
    """SAEs: directories (of one or of several; DIR@HOOK where the files do not say the hook) or RELEASE:ID; by default
    the built-in ones of the model, for Gemma 2 2b those of the original study."""
    of: Of = "logit-difference"
    """What is explained: the logit difference, or minus the log-probability of its answer."""
    at: At = "item"
    """Where: at the last item's last token, a blank minus a line break; or at its line break, end of turn minus
    hyphen."""
    adjective: Literal["short", "long"] = "short"
    """Whose lists: those written after this adjective."""
    contrast: bool = False
    """Attribution after this adjective minus that of the same list after the other one."""
    summed: bool = False
    """Add up each feature's attributions over positions."""
    integrated_gradients: int = 0
    """Steps of integrated gradients, from features at 0 to what they are with the error kept; each step is another pass
    for every SAE. 0 takes the gradient at what they are, one pass for all."""
    keep_special: bool = False
    """Count BOS and other special tokens too, where activations are unlike all others."""
    top: int = 20
    """Features with their positions that are kept of each list and SAE, the largest attributions in size."""
    verify_top: int = 0
    """Largest attributions of each SAE whose feature is set to 0 exactly, the SAE's error kept."""
    edges: int = 0
    """Strongest features of every SAE but the first whose own activation is attributed to the features of the SAE
    before it, and checked by setting these to 0."""
    count_from: CountFrom = "end"
    """Items with roles of their own are those nearest to the last item, or to the first."""
    role_items: int = 2
    """How many they are; all other items share one role."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top", "role_items"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("verify_top", "integrated_gradients", "edges"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        self.check_options()

    def run(self, runner: Runner) -> xr.Dataset:
        """The strongest features of every list and SAE, what all features and the error get, and exact ablations."""
        where = places(self.saes, runner.language_model.info["name"])
        hooks = hooks_of(runner, where)
        if self.edges:
            require_order(hooks, summed=self.summed)
        runner = raw_activations(runner, hooks)
        data = self.data(runner)
        pairs = list_pairs(data, self.adjective, self.at, count_from=self.count_from, role_items=self.role_items)
        asked = self._asked(runner, pairs)
        found, base = stream_attribution(runner, where, hooks, asked)
        exact = stream_ablation(runner, where, found, asked, self.verify_top)
        results = _dataset(where, hooks, found, exact, pairs).assign(base=("list", base.double().numpy()))
        if self.edges:
            results = results.merge(feature_edges(runner, where, found, asked, self.edges))
        lists = data.select(self.adjective)
        checked = check_transfer(runner, stream_saes(runner, where), lists)
        results = results.merge(checked).assign_attrs(
            of=self.of,
            direction=pairs.direction.name,
            own=pairs.own,
            adjective=self.adjective,
            contrast=self.contrast,
            summed=self.summed,
            integrated_gradients=self.integrated_gradients,
            keep_special=self.keep_special,
            basis=basis_words(runner),
            left_out=pairs.left_out,
            model=runner.language_model.info["name"],
            units="logits" if self.of == "logit-difference" else "nats",
        )
        return with_statistics(results)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """What features and errors get, the strongest features by role, and attribution against exact ablation."""
        return output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Every kept feature of every list; and features over all lists."""
        return output.tables(results)

    def files(self, results: xr.Dataset) -> dict[str, str]:
        """The features in the form that feature-overlap reads."""
        return output.files(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """How much features carry and how much the error, the strongest features, and how far attribution is right."""
        return output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return output.claims(results)

    def _asked(self, runner: Runner, pairs: ListPairs) -> Asked:
        own, other = (pairs.short, pairs.long) if self.adjective == "short" else (pairs.long, pairs.short)
        return Asked(
            question=self._question(pairs, own),
            minus=self._question(pairs, other) if self.contrast else None,
            counted=counted_positions(runner, own, pairs.lengths, keep_special=self.keep_special),
            names=[f"list {i} ({visible(topic)})" for i, topic in enumerate(pairs.topic)],
            top=self.top,
            summed=self.summed,
            steps=self.integrated_gradients,
        )

    def _question(self, pairs: ListPairs, tokens: Tensor) -> Question:
        where = (pairs.lengths - 1).tolist()
        answer, wrong = [pairs.direction.answer], [pairs.direction.wrong]
        if self.of == "logit-difference":
            metric = LogitDifference(answer=answer, wrong=wrong, position=where)
            return Question(tokens=tokens, lengths=pairs.lengths, metric=metric)
        return Question(tokens=tokens, lengths=pairs.lengths, metric=LogProb(answer=answer, position=where), sign=-1)


def _dataset(
    where: list[Place], hooks: list[str], found: list[FeatureAttribution], exact: list[Tensor], pairs: ListPairs
) -> xr.Dataset:
    """Of every list, SAE and rank the feature; of every list and SAE the sums."""
    ranked = ("list", "sae", "rank")
    stacked = FeatureAttribution(*(torch.stack(column, dim=1) for column in zip(*found, strict=True)))
    variables: dict[str, Any] = {
        "attribution": (ranked, stacked.attribution.numpy()),
        "exact": (ranked, torch.stack(exact, dim=1).numpy()),
        "feature": (ranked, stacked.feature.numpy()),
        "position": (ranked, stacked.position.numpy()),
        "activation": (ranked, stacked.activation.numpy()),
        "role_number": (ranked, _role_numbers(stacked.position.numpy(), pairs)),
        "n_active": (("list", "sae"), stacked.n_active.numpy()),
    }
    variables |= {f"{name}_attribution": (("list", "sae"), getattr(stacked, name).numpy()) for name in TERMS}
    coords = {
        **pairs.coords,
        "sae": [visible(place.name) for place in where],
        "hook": ("sae", hooks),
        "role": list(pairs.roles),
    }
    return xr.Dataset(variables, coords)


def _role_numbers(position: np.ndarray, pairs: ListPairs) -> np.ndarray:
    """The role of each feature's position; -1 for none."""
    out = np.full(position.shape, -1)
    for number, of_lists in enumerate(pairs.roles.values()):
        for i, positions in enumerate(of_lists):
            out[i][np.isin(position[i], [p for p in positions if p != SUMMED])] = number
    return out
