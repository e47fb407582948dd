"""Lists that the model did not write against its own: entropy, the end and fillers, item by item."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.topics import choose_topics, load_topics
from mechlist.errors import InputError
from mechlist.experiments import whole_lists as list_hazard_lists
from mechlist.experiments.own_lists import OwnLists
from mechlist.experiments.whole_lists import Lists
from mechlist.experiments.written_lists import compare as written_lists_steps
from mechlist.experiments.written_lists import report as written_lists_output
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import visible


@register("written-lists")
@dataclass(frozen=True, kw_only=True)
class WrittenLists(OwnLists):
    """Compare what the model expects along lists that somebody else wrote with what it expects along its own.

    Both stand behind the same prompts. Why a study of endings samples its lists from the model itself.
    """

    external: Path | None = None
    """A YAML file of topics with their lists, as in data/topics; without, the items of data/topics, the best-known
    first, as many as the model's own longest list of the prompt has."""

    def run(self, runner: Runner) -> xr.Dataset:
        """Means of both kinds of lists by adjective and item, and their differences over the same topics."""
        topics = load_topics(self.external) if self.external is not None else load_topics()
        names = None if self.external is None else list(choose_topics((self.external,), self.topics))
        own = self._of_shared_topics(self.own_lists(runner, names), topics)
        prompts = list({one.prompt.tokens: one.prompt for one in own}.values())
        longest = {
            prompt.tokens: max(len(one.parsed.items) for one in own if one.prompt.tokens == prompt.tokens)
            for prompt in prompts
        }
        room = self._room(runner, prompts, topics)
        # A list of one's own is read to its end, wherever the model would have stopped.
        wanted = [
            room[i] if self.external is not None else min(longest[p.tokens], room[i]) for i, p in enumerate(prompts)
        ]
        kept = [i for i, number in enumerate(wanted) if number > 0]
        if not kept:
            raise InputError("The model's own lists must have an item, and none has.")
        chosen = [prompts[i] for i in kept]
        written = list_hazard_lists.made_of(runner, chosen, topics, [wanted[i] for i in kept])
        own = [one for one in own if one.prompt.tokens in {prompt.tokens for prompt in chosen}]
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

    def _of_shared_topics(self, own: Lists, topics: dict[str, tuple[str, ...]]) -> Lists:
        shared = [one for one in own if one.prompt.topic in topics]
        if not shared:
            there = ", ".join(list(dict.fromkeys(one.prompt.topic for one in own))[:5])
            raise InputError(
                f"The lists that the model did not write must be of one topic at least of its own lists ({there}), not "
                f"only of {', '.join(list(topics)[:5])}."
            )
        return shared

    def _room(
        self, runner: Runner, prompts: list[list_hazard_lists.ListPrompt], topics: dict[str, tuple[str, ...]]
    ) -> list[int]:
        """How many items of each prompt's topic the model's context holds."""
        room = []
        for prompt in prompts:
            lines = [len(runner.tokenizer.encode(item, add_special_tokens=False)) + 2 for item in topics[prompt.topic]]
            held = np.cumsum(lines) + len(prompt.tokens) + 1 <= runner.shape.n_ctx
            room.append(int(held.sum()))
        return room
