"""One list, token by token: what the model expected after each of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.made import example_completion
from mechlist.datasets.lists.prompts import list_prompts
from mechlist.datasets.lists.read import read_lists
from mechlist.datasets.topics import STUDY, choose_topics
from mechlist.decode import Sampling
from mechlist.errors import InputError
from mechlist.experiment import Claim, Experiment
from mechlist.experiments.list_experiment import sample_lists
from mechlist.experiments.list_predictions import predict
from mechlist.experiments.token_view import report as token_view_output
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.batch import Batch
from mechlist.text import NO_ADJECTIVE, visible

SHOWN = ("end", "filler", "entropy", "end_logit", "filler_logit")
"""Of the `Predictions`."""


@register("token-view")
@dataclass(frozen=True, kw_only=True)
class TokenView(Experiment):
    """Show one list with P(end), P(filler), entropy and both logit differences under every token.

    Numbers are about the token that comes next; the alternatives to it stand in the hover box.
    """

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"
    captions: ClassVar[Mapping[str, str]] = {
        "tokens": "a row a token, with its numbers and the most probable next ones",
    }

    recorded: tuple[Path, ...] = ()
    """Files of recorded lists, or folders of them; without, the model writes the list here."""
    topic: str = ""
    """Topic of the list; by default the first that is recorded, or the first of the study."""
    adjective: str = "short"
    """Adjective of the list; `none` for a prompt without."""
    number: int = 1
    """Which list of this topic and adjective, counted from 1."""
    temperature: float | int | None = None
    """Only lists recorded at this temperature; and the temperature of a list written here, 1 by default."""
    top_p: float | int = 1.0
    """Nucleus of a list written here."""
    max_new_tokens: int = 200
    """Tokens after which a list written here is cut off."""
    alternatives: int = 5
    """Most probable next tokens that are kept for every token."""

    def __post_init__(self) -> None:
        for name in ("number", "max_new_tokens", "alternatives"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        _ = self._sampling

    def run(self, runner: Runner) -> xr.Dataset:
        """Predictions and the most probable next tokens at every token from the prefilled hyphen on."""
        if self.alternatives > runner.shape.d_vocab_out:
            raise InputError(
                f"alternatives must be at most {runner.shape.d_vocab_out}, the tokens of the vocabulary, not "
                f"{self.alternatives}."
            )
        lists = self._chosen(runner)
        start, tokens = lists.starts[0], lists.rows[0][lists.starts[0] :].tolist()
        predictions = predict(runner, lists, label="Reading the list")
        ids, log_probs, own = self._next_tokens(runner, lists)
        results = xr.Dataset(
            {
                "token": ("position", tokens),
                "text": ("position", _json(runner, tokens)),
                **{name: ("position", getattr(predictions, name)[0, start:]) for name in SHOWN},
                "log_prob": ("position", own, {"units": "nats"}),
                "top_token": (("position", "rank"), ids),
                "top_text": (("position", "rank"), np.array([_json(runner, row) for row in ids.tolist()])),
                "top_log_prob": (("position", "rank"), log_probs, {"units": "nats"}),
            },
            coords={"position": start + np.arange(len(tokens)), "rank": 1 + np.arange(self.alternatives)},
        )
        temperature = float(lists.temperature[0])
        results.attrs = {
            "model": runner.language_model.info["name"],
            "topic": visible(lists.topic[0]),
            "adjective": lists.adjective[0],
            "temperature": None if np.isnan(temperature) else temperature,
            "ended": bool(lists.ended[0]),
            "n_items": int(lists.n_items[0]),
            "line_break": lists.special.line_break,
            "prompt": list(lists.prompts[0].tokens),
        }
        return results

    def example_completion(self, runner: Runner) -> tuple[int, ...]:
        """See Experiment."""
        return example_completion(runner.tokenizer, self.max_new_tokens)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """The list with its numbers."""
        return token_view_output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """One row a token."""
        return token_view_output.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """Which list it is, and where the model came nearest to ending it before."""
        return token_view_output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return token_view_output.claims(results)

    @property
    def _sampling(self) -> Sampling:
        return Sampling(temperature=1.0 if self.temperature is None else self.temperature, top_p=self.top_p)

    def _chosen(self, runner: Runner) -> ListSet:
        """The one list."""
        if not self.recorded:
            names = list(choose_topics((), (self.topic,)) if self.topic else choose_topics((STUDY,)))
            prompts = list_prompts(runner.tokenizer, names[:1], [self.adjective])
            lists = sample_lists(
                runner,
                prompts,
                list_tokens(runner.tokenizer),
                sampling=self._sampling,
                samples=self.number,
                max_new_tokens=self.max_new_tokens,
            )
            return lists.of([self.number - 1])
        lists = read_lists(
            self.recorded,
            topics=(self.topic,) if self.topic else (),
            temperature=self.temperature,
            keep_cut_off=True,
            tokenizer=runner.tokenizer,
        )
        found = [i for i, adjective in enumerate(lists.adjective) if adjective == self.adjective]
        found = [i for i in found if lists.topic[i] == lists.topic[found[0]]]
        if self.number > len(found):
            what = "without adjective" if self.adjective == NO_ADJECTIVE else f"with the adjective {self.adjective!r}"
            raise InputError(
                f"number must be at most {len(found)}, not {self.number}: so many recorded lists {what} there are."
            )
        return lists.of([found[self.number - 1]])

    def _next_tokens(self, runner: Runner, lists: ListSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Most probable next tokens with their log-probabilities, and that of each token itself (NaN for the first)."""
        (row,), start = lists.rows, lists.starts[0]
        target = torch.cat([row[start + 1 :], row.new_zeros(1)])

        def function(batch: Batch) -> dict[str, Tensor]:
            log_prob = batch.logits().float().log_softmax(-1)
            best = log_prob.topk(self.alternatives, dim=-1)
            own = log_prob[0].gather(1, target.to(log_prob.device)[:, None])[None, :, 0]
            return {"ids": best.indices, "log_prob": best.values, "own": own}

        found = runner.map(
            [row],
            function,
            positions=list(range(start, len(row))),
            row_bytes=lambda _, kept: 12 * kept * runner.shape.d_vocab_out,
            label="Alternatives",
        )
        own = found["own"][0].double().numpy()
        return (
            found["ids"][0].numpy(),
            found["log_prob"][0].double().numpy(),
            np.concatenate([[np.nan], own[:-1]]),
        )


def _json(runner: Runner, tokens: list[int]) -> list[str]:
    """Texts of tokens as plain ASCII: text may hold anything, and NetCDF strings may not."""
    return [json.dumps(text) for text in runner.token_texts(tokens)]
