"""Path patching of one or more pairs of prompts: what senders do through chosen receivers, exactly."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments import path_patch_output
from mechlist.experiments.patch_pairs import KEYS, Pair, Pairs, list_pairs, name_pairs, own_pairs, read_pairs
from mechlist.figures import visible
from mechlist.metrics.answers import LogitDifference, LogProb, Probability
from mechlist.metrics.distributions import KLFromBase
from mechlist.metrics.measure import Metric
from mechlist.patching.path import path_patch
from mechlist.patching.path_inputs import Frozen
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.batching import pad_right

MetricName = Literal["logit_difference", "log_prob", "probability", "kl"]


@register("path-patch")
@dataclass(frozen=True, kw_only=True)
class PathPatch(Experiment):
    """Send what a head or MLP adds in one run along its paths to chosen receivers in another, and see what it does."""

    needs_tokenizer: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    clean: str = ""
    """Prompt that has the answer as its continuation; without, the pairs of --data."""
    corrupt: str = ""
    """Prompt of as many tokens that has the wrong answer as its continuation."""
    answer: str = ""
    """Continuation of the clean prompt: one token, with its leading blank."""
    wrong: str = ""
    """Continuation of the corrupt prompt: one token, with its leading blank."""
    pairs: Path | None = None
    """File of pairs, in place of the four: lines of JSON with clean, corrupt, answer and wrong."""
    data: Literal["list", "ioi"] = "list"
    """Pairs that are built in: a finished list after "short" and after "long" (chat models), or two people's names."""
    topics: tuple[str, ...] = (
        "Fruits",
        "Vegetables",
        "Animals",
        "Countries",
        "Sports",
        "Languages",
        "Colors",
        "Rivers",
    )
    """Topics of the lists, one pair each."""
    examples: int = 32
    """Pairs of prompts with two people's names."""
    receivers: tuple[str, ...] = ("logits",)
    """What is sent to: queries, keys or values of a head, such as "a9.h9<q>", an MLP (m3) or logits; several that are
    replaced together are joined by commas, such as "a9.h9<q>,a9.h6<q>"."""
    senders: tuple[str, ...] = ()
    """What sends: input (the embedding), a head (a3.h5) or an MLP (m3); by default all that the model has."""
    frozen: Frozen = "all"
    """What keeps its output between sender and receiver: all (the direct path alone), or heads (all paths through MLPs
    between the two as well; Wang et al. 2022)."""
    metric: MetricName = "logit_difference"
    """What is measured at the end of the prompt: the answer's logit minus the wrong one's, the answer's log-probability
    or probability, or the KL divergence from the unchanged run."""
    noising: bool = False
    """Send what is added in the corrupt run into the clean one, instead of the other way round."""
    top: int = 20
    """Rows of the table of senders with the largest effect."""

    def __post_init__(self) -> None:
        given = [name for name in KEYS if getattr(self, name)]
        if given and (len(given) < len(KEYS) or self.pairs is not None):
            raise InputError("clean, corrupt, answer and wrong must be given together, and without pairs.")
        for name in ("top", "examples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("topics", "receivers"):
            if not getattr(self, name):
                raise InputError(f"{name} must hold one {name[:-1]} at least, not none.")
        if len(set(self.receivers)) < len(self.receivers):
            raise InputError(f"receivers must hold each set once, not {', '.join(self.receivers)}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """The metric of every sender, set of receivers and prompt, with the tokens of the prompts that are changed."""
        found = self._pairs(runner)
        clean, corrupt = (
            pad_right([torch.tensor(getattr(pair, name)) for pair in found.pairs]) for name in ("clean", "corrupt")
        )
        base, source = (clean, corrupt) if self.noising else (corrupt, clean)
        lengths = torch.tensor([len(pair.clean) for pair in found.pairs])
        results = path_patch(
            runner,
            base=base,
            source=source,
            receivers={name: [one.strip() for one in name.split(",")] for name in self.receivers},
            senders=list(self.senders) or None,
            frozen=self.frozen,
            metric=self._metric(found.pairs),
            lengths=lengths,
        )
        texts = [runner.token_texts(row[:n].tolist()) for row, n in zip(base, lengths.tolist(), strict=True)]
        results["token"] = (("prompt", "token_position"), _padded(texts, base.shape[1]))
        if found.clusters is not None:
            results["cluster"] = ("prompt", np.array(found.clusters))
        return results.assign_attrs(noising=self.noising, metric=self.metric, model=runner.language_model.info["name"])

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Effects of the heads, and of the embedding and the MLPs, averaged over the prompts."""
        return path_patch_output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """Senders by the size of their effect, and the prompts."""
        return path_patch_output.tables(results, self.top)

    def findings(self, results: xr.Dataset) -> list[str]:
        """The runs, the senders that move the metric most, and how many move it beyond chance."""
        return path_patch_output.findings(results)

    def _pairs(self, runner: Runner) -> Pairs:
        if self.pairs is not None:
            return own_pairs(runner, read_pairs(self.pairs))
        if self.clean:
            return own_pairs(runner, [{name: getattr(self, name) for name in KEYS}])
        return list_pairs(runner, self.topics) if self.data == "list" else name_pairs(runner, self.examples)

    def _metric(self, pairs: list[Pair]) -> Metric:
        answer, wrong = [pair.answer for pair in pairs], [pair.wrong for pair in pairs]
        made: dict[MetricName, Metric] = {
            "logit_difference": LogitDifference(answer=answer, wrong=wrong),
            "log_prob": LogProb(answer=answer),
            "probability": Probability(answer=answer),
            "kl": KLFromBase(),
        }
        return made[self.metric]


def _padded(texts: list[list[str]], width: int) -> np.ndarray:
    return np.array([[*map(visible, row), *[""] * (width - len(row))] for row in texts])
