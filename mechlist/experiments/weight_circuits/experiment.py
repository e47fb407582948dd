"""Every head read off the weights: copying, eigenvalues, positions, composition, and induction in weights."""

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr

from mechlist.errors import InputError
from mechlist.experiment import Experiment
from mechlist.experiments.weight_circuits import figures as drawing
from mechlist.experiments.weight_circuits import findings as words
from mechlist.metrics.shares import share_interval
from mechlist.registry import register
from mechlist.runner import Runner
from mechlist.runner.progress import Bar
from mechlist.runner.raw import basis_words
from mechlist.types import Head, head_name
from mechlist.weights.circuit import (
    EXACT_FLOPS,
    SAMPLE,
    Axis,
    circuit_ranks,
    k_composition_circuit,
    sampled_tokens,
    top_k_share,
)
from mechlist.weights.composition import Kind, composition_scores, random_baseline
from mechlist.weights.heads import (
    copying_ranks,
    layer_eigenvalue_scores,
    previous_position_attention,
    random_eigenvalue_scores,
    token_products,
)

PLACES = (1, 5)
AXES: tuple[Axis, ...] = ("query", "key")
KINDS: tuple[Kind, ...] = get_args(Kind)


@register("weight-circuits")
@dataclass(frozen=True, kw_only=True)
class WeightCircuits(Experiment):
    """QK and OV circuits of every head and composition of every pair, from the weights alone (Elhage et al. 2021).

    No token is run; positions, biases and MLPs are left out, which matters where MLP0 remakes the embedding.
    """

    default_model: ClassVar[str] = "list-tiny"

    circuit_tokens: int | None = None
    """Tokens on which scores are read, drawn at random; 0 for all, by default all if that takes about a minute."""
    pairs: int = 10
    """Pairs of heads with the strongest K-composition whose induction circuit is read."""
    samples: int = 300
    """Random heads and pairs that say what a score is worth."""

    def __post_init__(self) -> None:
        if self.circuit_tokens is not None and self.circuit_tokens < 0:
            raise InputError(f"circuit_tokens must be 0 (all tokens) or more, not {self.circuit_tokens}.")
        for name, least in (("pairs", 0), ("samples", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}.")

    def run(self, runner: Runner) -> xr.Dataset:
        """Scores of heads, of pairs, and what random weights score."""
        heads = [(layer, head) for layer in range(runner.shape.n_layers) for head in range(runner.shape.n_heads)]
        results = _copying(runner, heads, self.circuit_tokens)
        results = results.merge(_eigenvalues(runner, self.samples)).merge(_positions(runner))
        attrs = dict(results.attrs)
        if runner.shape.n_layers > 1:
            composition = _composition(runner, self.samples)
            results = results.merge(composition)
            attrs |= composition.attrs
            results = results.merge(_induction(runner, results["composition"], self.pairs, self.circuit_tokens))
        results.attrs = attrs | {"model": runner.language_model.info["name"], "basis": basis_words(runner)}
        return results

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Heat maps of the heads, composition above chance, and the induction circuits."""
        return drawing.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """One row a head, one row a pair and kind of composition, one row an induction circuit."""
        return words.tables(results)

    def findings(self, results: xr.Dataset) -> list[str]:
        """Heads that copy, pairs that compose beyond chance, and circuits of induction."""
        return words.findings(results)


def _copying(runner: Runner, heads: list[Head], count: int | None) -> xr.Dataset:
    """Share of tokens that a head's OV circuit raises most, or among the five most, with intervals for a sample."""
    vocab, rank = runner.shape.d_vocab, runner.shape.d_head
    if count is None:
        # Of one axis for every head.
        count = 0 if 2.0 * len(heads) * vocab * vocab * rank <= EXACT_FLOPS else SAMPLE
    tokens = sampled_tokens(vocab, rank, count, runner.generator("circuit tokens"))
    read = vocab if tokens is None else len(tokens)
    shape = (runner.shape.n_layers, runner.shape.n_heads)
    out = xr.Dataset(coords={"layer": np.arange(shape[0]), "head": np.arange(shape[1])})
    with Bar("Reading what heads copy", len(heads) * read * vocab, runner.progress) as bar:
        ranks = [copying_ranks(runner.model, head, tokens=tokens, progress=bar.advance) for head in heads]
    for k in PLACES:
        shares = [top_k_share(own, min(k, vocab), vocab=vocab) for own in ranks]
        ends = [share_interval(round(share * read), read, population=vocab) for share in shares]
        columns = {"": shares, "_low": [low for low, _ in ends], "_high": [high for _, high in ends]}
        for end, values in columns.items():
            units = {"units": "share of tokens"}
            out[f"copying_top{k}{end}"] = (("layer", "head"), np.array(values).reshape(shape), units)
    return out.assign_attrs(circuit_tokens=read, vocab=vocab)


def _eigenvalues(runner: Runner, samples: int) -> xr.Dataset:
    with Bar("Summing over the vocabulary", runner.shape.d_vocab, runner.progress) as bar:
        sums = token_products(runner.model, bar.advance)
    found = [layer_eigenvalue_scores(runner.model, layer, sums) for layer in range(runner.shape.n_layers)]
    ov, qk = (torch.stack(scores).numpy() for scores in zip(*found, strict=True))
    generator = runner.generator("random heads of eigenvalues")
    random_ov, random_qk = random_eigenvalue_scores(
        sums, runner.shape.d_head, samples=min(samples, 100), generator=generator
    )
    dims = ("layer", "head")
    return xr.Dataset(
        {
            "ov_eigenvalue_score": (dims, ov),
            "qk_eigenvalue_score": (dims, qk),
            "random_ov_eigenvalue_score": ("draw", random_ov.numpy()),
            "random_qk_eigenvalue_score": ("draw", random_qk.numpy()),
        }
    )


def _positions(runner: Runner) -> xr.Dataset:
    found = [previous_position_attention(runner.model, layer) for layer in range(runner.shape.n_layers)]
    known = [scores for scores in found if scores is not None]
    if not known:
        return xr.Dataset()
    units = {"units": "attention weight"}
    return xr.Dataset({"previous_position": (("layer", "head"), torch.stack(known).numpy(), units)})


def _composition(runner: Runner, samples: int) -> xr.Dataset:
    scores = np.stack([composition_scores(runner.model, kind).float().cpu().numpy() for kind in KINDS])
    chance = random_baseline(
        runner.shape.d_model, runner.shape.d_head, samples=samples, generator=runner.generator("composition")
    )
    dims = ("kind", "writer_layer", "writer_head", "layer", "head")
    return xr.Dataset(
        {"composition": (dims, scores)},
        coords={"kind": list(KINDS)},
        attrs={"chance_mean": chance.mean, "chance_sd": chance.sd},
    )


def _induction(runner: Runner, composition: xr.DataArray, pairs: int, count: int | None) -> xr.Dataset:
    """The K-composition circuit of the strongest pairs: how often a token's own entry is the largest."""
    scores = composition.sel(kind="K").values
    order = np.argsort(-np.nan_to_num(scores.ravel(), nan=-np.inf), kind="stable")
    order = order[: min(pairs, int(np.isfinite(scores).sum()))]
    chosen = [tuple(int(i) for i in np.unravel_index(at, scores.shape)) for at in order]
    if not chosen:
        return xr.Dataset()
    vocab = runner.shape.d_vocab
    if count is None:
        count = 0 if 4.0 * len(chosen) * vocab * vocab * runner.shape.d_head <= EXACT_FLOPS else SAMPLE
    tokens = sampled_tokens(vocab, runner.shape.d_head, count, runner.generator("circuit tokens"))
    read = vocab if tokens is None else len(tokens)
    out = np.zeros((3, len(chosen), len(AXES)))
    with Bar("Reading induction circuits", len(chosen) * len(AXES) * read * vocab, runner.progress) as bar:
        for n, (layer, head, later, reader) in enumerate(chosen):
            sides = k_composition_circuit(runner.model, (layer, head), (later, reader))
            for a, axis in enumerate(AXES):
                share = top_k_share(
                    circuit_ranks(*sides, axis=axis, tokens=tokens, progress=bar.advance), 1, vocab=vocab
                )
                out[:, n, a] = (share, *share_interval(round(share * read), read, population=vocab))
    names = [f"{head_name((a, b))} to {head_name((c, d))}" for a, b, c, d in chosen]
    columns = {"": out[0], "_low": out[1], "_high": out[2]}
    return xr.Dataset(
        {f"induction_top1{end}": (("pair", "axis"), v, {"units": "share of tokens"}) for end, v in columns.items()},
        coords={"pair": names, "axis": list(AXES)},
    )
