"""Interventions on the text: what each factor of a list does to the decision to end it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.design import design_texts
from mechlist.datasets.templates import list_tokenizer
from mechlist.datasets.topics import STUDY, choose_topics
from mechlist.errors import InputError
from mechlist.experiment import Claim, Experiment
from mechlist.experiments.list_factors import reading as list_factors_texts
from mechlist.experiments.list_factors import report as list_factors_output
from mechlist.experiments.list_factors import statistics as list_factors_steps
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import NO_ADJECTIVE

KNOWN = "list-tiny"
"""The model whose process is known."""


@register("list-factors")
@dataclass(frozen=True, kw_only=True)
class ListFactors(Experiment):
    """Change one thing of a list at a time: its lines, fillers, tokens and repeated items, and read what A does.

    A is the logit of the end of the turn minus that of the hyphen, at the line break behind the last item. The design
    crosses number of items, filler on the last item, fillers on earlier items, adjective and topic; without fillers,
    also items of few or many tokens, and items that stand there already.
    """

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = KNOWN
    captions: ClassVar[Mapping[str, str]] = {
        "coefficients": "logits of A and of B for one more of each factor, by adjective, with the known process",
        "contrasts": "matched differences and slopes by adjective, in logits of A",
        "curves": "A by adjective, filler on the last item and number of items",
        "design": "a row a text that was read, with what was said after it",
    }

    topics: tuple[str, ...] = ()
    """Topics of the lists; by default those of the study. Topics with fewer than `max_items` items are left out."""
    adjectives: tuple[str, ...] = ("short", "long", NO_ADJECTIVE)
    """Adjectives of the prompts."""
    min_items: int = 2
    """Items of the shortest list of the design."""
    max_items: int = 12
    """Items of the longest list of the design, over which coefficients are linear."""
    curve_items: int = 24
    """Items of the longest list of the curve that goes on behind the design."""
    margin: float = 0.02
    """An effect matters where its interval lies beyond this share of the gap between the adjectives."""
    resamples: int = 2000
    """Bootstrap resamples of topics."""
    template: Path | None = None
    """File with the text of the prompt, for models without chat template: one {adjective}, one {topic}, and all that
    stands before the list."""
    end_tokens: tuple[int, ...] = ()
    """With template: ids of the token that ends a list after a line break, which A compares with the hyphen, and of
    another one if there is."""

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise InputError(f"resamples must be at least 1, not {self.resamples}.")
        if not 2 <= self.min_items < self.max_items <= self.curve_items:
            raise InputError(
                "min_items must be at least 2, max_items more than that, and curve_items no fewer than max_items, not "
                f"{self.min_items}, {self.max_items} and {self.curve_items}."
            )
        if self.margin < 0:
            raise InputError(f"margin must be 0 or more, not {self.margin}.")
        if not self.adjectives or len(set(self.adjectives)) < len(self.adjectives):
            raise InputError(f"adjectives must hold one value at least, each once, not {list(self.adjectives)}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """A and B after every text, coefficients with intervals over topics, and the known process beside them."""
        asked = choose_topics((), self.topics) if self.topics else choose_topics((STUDY,))
        topics = list_factors_texts.enough_items(asked, self.max_items)
        if not topics.used:
            raise InputError(
                f"max_items must be at most the items of a topic ({max(topics.left_out.values())}), not "
                f"{self.max_items}."
            )
        levels = list_factors_texts.levels(self.min_items, self.max_items, self.curve_items)
        tokenizer = list_tokenizer(runner.tokenizer, self.template, self.end_tokens)
        texts = design_texts(tokenizer, topics.used, self.adjectives, levels)
        said = list_factors_texts.read(runner, texts)
        known = runner.language_model.info["name"] == KNOWN
        capacities = {topic: len(names) if known else 0 for topic, names in topics.used.items()}
        truth = list_factors_texts.truth(texts, capacities)

        def draw() -> np.random.Generator:
            return runner.numpy_generator("list-factors")

        parts = [
            list_factors_steps.coefficients(texts, said, truth, self.max_items, self.resamples, draw),
            list_factors_steps.curves(texts, said, truth, self.resamples, draw),
            list_factors_steps.contrasts(texts, said, truth, self.max_items, self.resamples, draw),
            list_factors_steps.every_text(texts, said, truth),
        ]
        return xr.merge(parts, compat="equals", join="exact").assign_attrs(
            model=runner.language_model.info["name"],
            truth_known=known,
            left_out=dict(topics.left_out),
            n_topics=len(topics.used),
            margin=self.margin,
            min_items=self.min_items,
            max_items=self.max_items,
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Coefficients, and A by number of items."""
        return list_factors_output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Coefficients, contrasts, curves and the design with what was said after every text."""
        return list_factors_output.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the results say, with intervals over topics."""
        return list_factors_output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return list_factors_output.claims(results)
