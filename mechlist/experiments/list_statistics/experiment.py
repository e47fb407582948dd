"""List statistics: how long recorded lists are, what their items are made of, and where they carry a filler."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.read import read_lists
from mechlist.errors import InputError
from mechlist.experiment import Claim, Experiment
from mechlist.experiments.list_statistics import figures as list_statistics_figures
from mechlist.experiments.list_statistics import findings as list_statistics_words
from mechlist.experiments.list_statistics import statistics as list_statistics_steps
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import visible


@register("list-statistics")
@dataclass(frozen=True, kw_only=True)
class ListStatistics(Experiment):
    """Count items, fillers and endings of recorded lists; lists that were cut off count as censored."""

    captions: ClassVar[Mapping[str, str]] = {
        "conditions": "a row an adjective and temperature: lists, endings, items and fillers",
        "topics": "a row a topic and adjective",
        "survival": "a row an adjective and number of items: lists that got there, ended there and went on",
        "lists": "a row a list",
    }

    needs_model = False

    recorded: tuple[Path, ...] = ()
    """Files of recorded completions, or directories: every *.json in them."""
    resamples: int = 2000
    """Number of bootstrap resamples of topics, and of permutations of the trend test."""

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise InputError(f"resamples must be at least 1, not {self.resamples}.")

    def run(self, runner: Runner | None = None) -> xr.Dataset:  # noqa: ARG002
        """Every list, then the shares, curves and trends over them, each with an interval over topics."""
        if not self.recorded:
            raise InputError(
                "list-statistics needs --recorded FILE: recorded completions, or the `exports/lists` folder of a "
                "generate-lists run."
            )
        lists = read_lists(self.recorded, keep_cut_off=True, located=False)
        steps = (
            list_statistics_steps.item_tokens,
            list_statistics_steps.fillers,
            list_statistics_steps.lengths,
            list_statistics_steps.by_capacity,
            list_statistics_steps.filler_by_temperature,
        )
        parts = [step(lists, self.resamples) for step in steps]
        results = xr.merge([list_statistics_steps.every_list(lists), *parts], compat="equals", join="exact")
        return results.assign_attrs(files=_files(lists), resamples=self.resamples, seed=list_statistics_steps.SEED)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """In the study's order: tokens per item, fillers, number of items, temperature, survival and hazard."""
        return list_statistics_figures.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Topics, survival and hazard by item, adjectives with temperatures, and every list."""
        return list_statistics_words.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the results say, with intervals over topics."""
        return list_statistics_words.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return list_statistics_words.claims(results)


def _files(lists: ListSet) -> list[dict[str, Any]]:
    """What is known of each file: name, SHA-256, model, adjective, how its lists were drawn, and how many they are."""
    words = dict(zip(lists.provenance, lists.adjective, strict=True))
    return [
        {
            "file": visible(one.path.name),
            "sha256": hashlib.sha256(one.path.read_bytes()).hexdigest(),
            "model": visible(one.model),
            "adjective": adjective,
            "temperature": one.temperature,
            "top_p": one.top_p,
            "max_new_tokens": one.max_new_tokens,
            "n_lists": lists.provenance.count(one),
        }
        for one, adjective in words.items()
        if one.path is not None
    ]
