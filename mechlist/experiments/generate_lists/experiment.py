"""Lists that a chat model writes for the prompts of the list-ending study."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.datasets.chat import list_tokens, model_header
from mechlist.datasets.lists.made import example_completion
from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.lists.prompts import ListPrompt, list_prompts
from mechlist.datasets.templates import list_tokenizer
from mechlist.datasets.topics import choose_topics
from mechlist.decode import Completion, Sampling, generate
from mechlist.errors import InputError
from mechlist.experiment import Claim, Experiment
from mechlist.experiments.generate_lists import report as generate_lists_output
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import NO_ADJECTIVE

Row = tuple[float, ListPrompt, int, Completion]
"""Temperature, prompt, number of the sample, and what was written."""


@register("generate-lists")
@dataclass(frozen=True, kw_only=True)
class GenerateLists(Experiment):
    """Let a model write short, long and plain lists of every topic, as in the list-ending study."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"
    captions: ClassVar[Mapping[str, str]] = {
        "lists": "a row a list, with its text as it was written",
    }

    topics: tuple[str, ...] = ()
    """Topics, by name; by default all of --topic-files."""
    topic_files: tuple[str, ...] = ("study",)
    """Topic files, by path or by the name of one that comes with mechlist."""
    adjectives: tuple[str, ...] = ("short", "long", NO_ADJECTIVE)
    """Words before "list" in the prompt; `none` for a prompt without."""
    temperatures: tuple[float, ...] = (0.7,)
    """Temperatures of sampling, each above 0."""
    samples: int = 5
    """Lists for each topic, adjective and temperature."""
    top_p: float = 0.8
    """Nucleus: tokens are drawn from the most probable ones that have this probability together."""
    top_k: int | None = None
    """Tokens are drawn from the k most probable ones only."""
    greedy: bool = False
    """Take the most probable token each time, instead of drawing."""
    max_new_tokens: int = 100
    """Tokens after which a list that has not ended is cut off."""
    template: Path | None = None
    """File with the text of the prompt, for models without chat template: one {adjective}, one {topic}, and all that
    stands before the list."""
    end_tokens: tuple[int, ...] = ()
    """With template: ids of the token that ends a list after a line break, which A compares with the hyphen, and of
    another one if there is."""

    def __post_init__(self) -> None:
        if len(set(self.topics)) < len(self.topics):
            raise InputError(f"topics must hold each topic once, not {list(self.topics)}.")
        for name in ("topic_files", "adjectives", "temperatures"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name} must hold one value at least, each once, not {list(values)}.")
        if self.samples < 1 or self.max_new_tokens < 1:
            raise InputError(
                f"samples and max_new_tokens must be at least 1, not {self.samples} and {self.max_new_tokens}."
            )
        if self.greedy and (self.samples > 1 or len(self.temperatures) > 1):
            raise InputError("greedy lists of one prompt are all the same: give --samples 1 and one temperature.")
        for temperature in self.temperatures:
            self._sampling(temperature)

    def run(self, runner: Runner) -> xr.Dataset:
        """Whole sequences as token ids, with the log-probability of each token that was written."""
        topics = choose_topics(self.topic_files, self.topics)
        tokenizer = self._tokenizer(runner)
        special = list_tokens(tokenizer)
        prompts = list_prompts(tokenizer, list(topics), self.adjectives)
        rows = [row for temperature in self.temperatures for row in self._rows(runner, prompts, special, temperature)]
        return _dataset(runner, rows).assign_attrs(self._attributes(runner, special, prompts))

    def example_completion(self, runner: Runner) -> tuple[int, ...]:
        """See Experiment."""
        return example_completion(self._tokenizer(runner), self.max_new_tokens)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """How far each list got, and how sure the model was of its tokens, by what they decide."""
        return generate_lists_output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Every list with its text."""
        return {"lists": generate_lists_output.table(results)}

    def files(self, results: xr.Dataset) -> dict[str, str]:
        """One line of JSON a list, and one file of recorded lists for each adjective and temperature."""
        return generate_lists_output.files(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """How many lists there are, how many of them ended, and how many are well formed."""
        return generate_lists_output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return generate_lists_output.claims(results)

    def _tokenizer(self, runner: Runner) -> Any:
        return list_tokenizer(runner.tokenizer, self.template, self.end_tokens)

    def _sampling(self, temperature: float | int) -> Sampling:
        return Sampling(greedy=self.greedy, temperature=temperature, top_p=self.top_p, top_k=self.top_k)

    def _rows(
        self, runner: Runner, prompts: list[ListPrompt], special: ListTokens, temperature: float | int
    ) -> list[Row]:
        written = generate(
            runner,
            [prompt.tokens for prompt in prompts],
            max_new_tokens=self.max_new_tokens,
            samples=self.samples,
            sampling=self._sampling(temperature),
            stop_tokens=special.ends,
            label=f"Writing lists at temperature {temperature:g}",
        )
        shown = math.nan if self.greedy else float(temperature)
        return [(shown, p, n, c) for p, samples in zip(prompts, written, strict=True) for n, c in enumerate(samples)]

    def _attributes(self, runner: Runner, special: ListTokens, prompts: list[ListPrompt]) -> dict[str, object]:
        return {
            "model": runner.language_model.info["name"],
            "special_tokens": asdict(special),
            "end_of_turn": runner.tokenizer.decode([special.end_of_turn]),
            "model_header": list(model_header(self._tokenizer(runner))),
            "adjective_index": {p.adjective_name: p.adjective_index for p in prompts},
            "top_p": self.top_p,
            "top_k": self.top_k,
            "greedy": self.greedy,
            "max_new_tokens": self.max_new_tokens,
        }


def _dataset(runner: Runner, rows: list[Row]) -> xr.Dataset:
    """One row a list; tokens are -1 after its end, log-probabilities NaN where nothing was written."""
    width = max(len(p.tokens) + len(c.tokens) for _, p, _, c in rows)
    tokens = np.full((len(rows), width), -1)
    log_probs = np.full((len(rows), width), np.nan)
    for i, (_, prompt, _, completion) in enumerate(rows):
        sequence = prompt.with_completion(completion.tokens)
        tokens[i, : len(sequence)] = sequence
        log_probs[i, len(prompt.tokens) : len(sequence)] = completion.log_probs
    # Text may hold anything, NetCDF strings may not: as JSON it is plain ASCII.
    texts = [json.dumps("-" + runner.tokenizer.decode(c.tokens)) for _, _, _, c in rows]
    return xr.Dataset(
        {
            "tokens": (("list", "position"), tokens),
            "log_prob": (("list", "position"), log_probs),
            "prompt_length": ("list", [len(p.tokens) for _, p, _, _ in rows]),
            "text": ("list", texts),
        },
        {
            "topic": ("list", [p.topic for _, p, _, _ in rows]),
            "adjective": ("list", [p.adjective_name for _, p, _, _ in rows]),
            "temperature": ("list", [temperature for temperature, _, _, _ in rows]),
            "sample": ("list", [n for _, _, n, _ in rows]),
        },
    )
