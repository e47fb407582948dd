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
from mechlist.datasets.topics import capacities
from mechlist.decode import HeadMode, Sampling
from mechlist.errors import InputError
from mechlist.experiment import Claim, Option
from mechlist.experiments.list_curves import curves_by_set
from mechlist.experiments.list_endings import endings
from mechlist.experiments.list_experiment import SampledListExperiment, sample_lists
from mechlist.experiments.list_hazard import figures as list_hazard_figures
from mechlist.experiments.list_hazard import findings as list_hazard_words
from mechlist.experiments.list_hazard import hazards as list_hazard_steps
from mechlist.experiments.list_hazard.heads import (
    check_heads,
    class_means,
    head_sets,
    heads_from,
    predict_changed,
    sample_changed,
)
from mechlist.experiments.list_predictions import drawing_rules, predict
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

    At T = 1 without nucleus and by the rule that the lists were drawn with, against the lengths of the lists and, for
    `list-tiny`, against the process that wrote its training lists. With heads changed, lists are written again with the
    same random numbers, so that a head's effect is one on lengths.
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
    own_samples: int = 1
    """Lists written for each prompt at temperature 1 without nucleus, where those that are read were drawn otherwise:
    what the model itself does, apart from the rule of drawing; 0 writes none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("controls", "own_samples"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, not {getattr(self, name)}.")
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
        known_capacities = capacities() if known else {}
        given = list_hazard_steps.Read.of(lists, predictions.end, known_capacities)
        drawn = endings(predictions.drawn_end, lists)
        own = self._own(runner, lists, given, known_capacities)
        parts = [
            list_hazard_steps.every_list(given, drawn),
            list_hazard_steps.by_condition(runner, given, drawn, own, known_capacities, self.resamples),
        ]
        sets: dict[str, tuple[Head, ...]] = {}
        if heads:
            sets = head_sets(runner, heads, self.controls)
            parts += self._with_heads(runner, lists, sets)
        results = xr.merge(parts, compat="equals", join="outer")
        more = {"own_lists": len(own.lists), "own_written": own is not given}
        return results.assign_attrs(self._attributes(runner, lists, sets, known=known) | more)

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

    def _own(
        self,
        runner: Runner,
        lists: ListSet,
        given: list_hazard_steps.Read,
        known_capacities: Mapping[str, int],
    ) -> list_hazard_steps.Read:
        """The model at T = 1 without nucleus along lists that were drawn so: the given ones, or others."""
        if not self.own_samples or all(rule == Sampling() for rule in drawing_rules(lists)):
            return given
        written = sample_lists(
            runner,
            lists.each_prompt,
            lists.special,
            sampling=Sampling(),
            samples=self.own_samples,
            max_new_tokens=self.max_new_tokens,
            label="Writing lists at T = 1",
        )
        predictions = predict(runner, written, label="Reading lists at T = 1")
        return list_hazard_steps.Read.of(written, predictions.end, known_capacities)

    def _with_heads(self, runner: Runner, lists: ListSet, sets: dict[str, tuple[Head, ...]]) -> list[xr.Dataset]:
        """Lists written again with each set of heads changed, and read by the rule that they were written with."""
        means = None
        if self.intervention == "mean":
            means = class_means(runner, lists, sorted({head for chosen in sets.values() for head in chosen}))
        rows = lists.swappable if self.intervention == "swap" else list(range(len(lists)))
        if not rows:
            raise InputError("intervention swap needs lists with an adjective, short or long, and there is none.")
        kept = lists.of(rows)
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
        read = {}
        for name, chosen in sets.items():
            label, own = f"Reading lists ({name})", written[name]
            rules = [self.sampling] * len(own)
            found = predict_changed(runner, own, chosen, self.intervention, means, label, rules)
            read[name] = (own, found.drawn_end)
        return [
            curves_by_set(runner, read, self.resamples, "heads"),
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
