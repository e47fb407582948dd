"""What a model expects after every prefix of a prompt, the empty one included."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.plain_prompts import read_prompts
from mechlist.experiments.top_predictions import report
from mechlist.registry import register
from mechlist.runner import Batch, Runner

COPIES = 3
"""Of the logits that stand at a time: themselves, their softmax, and their order."""


@register("top-predictions")
@dataclass(frozen=True, kw_only=True)
class TopPredictions(Experiment):
    """The most probable next tokens after every prefix of a prompt, from the empty one on."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    prompt: tuple[str, ...] = ()
    """Prompts; by default a dozen plain texts."""
    top: int = 3
    """Tokens after each prefix."""

    def __post_init__(self) -> None:
        if self.top < 2:
            raise InputError(f"top must be at least 2 tokens, so that there is a runner-up, not {self.top}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Tokens, logits and probabilities by prefix and rank, and the odds of the first against the second."""
        if self.top > runner.shape.d_vocab_out:
            raise InputError(f"top must be at most {runner.shape.d_vocab_out}, the vocabulary, not {self.top}.")
        prompts = read_prompts(runner, self.prompt)
        empty = () if runner.bos_token_id is None else ((runner.bos_token_id,),)
        rows = [*empty, *prompts.rows]
        found = _read(runner, rows, self.top)
        # BOS begins every prompt, and what comes after it alone is told once.
        start = len(empty)
        prefixes = [(n, place) for n, row in enumerate(rows) for place in range(start if n else 0, len(row))]
        number, place = (np.array(values) for values in zip(*prefixes, strict=True))
        read = np.array([row[at] for row, at in ((rows[n], at) for n, at in prefixes)])
        tops = {name: values[number, place] for name, values in found.items()}
        logits = tops["logit"].astype(np.float64)
        results = xr.Dataset(
            {
                "prompt": ("prefix", number - start, {"note": "-1 is the empty prompt"}),
                "length": ("prefix", place + 1, {"units": "tokens"}),
                "token": ("prefix", read),
                "text": ("prefix", _json(runner, read.tolist())),
                "top_token": (("prefix", "rank"), tops["token"]),
                "top_text": (("prefix", "rank"), np.array([_json(runner, row) for row in tops["token"].tolist()])),
                "logit": (("prefix", "rank"), logits, {"units": "logits"}),
                "probability": (("prefix", "rank"), tops["probability"]),
                "entropy": ("prefix", tops["entropy"], {"units": "nats"}),
                "odds": ("prefix", odds(logits[:, 0], logits[:, 1])),
            },
            coords={"prefix": np.arange(len(prefixes)), "rank": 1 + np.arange(self.top)},
        )
        return results.assign_attrs(model=runner.language_model.info["name"], prompts=prompts.labels)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Every prompt token by token, and what follows the empty one."""
        return report.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """One row a prefix."""
        return report.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """What the model expects at the end of each prompt, and before there is any."""
        return report.findings(results)


def odds(logit: Float[np.ndarray, "*cell"], other: Float[np.ndarray, "*cell"]) -> Float[np.ndarray, "*cell"]:
    """How many times as probable a token is as another, from their logits: exp(22.0583 - 17.2366) = 124.2."""
    return np.exp(logit - other)


def _read(runner: Runner, rows: Sequence[Sequence[int]], top: int) -> dict[str, np.ndarray]:
    """Tokens, logits and probabilities [prompt, position, rank], and entropy [prompt, position]."""

    def function(batch: Batch) -> dict[str, Tensor]:
        logits = batch.logits().float()
        log_probs = logits.log_softmax(-1)
        best = logits.topk(top, dim=-1)
        chosen = log_probs.gather(-1, best.indices).double().exp()
        # An outcome of probability 0 adds nothing, whatever its logarithm.
        entropy = -torch.where(log_probs.isneginf(), 0.0, log_probs.exp() * log_probs).sum(-1)
        return {"token": best.indices, "logit": best.values, "probability": chosen, "entropy": entropy}

    vocab = runner.shape.d_vocab_out
    found = runner.map(rows, function, row_bytes=lambda _, kept: 4 * COPIES * kept * vocab, label="Reading prefixes")
    for n, row in enumerate(rows):
        bad = (~found["logit"][n, : len(row)].isfinite()).any(-1).nonzero()[:, 0].tolist()
        if bad:
            raise InputError(
                f"The most probable tokens after {bad[0] + 1} tokens of {list(row)} have logits that are NaN or "
                "infinite: the model overflows or its weights are broken."
            )
    return {name: value.numpy() for name, value in found.items()}


def _json(runner: Runner, tokens: list[int]) -> list[str]:
    """Texts of tokens as plain ASCII: text may hold anything, and NetCDF strings may not."""
    return [json.dumps(text) for text in runner.token_texts(tokens)]
