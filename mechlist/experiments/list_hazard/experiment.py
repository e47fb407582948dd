"""Ending as an event: how likely a list ends after each item, by the model, by its lists, and with heads changed."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.topics import load_topics
from mechlist.decode import HeadMode
from mechlist.errors import InputError
from mechlist.experiments import whole_lists as list_hazard_lists
from mechlist.experiments.list_hazard import figures as list_hazard_figures
from mechlist.experiments.list_hazard import findings as list_hazard_words
from mechlist.experiments.list_hazard import hazards as list_hazard_steps
from mechlist.experiments.list_hazard.heads import (
    CLEAN,
    check_heads,
    head_sets,
    heads_from,
    kind_means,
    parse_heads,
    read_changed,
    write_changed,
)
from mechlist.experiments.list_predictions import Readings, read, true_stages
from mechlist.experiments.own_lists import OwnLists
from mechlist.experiments.whole_lists import Lists
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.types import Head, head_name

KNOWN = "list-tiny"
"""The model of which the true hazard is known."""


@register("list-hazard")
@dataclass(frozen=True, kw_only=True)
class ListHazard(OwnLists):
    """Read the model's probability of ending a list after each item, without the noise of sampling.

    Against the lengths of the lists, for `list-tiny` against the process that wrote its training lists, and with heads
    changed: then lists are also written again with the same random numbers, so that a head's effect is one on lengths.
    """

    heads: tuple[str, ...] = ()
    """Heads to change, such as 3.1 4.2 (layer.head); without, the model is only read as it is."""
    heads_from: Path | None = None
    """Folder or results.nc of a list-heads run, whose strongest heads are changed instead."""
    strongest: int = 2
    """How many of them."""
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
        if self.heads and self.heads_from is not None:
            raise InputError("heads and heads_from exclude each other: give one of them.")
        parse_heads(self.heads)

    def run(self, runner: Runner) -> xr.Dataset:
        """Probabilities of every list, hazards by adjective and temperature, and with heads changed."""
        heads = parse_heads(self.heads) if self.heads_from is None else heads_from(self.heads_from, self.strongest)
        check_heads(runner, heads)
        lists = self.own_lists(runner)
        items = max(1, int(list_hazard_lists.n_items(lists).max()))
        readings = read(runner, lists, label="Reading lists")
        known = runner.language_model.info["name"] == KNOWN
        capacities = {topic: len(names) for topic, names in load_topics().items()} if known else {}
        level = list_hazard_steps.every_list(lists, readings, true_stages(lists, capacities, items), items)
        parts = [level, list_hazard_steps.by_condition(runner, level, self.resamples)]
        sets: dict[str, tuple[Head, ...]] = {}
        if heads:
            sets = head_sets(runner, heads, self.controls)
            parts += self._with_heads(runner, lists, readings, sets)
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

    def _with_heads(
        self, runner: Runner, lists: Lists, readings: Readings, sets: dict[str, tuple[Head, ...]]
    ) -> list[xr.Dataset]:
        """Given lists read again, and lists written again, with each set of heads changed."""
        means = None
        if self.intervention == "mean":
            means = kind_means(runner, lists, sorted({head for chosen in sets.values() for head in chosen}))
        rows = [i for i, one in enumerate(lists) if self.intervention != "swap" or one.prompt.adjective]
        if not rows:
            raise InputError("intervention swap needs lists with an adjective, and there is none.")
        kept = [lists[i] for i in rows]
        read_again = {CLEAN: Readings(*(part[rows] for part in readings))}
        for name, chosen in sets.items():
            if chosen:
                label = f"Reading lists ({name})"
                read_again[name] = read_changed(runner, kept, chosen, self.intervention, means, label)
        prompts = list({one.prompt.tokens: one.prompt for one in kept}.values())
        written = write_changed(
            runner,
            prompts,
            sets,
            self.intervention,
            means,
            sampling=self.sampling,
            samples=self.samples,
            max_new_tokens=self.max_new_tokens,
            clean=None if self.recorded else kept,
        )
        return [
            list_hazard_steps.read_with_heads(runner, kept, read_again, self.resamples),
            list_hazard_steps.written_with_heads(runner, written, self.resamples),
        ]

    def _attributes(
        self, runner: Runner, lists: Lists, sets: dict[str, tuple[Head, ...]], *, known: bool
    ) -> dict[str, Any]:
        sampling = self.sampling
        nucleus = {one.sampling.top_p for one in lists if one.sampling is not None}
        return {
            "model": runner.language_model.info["name"],
            "source": "recorded" if self.recorded else "written",
            "truth_known": known,
            "top_p": nucleus.pop() if len(nucleus) == 1 else None,
            "unknown_rules": sum(math.isnan(one.temperature) for one in lists),
            "intervention": self.intervention,
            "sets": {name: [head_name(head) for head in chosen] for name, chosen in sets.items()},
            "written_temperature": sampling.temperature,
            "written_top_p": sampling.top_p,
            "max_new_tokens": self.max_new_tokens,
        }
