"""Whether the unembedding can be sparse, and what the model writes from nothing: what is at the top of its mind."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from mechlist import effort
from mechlist.decode.own_texts import own_texts, with_bos
from mechlist.decode.sampling import Sampling
from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.sparse_output_basis import figures as drawing
from mechlist.experiments.sparse_output_basis import findings as words
from mechlist.experiments.sparse_output_basis.mind import top_of_mind
from mechlist.metrics.by_topic import ENDS
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.progress import Bar
from mechlist.runner.raw import basis_words, raw_runner
from mechlist.types import format_bytes
from mechlist.weights.dimensions import extreme_tokens
from mechlist.weights.output import OutputWeights, final_states, output_weights
from mechlist.weights.sparse import Fidelity, constant_only, fidelity, largest_penalty, pruned, sparse_refit

WAYS = ("refitted", "pruned")
TOP = 8
"""Tokens kept of what a dimension writes, at either end."""
STATES = 16
"""Whose logits over the whole vocabulary stand at a time."""


@register("sparse-output-basis")
@dataclass(frozen=True, kw_only=True)
class SparseOutputBasis(Experiment):
    """Refit the unembedding on the model's own final states under an L1 penalty: can a dimension write few tokens?

    The states are those of texts that the model writes from the empty prompt, and these texts are told as well.
    """

    needs_tokenizer: ClassVar[bool] = True
    raw_weights: ClassVar[bool] = True
    default_model: ClassVar[str] = "list-tiny"

    samples: int = 400
    """Texts that the model writes from the empty prompt."""
    sample_tokens: int = 40
    """Tokens of each text."""
    temperature: float | int = 1.0
    """Temperature at which they are written."""
    states: int = 2048
    """Final states of four fifths of the texts on which the weights are refitted."""
    vocabulary: int = 16384
    """Tokens that the refitted weights write, the most probable on these states; 0 for all."""
    penalties: tuple[float | int, ...] = (0.1, 0.03, 0.01, 0.003, 0.001)
    """Penalties, in shares of the one from which on all weights are 0; falling."""
    steps: int = 40
    """Steps of each refit, which begins at the one before."""

    def __post_init__(self) -> None:
        for name, least in (("samples", 10), ("sample_tokens", 2), ("states", 10), ("vocabulary", 0), ("steps", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        _ = self._sampling
        falling = list(self.penalties) == sorted(set(self.penalties), reverse=True)
        if not self.penalties or not falling or not all(0 <= p < 1 for p in self.penalties):
            raise InputError(f"penalties must be from 0 to 1 and fall, and be one at least, not {self.penalties}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Fidelity against sparsity, refitted and merely pruned; what dimensions write then; texts from nothing."""
        raw = raw_runner(runner)
        texts = own_texts(raw, self.samples, self.sample_tokens, sampling=self._sampling)
        mind = top_of_mind(raw, texts)
        rows = with_bos(raw, texts)
        output, states = output_weights(raw), final_states(raw, rows)
        data = _Data.of(raw, output, states, self.states, self.vocabulary)
        results = _refitted(raw, data, self.penalties, self.steps)
        results = results.merge(mind)
        attrs = {
            "model": runner.language_model.info["name"],
            "basis": basis_words(raw),
            "softcap": output.softcap or 0.0,
            "steps": self.steps,
            "samples": self.samples,
            "temperature": self.temperature,
            "covered": data.covered,
            "states": len(data.fitted.states),
            "held_out": len(data.held_out.states),
        }
        return results.assign_attrs(attrs)

    @property
    def _sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature)

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Fidelity against sparsity, tokens a dimension writes, and the tokens of texts from nothing."""
        return drawing.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """One row a penalty and way, one a dimension, one a token of the texts, and the texts."""
        return words.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """How sparse the unembedding can be, against pruning, and what the model writes from nothing."""
        return words.findings(results)


@dataclass(frozen=True, eq=False)
class _Part:
    """States of some texts."""

    states: Tensor
    """In units of their typical size; the last column is a constant 1."""
    target: Tensor
    """What the model makes of them."""
    text: np.ndarray
    """Number of the text that each is from."""


@dataclass(frozen=True, eq=False)
class _Data:
    """What is fitted on, what is held out, and the model's own weights in the same units."""

    fitted: _Part
    held_out: _Part
    own: Tensor
    """Weights of the model; the last row is its bias."""
    tokens: Tensor
    """Ids of the tokens that are written."""
    covered: float
    """Share of the model's probability that they have on these states."""

    @staticmethod
    def of(runner: Runner, output: OutputWeights, states: Tensor, count: int, vocabulary: int) -> "_Data":
        """Four fifths of the texts to fit on, one fifth held out; so many states of each part, drawn at random."""
        generator = runner.generator("states of a sparse refit")
        order = torch.randperm(len(states), generator=generator)
        parts = []
        for own, wanted in ((order[: len(order) * 4 // 5], count), (order[len(order) * 4 // 5 :], count // 2)):
            text = own.repeat_interleave(states.shape[1])
            flat = states[own].flatten(0, 1)
            chosen = torch.randperm(len(flat), generator=generator)[:wanted].sort().values
            parts.append((flat[chosen], text[chosen].numpy()))
        vocab = output.weight.shape[1]
        size = vocab if not vocabulary else min(vocabulary, vocab)
        needed = 4 * size * (sum(len(flat) for flat, _ in parts) + 3 * states.shape[2])
        if needed > runner.memory:
            raise InputError(
                f"memory is too small: {size:,} tokens take about {format_bytes(needed)}; lower vocabulary or states."
            )
        tokens, covered = _most_probable(output, parts[0][0], size)
        scale = parts[0][0].square().mean(0).sqrt().clamp(min=1e-6)
        targets = [_target(output, flat, tokens) for flat, _ in parts]
        fitted, held_out = (
            _Part(torch.cat([flat / scale, torch.ones(len(flat), 1)], dim=1), target, text)
            for (flat, text), target in zip(parts, targets, strict=True)
        )
        own = output.weight[:, tokens.to(output.weight.device)].float().cpu() * scale[:, None] * output.multiplier
        # A constant added to all logits changes nothing, and the median is the one that pruning likes most.
        own = own - own.median(dim=1, keepdim=True).values
        bias = output.bias[tokens.to(output.bias.device)].float().cpu() * output.multiplier
        return _Data(fitted, held_out, torch.cat([own, bias[None]]), tokens, covered)


def _most_probable(output: OutputWeights, states: Tensor, size: int) -> tuple[Tensor, float]:
    vocab = output.weight.shape[1]
    if size == vocab:
        return torch.arange(vocab), 1.0
    total = torch.zeros(vocab, dtype=torch.float64)
    for rows in effort.slices(len(states), STATES):
        total += output.logits(states[rows].to(output.weight.device)).float().softmax(-1).sum(0).double().cpu()
    best = total.topk(size)
    return best.indices.sort().values, float(best.values.sum()) / len(states)


def _target(output: OutputWeights, states: Tensor, tokens: Tensor) -> Tensor:
    """The model's distribution over the chosen tokens."""
    out = torch.zeros(len(states), len(tokens))
    for rows in effort.slices(len(states), STATES):
        logits = output.logits(states[rows].to(output.weight.device)).float().cpu()
        out[rows] = logits[:, tokens].softmax(-1)
    return out


def _refitted(runner: Runner, data: _Data, shares: tuple[float | int, ...], steps: int) -> xr.Dataset:
    """By penalty: share of weights that are 0, and how near refitted and merely pruned weights come to the model."""
    states, target = data.fitted.states, data.fitted.target
    top, generator = largest_penalty(states[:, :-1], target), runner.numpy_generator("sparse refit")
    weights = torch.cat([torch.zeros_like(data.own[:-1]), constant_only(target)[None]])
    penalised = torch.ones(len(weights))
    penalised[-1] = 0
    whole, rows, kept = _judged(data, data.own, generator), [], None
    with Bar("Refitting the unembedding", steps * len(shares), runner.progress) as bar:
        for share in shares:
            penalty = share * top * penalised
            weights = sparse_refit(states, target, weights, penalty, steps=steps, progress=bar.advance)
            zeros = int((weights[:-1] == 0).sum())
            cut = torch.cat([pruned(data.own[:-1], zeros), data.own[-1:]])
            both = [_judged(data, found, generator) for found in (weights, cut)]
            rows.append((zeros / weights[:-1].numel(), both))
            good = both[0]["agreement"][0] >= words.GOOD * whole["agreement"][0]
            kept = weights[:-1] if kept is None and good else kept
    dims = ("penalty", "way")
    out = xr.Dataset({"sparsity": ("penalty", [sparsity for sparsity, _ in rows], {"units": "share of weights"})})
    for name in ("kl", "agreement"):
        for place, end in enumerate(ENDS):
            out[f"{name}{end}"] = (dims, np.array([[one[name][place] for one in both] for _, both in rows]))
            out[f"own_{name}{end}"] = whole[name][place]
    written = _written(runner, data, weights[:-1] if kept is None else kept)
    return out.merge(written).assign_coords(penalty=list(shares), way=list(WAYS))


def _judged(data: _Data, weights: Tensor, generator: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    """Mean divergence and agreement on held-out states, with intervals over texts."""
    part = data.held_out
    found: Fidelity = fidelity(part.states, part.target, weights)
    out = {}
    for name, values in (("kl", found.kl), ("agreement", found.agrees)):
        numbers = values.double().numpy()
        low, high = bootstrap_interval(numbers[:, None], generator=generator, clusters=part.text)
        out[name] = (float(numbers.mean()), float(low[0]), float(high[0]))
    return out


def _written(runner: Runner, data: _Data, weights: Tensor) -> xr.Dataset:
    """What each dimension writes with these weights, and how many tokens."""
    ends = extreme_tokens(weights, min(TOP, weights.shape[1]))
    out = xr.Dataset({"written": ("dimension", (weights != 0).sum(1).numpy(), {"units": "tokens"})})
    for name, places, values in (("up", ends.up, ends.up_weight), ("down", ends.down, ends.down_weight)):
        ids = data.tokens[places]
        texts = [[json.dumps(text) for text in runner.token_texts(row)] for row in ids.tolist()]
        out[f"{name}_token"], out[f"{name}_text"] = (("dimension", "end"), ids.numpy()), (("dimension", "end"), texts)
        out[f"{name}_weight"] = (("dimension", "end"), values.numpy())
    return out
