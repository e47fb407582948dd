"""Direct logit attribution: which heads and MLPs write the logit difference themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.directions import Direction
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.pairs.pair import Pairs, read_pairs
from mechlist.errors import InputError
from mechlist.experiment import Claim, Option
from mechlist.experiments.direct_logit_attribution import figures as drawing
from mechlist.experiments.direct_logit_attribution import findings as words
from mechlist.experiments.direct_logit_attribution.statistics import with_statistics
from mechlist.experiments.direct_logit_attribution.terms import on_lists, on_pairs
from mechlist.experiments.list_experiment import MadeListExperiment, text_direction
from mechlist.experiments.pair_experiment import named_pairs, pairs_of_texts
from mechlist.experiments.pair_look import CAPTION, look_at, look_findings, look_table
from mechlist.registry import register
from mechlist.runner import Runner


def _of_pairs(experiment: "DirectLogitAttribution") -> str:
    """Where there are no lists."""
    if experiment.pairs is not None:
        return "with pairs"
    return "with data_set ioi" if experiment.data_set == "ioi" else ""


def _without_names(experiment: "DirectLogitAttribution") -> str:
    if experiment.pairs is not None:
        return "with pairs"
    return "" if experiment.data_set == "ioi" else "with data_set list"


def _without_answer(experiment: "DirectLogitAttribution") -> str:
    if experiment.answer:
        return ""
    return _of_pairs(experiment) or "without answer, as the study's directions have roles of their own"


@register("direct-logit-attribution")
@dataclass(frozen=True, kw_only=True)
class DirectLogitAttribution(MadeListExperiment):
    """Split a logit difference into what each head, each MLP and the rest of the model add to it themselves."""

    options: ClassVar[Mapping[str, Option]] = {
        "examples": Option(_without_names, 8),
        "role": Option(_without_answer, "line_break"),
        "lists": Option(_of_pairs),
        "items": Option(_of_pairs),
    }
    captions: ClassVar[Mapping[str, str]] = {
        "components": "what each part writes at the last item, by direction and lists, in logits",
        "matched": "what each part writes at last items and at other items of equal number and filler, in logits",
        "heads": "the heads that write most, by direction and lists, in logits",
        "changed_heads": "the heads that the other adjective changes most, in logits",
        **CAPTION,
    }

    data_set: Literal["list", "ioi"] = "list"
    """Lists, or pairs of prompts with two people's names."""
    pairs: Path | None = None
    """File of pairs of prompts in place of lists: lines of JSON with clean, corrupt, answer and wrong."""
    examples: int | None = None
    """Pairs of prompts with two people's names; by default 8."""
    answer: tuple[str, ...] = ()
    """Tokens of a direction of one's own on lists, with their leading blanks, in place of the study's two."""
    wrong: tuple[str, ...] = ()
    """Tokens that the answers are compared with."""
    role: str | None = None
    """Where the direction of one's own is read in every item: hyphen, item_first, item_last, filler or line_break; by
    default line_break."""
    top: int = 20
    """Rows of each table of heads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("examples", "top"):
            if self.value_of(name) < 1:
                raise InputError(f"{name} must be at least 1, not {self.value_of(name)}.")
        if bool(self.answer) != bool(self.wrong):
            raise InputError("answer and wrong must be given together, or neither.")
        on_lists = self.recorded or self.topics or self.answer
        if on_lists and self._of_pairs:
            raise InputError("recorded, topics, answer and wrong are for lists, and pairs have their own.")
        if self.pairs is not None and self.data_set != "list":
            raise InputError(f"pairs takes the place of the data set: leave one of pairs and {self.data_set} out.")
        self.check_options()

    def run(self, runner: Runner) -> xr.Dataset:
        """Every term of the logit difference, by direction, run, list and item."""
        if self._of_pairs:
            pairs = self._pairs(runner)
            seen = look_at(runner, pairs.pairs)
            results = on_pairs(runner, pairs).merge(seen.rename(prompt="list"))
        else:
            lists = self.data(runner)
            results = on_lists(runner, lists, self._directions(runner, lists))
        cap = getattr(runner.model.cfg, "output_logits_soft_cap", None) or 0.0
        results = results.assign_attrs(model=runner.language_model.info["name"], softcap=max(float(cap), 0.0))
        return with_statistics(results)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Of each direction: heads, components, their sum along the layers, items, and what the adjective changes."""
        return drawing.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Components, heads, and heads by what the adjective changes; with intervals over topics."""
        return words.tables(results, self.top) | look_table(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """That the terms add up, the difference itself, and the parts that write most of it."""
        return [*words.findings(results), *look_findings(results)]

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return words.claims(results)

    @property
    def _of_pairs(self) -> bool:
        return self.pairs is not None or self.data_set == "ioi"

    def _pairs(self, runner: Runner) -> Pairs:
        if self.pairs is not None:
            return pairs_of_texts(runner, read_pairs(self.pairs))
        return named_pairs(runner, self.value_of("examples"))

    def _directions(self, runner: Runner, lists: ListSet) -> tuple[Direction, ...]:
        if not self.answer:
            return lists.directions
        return (text_direction(runner, self.answer, self.wrong, self.value_of("role")),)
