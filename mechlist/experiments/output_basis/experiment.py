"""What each hidden dimension writes into the logits, and which dimensions are unlike the others."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.output_basis import figures as drawing
from mechlist.experiments.output_basis import findings as words
from mechlist.experiments.output_basis.basis import PASSES, describe, kind_shares, random_directions
from mechlist.experiments.plain_prompts import read_prompts
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.progress import Bar
from mechlist.runner.raw import basis_words, raw_runner
from mechlist.weights.output import OutputWeights, equal_columns, final_states, output_weights


@register("output-basis")
@dataclass(frozen=True, kw_only=True)
class OutputBasis(Experiment):
    """What each hidden dimension writes up and down, its entropy, and outlier dimensions.

    The unembedding is that of Hugging Face, without the final norm's gain unless it is asked for.
    """

    needs_tokenizer: ClassVar[bool] = True
    raw_weights: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    prompt: tuple[str, ...] = ()
    """Prompts from which a dimension's typical size is taken, and its value (at the end of the first); by default a
    dozen plain texts."""
    top: int = 10
    """Tokens kept that a dimension writes most up, and as many most down."""
    fold_gain: bool = False
    """Take the final norm's gain into the unembedding, as folding the norm does."""
    outlier_z: float | int | None = None
    """Robust standard deviations beyond which a dimension is an outlier; by default 5 % after Bonferroni."""
    random: int = 64
    """Random directions that the dimensions are compared with."""

    def __post_init__(self) -> None:
        for name in ("top", "random"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.outlier_z is not None and not self.outlier_z > 0:
            raise InputError(f"outlier_z must be above 0, not {self.outlier_z}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Moments, entropies, tokens and outliers of all dimensions; random directions; kinds of tokens."""
        if self.top > runner.shape.d_vocab_out:
            raise InputError(f"top must be at most {runner.shape.d_vocab_out}, the vocabulary, not {self.top}.")
        raw = raw_runner(runner)
        prompts, output = read_prompts(raw, self.prompt), output_weights(raw)
        states = final_states(raw, prompts.rows)
        gain = output.gain if self.fold_gain else torch.ones_like(output.gain)
        # Where the gain is in the weights it is not in the state.
        sizes = states.abs().flatten(0, 1).nanmedian(dim=0).values / gain.abs()
        value = states[0, len(prompts.rows[0]) - 1] / gain
        weight = output.folded_gain if self.fold_gain else output.weight
        with Bar("Reading the unembedding", PASSES * weight.numel(), raw.progress) as bar:
            results = describe(
                weight,
                typical=torch.where(sizes.isfinite(), sizes, 0),
                value=torch.where(value.isfinite(), value, 0),
                top=self.top,
                threshold=self.outlier_z,
                progress=bar.advance,
            )
        results = results.merge(random_directions(weight, self.random, raw.generator("random directions")))
        results["typical_size"] = ("dimension", sizes.numpy())
        results["prompt_value"] = ("dimension", value.numpy())
        results["gain"] = ("dimension", output.gain.numpy())
        results = _with_texts(raw, results)
        return results.assign_attrs(_facts(raw, output), fold_gain=self.fold_gain, prompts=prompts.labels)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Dimensions as points that open their tokens, entropies, and the kinds of tokens that outliers write."""
        return drawing.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """One row a dimension; the outliers by themselves."""
        return words.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """How near to uniform a dimension's softmax is, at which size; which dimensions stand out."""
        return words.findings(results)


def _with_texts(runner: Runner, results: xr.Dataset) -> xr.Dataset:
    """Texts of the extreme tokens, and the shares of their kinds."""
    ids = {end: results[f"{end}_token"].values for end in ("up", "down")}
    known = np.unique(np.concatenate([array.ravel() for array in ids.values()]))
    texts = dict(zip(known.tolist(), runner.token_texts(known.tolist()), strict=True))
    named = {end: [[texts[token] for token in row] for row in array.tolist()] for end, array in ids.items()}
    for end, rows in named.items():
        # As plain ASCII: text may hold anything, and NetCDF strings may not.
        results[f"{end}_text"] = (("dimension", "end"), np.array([[json.dumps(text) for text in row] for row in rows]))
    both = [[*up, *down] for up, down in zip(named["up"], named["down"], strict=True)]
    outlier = results["outlier"].any("method").values
    return results.merge(kind_shares(both, outlier, runner.numpy_generator("kinds of tokens")))


def _facts(runner: Runner, output: OutputWeights) -> dict[str, object]:
    """What must be known of the model to read the numbers."""
    return {
        "model": runner.language_model.info["name"],
        "basis": basis_words(runner),
        "vocab": output.weight.shape[1],
        "tied_factor": output.tied_factor or 0.0,
        "output_bias": output.has_bias,
        "softcap": output.softcap or 0.0,
        "equal_tokens": len(equal_columns(output.weight)),
        "unnamed_tokens": max(0, output.weight.shape[1] - len(runner.tokenizer)),
    }
