"""How the final hidden state and its logits are distributed, and which components are beyond noise."""

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.hidden_state import figures as drawing
from mechlist.experiments.hidden_state import findings as words
from mechlist.experiments.plain_prompts import Prompts, read_prompts
from mechlist.metrics.location import Correction, Scale, Summary, beyond_noise, summary
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.raw import basis_words, raw_runner
from mechlist.weights.output import final_states, output_weights

QUANTITIES = ("hidden state", "logits")


@register("hidden-state")
@dataclass(frozen=True, kw_only=True)
class HiddenState(Experiment):
    """Distribution of the final hidden state and of its logits after a prompt.

    The hidden state is what the unembedding reads, after the final norm and its gain, in the basis of Hugging Face.
    """

    needs_tokenizer: ClassVar[bool] = True
    raw_weights: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    prompt: tuple[str, ...] = ()
    """Prompts, read at their last token; by default a dozen plain texts."""
    alpha: float | int = 0.05
    """Rate of false alarms at which a component is beyond noise."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must be between 0 and 1, not {self.alpha}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """States and logits, what sums them up, and the components beyond noise by two scales and two corrections."""
        raw = raw_runner(runner)
        prompts = read_prompts(raw, self.prompt)
        states = final_states(raw, prompts.rows, -1)[:, 0]
        output = output_weights(raw)
        with torch.no_grad():
            logits = output.logits(states.to(output.weight.device)).float().cpu()
        results = _described(prompts, states, logits).merge(_beyond(states, self.alpha))
        attrs = {"alpha": self.alpha, "basis": basis_words(raw), "softcap": output.softcap or 0.0}
        return results.assign_attrs(attrs, model=runner.language_model.info["name"], prompts=prompts.labels)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """State and logits of the first prompt, in order, sorted and as a density; the counts of all prompts."""
        return drawing.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """What sums up each prompt, and its components beyond noise."""
        return words.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """Shape and spread, and how many components are beyond noise by each count."""
        return words.findings(results)


def _described(prompts: Prompts, states: Tensor, logits: Tensor) -> xr.Dataset:
    both = [[summary(row) for row in values.double().numpy()] for values in (states, logits)]
    log_probs = logits.double().log_softmax(-1)
    entropy = -torch.where(log_probs.isneginf(), 0.0, log_probs.exp() * log_probs).sum(-1)
    return xr.Dataset(
        {
            "state": (("prompt", "component"), states.numpy()),
            "logit": (("prompt", "token"), logits.numpy(), {"units": "logits"}),
            "summary": (("quantity", "prompt", "statistic"), np.array(both)),
            "softmax_entropy": ("prompt", entropy.numpy(), {"units": "nats"}),
        },
        coords={
            "prompt": np.arange(len(prompts.rows)),
            "quantity": list(QUANTITIES),
            "statistic": list(Summary._fields),
        },
    )


def _beyond(states: Tensor, alpha: float) -> xr.Dataset:
    scales, corrections = get_args(Scale), get_args(Correction)
    found = [
        [[beyond_noise(row, scale=scale, correction=correction, alpha=alpha) for row in states.double().numpy()]
         for correction in corrections]
        for scale in scales
    ]  # fmt: skip
    marked = np.array(found)
    dims = ("scale", "correction", "prompt", "component")
    return xr.Dataset(
        {"beyond_noise": (dims, marked), "beyond": (dims[:3], marked.sum(axis=-1), {"units": "components"})},
        coords={"scale": list(scales), "correction": list(corrections)},
    )
