"""Whether the residual stream holds the number of the item, and whether the decision to end a list reads it there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.design import KINDS, Levels, design_texts
from mechlist.datasets.templates import list_tokenizer
from mechlist.datasets.topics import STUDY, choose_topics
from mechlist.errors import InputError, ModelError
from mechlist.experiment import Claim, Experiment
from mechlist.experiments.list_counter import report as list_counter_output
from mechlist.experiments.list_counter import statistics as list_counter_steps
from mechlist.experiments.list_counter.probing import states
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import NO_ADJECTIVE


@register("list-counter")
@dataclass(frozen=True, kw_only=True)
class ListCounter(Experiment):
    """Probe the residual stream at line breaks for the number of the item, and move the state along what is found.

    Probes are ridge regressions, each judged on a topic that it was not fitted on; lists are of the best-known items
    and of items of few or many tokens, so that the place of a token does not give the number away.
    """

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"
    captions: ClassVar[Mapping[str, str]] = {
        "probes": "R2 of the probe after each layer, and what fillers shift, in items",
        "baselines": "R2 of each baseline after each layer",
        "exchange": "share of A's difference that an exchange of the number carries, by direction and layer",
        "erased": "logits of A that a line adds, as it is and with the number erased",
        "random": "shares that moves as large in random directions carry",
    }

    topics: tuple[str, ...] = ()
    """Topics of the lists; by default those of the study. Topics with fewer than `max_items` items are left out."""
    adjectives: tuple[str, ...] = ("short", "long", NO_ADJECTIVE)
    """Adjectives of the prompts."""
    max_items: int = 20
    """Items of the longest list."""
    counts: tuple[int, ...] = (4, 12)
    """Numbers of items of the lists that are moved; each is exchanged for the one as far from the other end."""
    penalty: float | int = 0.01
    """Of the ridge, in mean variances of the features: 1 would shrink a typical direction to half."""
    random_directions: int = 20
    """Random directions along which the state is moved as far, at one layer."""
    resamples: int = 2000
    """Bootstrap resamples of topics."""
    template: Path | None = None
    """File with the text of the prompt, for models without chat template: one {adjective}, one {topic}, and all that
    stands before the list."""
    end_tokens: tuple[int, ...] = ()
    """With template: ids of the token that ends a list after a line break, which A compares with the hyphen, and of
    another one if there is."""

    def __post_init__(self) -> None:
        for name in ("random_directions", "resamples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.penalty <= 0:
            raise InputError(f"penalty must be more than 0, not {self.penalty}.")
        if len(set(self.counts)) < 2 or not all(1 <= count <= self.max_items for count in self.counts):
            raise InputError(
                f"counts must hold two different numbers at least, from 1 to {self.max_items} items, not "
                f"{list(self.counts)}."
            )
        if not self.adjectives or len(set(self.adjectives)) < len(self.adjectives):
            raise InputError(f"adjectives must hold one value at least, each once, not {list(self.adjectives)}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """R2 of probes and baselines by layer, and what A does when the number is exchanged or erased."""
        asked = choose_topics((), self.topics) if self.topics else choose_topics((STUDY,))
        topics = {topic: names for topic, names in asked.items() if len(names) >= self.max_items}
        if len(topics) < 2:
            raise InputError(
                f"max_items must leave two topics at least with so many items, and {self.max_items} leaves "
                f"{len(topics)} of {len(asked)}."
            )
        items = range(1, self.max_items + 1)
        tokenizer = list_tokenizer(runner.tokenizer, self.template, self.end_tokens)
        texts = design_texts(tokenizer, topics, self.adjectives, [Levels(kind, items) for kind in KINDS[:3]])
        levels = [Levels(KINDS[0], items, (True,), ("all",))]
        filled_texts = design_texts(tokenizer, topics, self.adjectives, levels)
        own = states(runner, texts, "Reading lists")
        try:
            untrained = states(runner.untrained(1), texts, "Reading lists with an untrained model")
        except ModelError:  # of a model that runs through TransformerBridge there is none
            untrained = None

        def draw() -> np.random.Generator:
            return runner.numpy_generator("list-counter")

        filled = states(runner, filled_texts, "Reading lists with fillers")
        found, held = list_counter_steps.probes(
            own, untrained, filled, texts, filled_texts, self.penalty, self.resamples, draw
        )
        layer = list_counter_steps.close_layer(found["probe_r2"].values)
        rows = np.array([i for i, t in enumerate(texts) if t.kind == KINDS[0] and t.items in self.counts])
        moved = list_counter_steps.moved(
            runner, own, texts, held, rows, layer, self.random_directions, self.resamples, draw
        )
        return xr.merge([found, moved], compat="equals", join="exact").assign_attrs(
            model=runner.language_model.info["name"],
            left_out={topic: len(names) for topic, names in asked.items() if topic not in topics},
            n_topics=len(topics),
            n_texts=len(texts),
            max_items=self.max_items,
            counts=sorted(set(self.counts)),
            close_layer=layer,
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """R2 by layer beside the baselines, and what exchanging the number carries."""
        return list_counter_output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """R2, shares and slopes."""
        return list_counter_output.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the results say, with intervals over topics."""
        return list_counter_output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return list_counter_output.claims(results)
