"""Lists that the model did not write against its own: entropy, the end and fillers, item by item."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.made import made_lists
from mechlist.datasets.lists.prompts import ListPrompt
from mechlist.datasets.topics import choose_topics, load_topics
from mechlist.errors import InputError
from mechlist.experiment import Claim
from mechlist.experiments.list_experiment import SampledListExperiment
from mechlist.experiments.written_lists import compare as written_lists_steps
from mechlist.experiments.written_lists import report as written_lists_output
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import visible


@register("written-lists")
@dataclass(frozen=True, kw_only=True)
class WrittenLists(SampledListExperiment):
    """Compare what the model expects along lists that somebody else wrote with what it expects along its own.

    Both stand behind the same prompts. Written lists carry no filler, and then the fillers of the model's own lists:
    what is left is what other items do.
    """

    captions: ClassVar[Mapping[str, str]] = {
        "differences": "own lists, written ones and their difference, by adjective and measure",
        "matched": "the same against written lists that carry the fillers of the own ones",
        "items": "the same by number of items",
    }

    external: Path | None = None
    """A YAML file of topics with their lists, as in data/topics; without, the items of data/topics, the best-known
    first, as many as the model's own longest list of the prompt has."""

    def run(self, runner: Runner) -> xr.Dataset:
        """Means of both kinds of lists by adjective and item, and their differences over the same topics."""
        topics = load_topics(self.external) if self.external is not None else load_topics()
        names = None if self.external is None else list(choose_topics((self.external,), self.topics))
        own = self._of_shared_topics(self.data(runner, names), topics)
        # A list of one's own is read to its end, wherever the model would have stopped.
        most = own.most_items() if self.external is None else {}
        wanted = {
            prompt.tokens: min(most.get(prompt.tokens, room), room)
            for prompt, room in self._room(runner, own.each_prompt, topics)
        }
        own = own.of([i for i, prompt in enumerate(own.prompts) if wanted[prompt.tokens] > 0])
        if not len(own):
            raise InputError("The model's own lists must have an item, and none has.")
        items = [topics[prompt.topic][: wanted[prompt.tokens]] for prompt in own.each_prompt]
        written = made_lists(self.list_tokenizer(runner), own.each_prompt, items, filler=False)
        results = written_lists_steps.compare(runner, own, written, self.resamples)
        return results.assign_attrs(
            model=runner.language_model.info["name"],
            written="data/topics" if self.external is None else visible(self.external.name),
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Differences over all items, and each measure by item."""
        return written_lists_output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Differences by adjective and measure, over all items and by item."""
        return written_lists_output.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the results say, with intervals over topics."""
        return written_lists_output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return written_lists_output.claims(results)

    def _of_shared_topics(self, own: ListSet, topics: dict[str, tuple[str, ...]]) -> ListSet:
        shared = [i for i, topic in enumerate(own.topic) if topic in topics]
        if not shared:
            there = ", ".join(list(dict.fromkeys(own.topic))[:5])
            raise InputError(
                f"The lists that the model did not write must be of one topic at least of its own lists ({there}), not "
                f"only of {', '.join(list(topics)[:5])}."
            )
        return own.of(shared)

    def _room(
        self, runner: Runner, prompts: list[ListPrompt], topics: dict[str, tuple[str, ...]]
    ) -> Iterator[tuple[ListPrompt, int]]:
        """Each prompt, and how many items of its topic the model's context holds behind it."""
        for prompt in prompts:
            lines = [len(runner.tokenizer.encode(item, add_special_tokens=False)) + 2 for item in topics[prompt.topic]]
            held = np.cumsum(lines) + len(prompt.tokens) + 1 <= runner.shape.n_ctx
            yield prompt, int(held.sum())
