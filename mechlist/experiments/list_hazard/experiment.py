"""Ending as an event: how likely a list ends after each item, by the model, by its lists, and with heads changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.topics import load_topics
from mechlist.decode import HeadMode
from mechlist.errors import InputError
from mechlist.experiment import Claim, Option
from mechlist.experiments.list_curves import curves_by_set
from mechlist.experiments.list_endings import endings, true_endings
from mechlist.experiments.list_experiment import SampledListExperiment
from mechlist.experiments.list_hazard import figures as list_hazard_figures
from mechlist.experiments.list_hazard import findings as list_hazard_words
from mechlist.experiments.list_hazard import hazards as list_hazard_steps
from mechlist.experiments.list_hazard.heads import (
    CLEAN,
    check_heads,
    class_means,
    head_sets,
    heads_from,
    predict_changed,
    sample_changed,
)
from mechlist.experiments.list_predictions import Predictions, drawing_rules, predict
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.types import Head, head_name, parse_heads

KNOWN = "list-tiny"
"""The model of which the true hazard is known."""


def _without_heads(experiment: "ListHazard") -> str:
    return "" if experiment.heads or experiment.heads_from else "without heads"


@register("list-hazard")
@dataclass(frozen=True, kw_only=True)
class ListHazard(SampledListExperiment):
    """Read the model's probability of ending a list after each item, without the noise of sampling.

    Against the lengths of the lists, for `list-tiny` against the process that wrote its training lists, and with heads
    changed: then lists are also written again with the same random numbers, so that a head's effect is one on lengths.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "strongest": Option(lambda experiment: "" if experiment.heads_from else "without heads_from"),
        "intervention": Option(_without_heads),
        "controls": Option(_without_heads),
    }
    captions: ClassVar[Mapping[str, str]] = {
        "conditions": "a row an adjective and temperature: medians and means of the number of items by each rule",
        "hazard": "a row an adjective, temperature, rule and number of items",
        "lists": "a row a list",
        "heads": "change of the number of items with each set of heads changed, in items",
    }

    heads: tuple[str, ...] = ()
    """Heads to change, such as L3H1 L4H2; without, the model is only read as it is."""
    heads_from: tuple[Path, ...] = ()
    """Folders or results.nc of list-heads runs, such as one a factor, whose strongest heads are changed instead."""
    strongest: int = 2
    """How many of each."""
    intervention: HeadMode = "zero"
    """What replaces a head's output z at every token: 0, its mean over tokens of the same kind, or (swap) what it is
    for the same list under the other adjective."""
    controls: int = 3
    """Sets of as many heads at random, to compare with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.controls < 0:
            raise InputError(f"controls must be at least 0, not {self.controls}.")
        if self.strongest < 1:
            raise InputError(f"strongest must be at least 1, not {self.strongest}.")
        if self.heads and self.heads_from:
            raise InputError("heads and heads_from exclude each other: give one of them.")
        parse_heads(self.heads, "heads")
        self.check_options()

    def run(self, runner: Runner) -> xr.Dataset:
        """Probabilities of every list, hazards by adjective and temperature, and with heads changed."""
        heads = heads_from(self.heads_from, self.strongest) if self.heads_from else parse_heads(self.heads, "heads")
        check_heads(runner, heads)
        lists = self.data(runner)
        predictions = predict(runner, lists, rules=drawing_rules(lists), label="Reading lists")
        known = runner.language_model.info["name"] == KNOWN
        capacities = {topic: len(names) for topic, names in load_topics().items()} if known else {}
        by_rule = {
            "model": endings(predictions.end, lists),
            "as drawn": endings(predictions.drawn_end, lists),
            "truth": true_endings(lists, capacities),
        }
        parts = [
            list_hazard_steps.every_list(lists, by_rule),
            list_hazard_steps.by_condition(runner, lists, by_rule, self.resamples),
        ]
        sets: dict[str, tuple[Head, ...]] = {}
        if heads:
            sets = head_sets(runner, heads, self.controls)
            parts += self._with_heads(runner, lists, predictions, sets)
        results = xr.merge(parts, compat="equals", join="outer")
        return results.assign_attrs(self._attributes(runner, lists, sets, known=known))

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Hazard and survival by adjective; with heads changed, hazards and numbers of items."""
        return list_hazard_figures.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Hazards by item, conditions, every list, and what heads change."""
        return list_hazard_words.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the results say, with intervals over topics."""
        return list_hazard_words.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return list_hazard_words.claims(results)

    def _with_heads(
        self, runner: Runner, lists: ListSet, predictions: Predictions, sets: dict[str, tuple[Head, ...]]
    ) -> list[xr.Dataset]:
        """Given lists read again, and lists written again, with each set of heads changed."""
        means = None
        if self.intervention == "mean":
            means = class_means(runner, lists, sorted({head for chosen in sets.values() for head in chosen}))
        rows = lists.swappable if self.intervention == "swap" else list(range(len(lists)))
        if not rows:
            raise InputError("intervention swap needs lists with an adjective, short or long, and there is none.")
        kept = lists.of(rows)
        read_again = {CLEAN: Predictions(*(part[rows] for part in predictions))}
        for name, chosen in sets.items():
            if chosen:
                label = f"Reading lists ({name})"
                read_again[name] = predict_changed(runner, kept, chosen, self.intervention, means, label)
        written = sample_changed(
            runner,
            kept.each_prompt,
            kept.special,
            sets,
            self.intervention,
            means,
            sampling=self.sampling,
            samples=self.samples,
            max_new_tokens=self.max_new_tokens,
            clean=None if self.recorded else kept,
        )
        return [
            curves_by_set(runner, kept, read_again, self.resamples, "heads"),
            list_hazard_steps.written_with_heads(runner, written, self.resamples),
        ]

    def _attributes(
        self, runner: Runner, lists: ListSet, sets: dict[str, tuple[Head, ...]], *, known: bool
    ) -> dict[str, Any]:
        sampling, drawn = self.sampling, np.isfinite(lists.temperature)
        nucleus = {1.0 if np.isnan(top_p) else float(top_p) for top_p in lists.top_p[drawn]}
        return {
            "model": runner.language_model.info["name"],
            "origin": lists.origin,
            "truth_known": known,
            "top_p": nucleus.pop() if len(nucleus) == 1 else None,
            "unknown_rules": int((~drawn).sum()),
            "intervention": self.intervention,
            "sets": {name: [head_name(head) for head in chosen] for name, chosen in sets.items()},
            "written_temperature": sampling.temperature,
            "written_top_p": sampling.top_p,
            "max_new_tokens": self.max_new_tokens,
        }
