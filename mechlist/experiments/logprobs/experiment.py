"""What a model says of every token of a text: log-probability, rank, entropy, and what else might have come."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.datasets.chat import stop_tokens
from mechlist.decode import Sampling, generate
from mechlist.decode.reading import read_columns
from mechlist.decode.record_reading import records_of, sequences_of
from mechlist.decode.records import Record, read_records, records_text, to_json, to_openai
from mechlist.decode.tree import Tree
from mechlist.errors import InputError
from mechlist.experiments.logprobs import report
from mechlist.experiments.logprobs.dataset import to_dataset, to_records
from mechlist.experiments.prompt_experiment import Prompt, PromptExperiment
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.text import escaped
from mechlist.text_files import json_text


@register("logprobs")
@dataclass(frozen=True, kw_only=True)
class LogProbs(PromptExperiment):
    """Log-probability, rank, entropy and alternatives of every token that a model writes, or of given text."""

    instead_of_model: ClassVar[str] = "recorded"

    recorded: Path | None = None
    """File of records (JSON lines, JSON, or a response of OpenAI's API with logprobs), read in the model's place."""
    prompts: tuple[str, ...] = ()
    """Prompts; without, three lists are asked for."""
    responses: tuple[str, ...] = ()
    """Texts that are read behind the prompts, one each; without, the model writes them."""
    max_new_tokens: int = 60
    """Tokens after which a text that is written here is cut off."""
    temperature: float | int = 0.0
    """Of texts that are written here; 0 takes the most probable token."""
    top_p: float | int = 1.0
    """Nucleus of texts that are written here."""
    alternatives: int = 5
    """Most probable tokens that are kept in each place."""
    logits_of: tuple[str, ...] = ()
    """Tokens whose logits are kept in every place, in place of all else: only these columns are unembedded, which says
    nothing about probabilities."""
    top: int = 20
    """Rows of the table of the least confident tokens."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "alternatives", "top"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.recorded is not None and (self.prompts or self.responses or self.logits_of):
            raise InputError("recorded takes the place of prompts, responses and logits_of: give one or the other.")
        if self.responses and len(self.responses) != len(self.prompts):
            raise InputError(
                f"responses must be one for each of the {len(self.prompts)} prompts, not {len(self.responses)}."
            )
        _ = self._sampling

    def run(self, runner: Runner | None) -> xr.Dataset:
        """Every record, token by token."""
        if self.recorded is not None or runner is None:
            records = read_records(self.recorded) if self.recorded is not None else []
            return to_dataset(records).assign_attrs(model="", source=str(self.recorded), logits_only=False)
        prompts = self.prompts_of(runner, self.prompts)
        answers = self._answers(runner, prompts)
        name = runner.language_model.info["name"]
        if self.logits_of:
            return self._logits(runner, prompts, answers).assign_attrs(model=name, logits_only=True)
        asked = [(prompt.text, prompt.tokens) for prompt in prompts]
        records = records_of(runner, asked, answers, self.alternatives)
        source = "given" if self.responses else "written"
        return to_dataset(records).assign_attrs(model=name, source=source, logits_only=False)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Every text coloured by confidence, and how sure the model was along it."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Records, tokens, and the least confident tokens."""
        return report.tables(results, self.top)

    def files(self, results: xr.Dataset) -> dict[str, str]:
        """The records as JSON lines, as JSON, and as responses of OpenAI's API."""
        if results.attrs["logits_only"]:
            return {}
        records, model = to_records(results), results.attrs["model"] or "recorded"
        return {
            "records.jsonl": records_text(records),
            "records.json": json_text([to_json(record) for record in records], indent=1) + "\n",
            "openai.json": json_text([to_openai(record, model) for record in records]) + "\n",
        }

    def exhibits(self, results: xr.Dataset) -> dict[str, Record | Tree]:
        """The texts."""
        if results.attrs["logits_only"]:
            return {}
        return {f"text {n}": record for n, record in enumerate(to_records(results), start=1) if record.tokens}

    def findings(self, results: xr.Dataset) -> list[str]:
        """How sure the model was, and where it was not."""
        return report.findings(results)

    @property
    def _sampling(self) -> Sampling:
        if self.temperature == 0:
            return Sampling(greedy=True)
        return Sampling(temperature=self.temperature, top_p=self.top_p)

    def _answers(self, runner: Runner, prompts: list[Prompt]) -> list[tuple[int, ...]]:
        """Tokens of what follows each prompt."""
        if self.responses:
            encoded = [tuple(runner.tokenizer.encode(text, add_special_tokens=False)) for text in self.responses]
            empty = next((i for i, tokens in enumerate(encoded) if not tokens), None)
            if empty is not None:
                raise InputError(f"responses must hold text; number {empty + 1} is empty.")
            return encoded
        written = generate(
            runner,
            [prompt.tokens for prompt in prompts],
            max_new_tokens=self.max_new_tokens,
            sampling=self._sampling,
            stop_tokens=stop_tokens(runner.tokenizer),
        )
        return [of_prompt[0].tokens for of_prompt in written]

    def _logits(self, runner: Runner, prompts: list[Prompt], answers: list[tuple[int, ...]]) -> xr.Dataset:
        """Logits of some tokens of the vocabulary, and nothing else."""
        ids = []
        for text in self.logits_of:
            found = runner.tokenizer.encode(text, add_special_tokens=False)
            if len(found) != 1:
                raise InputError(f"logits_of must be texts of one token each, and {text!r} has {len(found)}.")
            ids += found
        sequences, starts = sequences_of([prompt.tokens for prompt in prompts], answers)
        tokens, logits = read_columns(runner, sequences, starts, torch.tensor(ids))
        texts = [[escaped(t) for t in runner.token_texts(list(answer))] for answer in answers]
        width = tokens.shape[1]
        return xr.Dataset(
            {
                "logit": (("record", "token", "column"), logits.numpy(), {"units": "logits"}),
                "token_id": (("record", "token"), tokens.numpy()),
                "text": (("record", "token"), np.array([row + [escaped("")] * (width - len(row)) for row in texts])),
                "column_text": ("column", np.array([escaped(text) for text in self.logits_of], dtype=object)),
            },
            coords={"record": np.arange(len(answers)), "token": np.arange(width), "column": ids},
        )
