"""Which layers to take SAEs of: three heuristics on the same lists, and how much of the effect their picks cover."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.list_experiment import MadeListExperiment
from mechlist.experiments.list_pairs import At, ListPairs, list_pairs
from mechlist.experiments.sae_features import check_transfer, counted_positions, short_name
from mechlist.experiments.sae_layers import report as output
from mechlist.experiments.sae_layers.scores import (
    EXPLAINED,
    LENS,
    PATCHING,
    effects,
    explained_scores,
    lens_jumps,
    patching_scores,
)
from mechlist.metrics.answers import LogitDifference
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.raw import basis_words, raw_activations
from mechlist.sae.formats import format_of, read_about
from mechlist.sae.load import Place, hooks_of, places, stream_saes
from mechlist.sae.stream import Asked, stream_attribution
from mechlist.sae.traces import Question


@register("sae-layers")
@dataclass(frozen=True, kw_only=True)
class SaeLayers(MadeListExperiment):
    """Score layers for SAEs in three ways, and compare what each way's picks cover of the effect of all of them.

    The jump of the logit lens along a layer; patching over layers and roles with the last ones discounted; and the
    attribution that features explain, and not the SAE's error.
    """

    saes: tuple[str, ...] = ()
    """SAEs after layers (hook_resid_post): directories, DIR@HOOK or RELEASE:ID; by default the built-in ones."""
    at: At = "break"
    """Where: at the last item's line break, end of turn minus hyphen; or at its last token, a blank minus a line break.
    """
    adjective: Literal["short", "long"] = "short"
    """Whose lists: those written after this adjective."""
    top: int = 20
    """Features of each list and SAE that count: the largest attributions in size. Those of them that speak for the
    answer are taken off to see what a layer does."""
    last_weight: float | int = 0.5
    """What a patch at the measured role counts, beside 1 elsewhere."""
    role_items: int = 2
    """Items from the end that have roles of their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top", "role_items"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 <= self.last_weight <= 1:
            raise InputError(f"last_weight must be from 0 to 1, not {self.last_weight}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Scores of every layer, and the change of the metric without the features of each."""
        where = places(self.saes, runner.language_model.info["name"])
        hooks = hooks_of(runner, where)
        layers = [_layer(hook) for hook in hooks]
        if len(set(layers)) < len(layers) or len(layers) < 2:
            raise InputError(f"saes must be two at least, each after a layer of its own, not after {layers}.")
        runner = raw_activations(runner, hooks)
        data = self.data(runner)
        pairs = list_pairs(data, self.adjective, self.at, count_from="end", role_items=self.role_items)
        tokens = pairs.short if self.adjective == "short" else pairs.long
        question, asked = self._asked(runner, pairs, tokens)
        found, base = stream_attribution(runner, where, hooks, asked)
        scores = {
            LENS: lens_jumps(runner, pairs, tokens, layers),
            PATCHING: patching_scores(runner, pairs, layers, float(self.last_weight)),
            EXPLAINED: explained_scores(found),
        }
        change = effects(runner, where, found, question, asked.counted)
        lists = data.select(self.adjective)
        checked = check_transfer(runner, stream_saes(runner, where), lists)
        results = xr.Dataset(
            {
                "score": (("heuristic", "sae"), np.stack(list(scores.values()))),
                "change": (("sae", "list"), change, {"units": "logits"}),
                "base": ("list", base.double().numpy()),
                "sae_bytes": ("sae", [_bytes(place) for place in where]),
            },
            {
                "heuristic": list(scores),
                "sae": [short_name(place.name) for place in where],
                "layer": ("sae", layers),
                **pairs.coords,
            },
        )
        return results.merge(checked).assign_attrs(
            direction=pairs.direction.name,
            own=pairs.own,
            adjective=self.adjective,
            top=self.top,
            last_weight=float(self.last_weight),
            basis=basis_words(runner),
            model=runner.language_model.info["name"],
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Scores of layers by heuristic, and what its picks cover."""
        return output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Scores; and picks for each number of layers, with their memory."""
        return output.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """Which layers each heuristic picks, and how much of the effect they cover."""
        return output.findings(results)

    def _asked(self, runner: Runner, pairs: ListPairs, tokens: torch.Tensor) -> tuple[Question, Asked]:
        metric = LogitDifference(
            answer=[pairs.direction.answer], wrong=[pairs.direction.wrong], position=(pairs.lengths - 1).tolist()
        )
        question = Question(tokens=tokens, lengths=pairs.lengths, metric=metric)
        counted = counted_positions(runner, tokens, pairs.lengths)
        names = [f"list {i}" for i in range(len(tokens))]
        return question, Asked(question=question, counted=counted, names=names, top=self.top, summed=True)


def _layer(hook: str) -> int:
    parts = hook.split(".")
    if len(parts) != 3 or parts[2] != "hook_resid_post":
        raise InputError(f"saes must be of the residual stream after layers (hook_resid_post), not of {hook}.")
    return int(parts[1])


def _bytes(place: Place) -> float:
    """Of the SAE's two matrices in float32; NaN for one that is not on disk."""
    form = None if place.folder is None else format_of(place.folder)
    if place.folder is None or form is None:
        return np.nan
    about = read_about(place.folder, form)
    return float(2 * 4 * about.d_in * about.d_sae)
