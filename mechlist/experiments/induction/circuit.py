"""The circuit of the induction experiment, from weights alone."""

import xarray as xr

from mechlist.errors import InputError
from mechlist.experiments.induction.scores import ranked
from mechlist.metrics.shares import share_interval
from mechlist.runner import Runner
from mechlist.runner.progress import Bar
from mechlist.types import Head, head_name, parse_head
from mechlist.weights.circuit import Axis, circuit_ranks, k_composition_circuit, sampled_tokens, top_k_share
from mechlist.weights.composition import composition_scores, random_baseline

BASELINE_SAMPLES = 300
"""Pairs of random matrices that say what a composition score is worth."""


def circuit(
    runner: Runner, results: xr.Dataset, by_hand: tuple[Head, Head] | None, tokens: int | None = None
) -> xr.Dataset:
    """K-composition from weights: the circuit of the best found pair and of one given by hand; scores of all pairs.

    Circuits are read on so many `tokens`; see `sampled_tokens`.
    """
    best = _best_pair(results)
    try:
        k_scores = composition_scores(runner.model, "K") if runner.shape.n_layers > 1 else None
    except InputError:
        k_scores = None
    if best is None or k_scores is None:
        return xr.Dataset()
    out = _accuracies(runner, best, "", tokens)
    if by_hand is not None:
        other = _accuracies(runner, by_hand, "hand_", tokens)
        out = out.merge(other).assign_attrs(other.attrs)
    baseline = random_baseline(
        runner.shape.d_model, runner.shape.d_head, samples=BASELINE_SAMPLES, generator=runner.generator("composition")
    )
    out["k_composition"] = (("writer_layer", "writer_head", "layer", "head"), k_scores.float().cpu().numpy())
    pair = [head_name(best[0]), head_name(best[1])]
    return out.assign_attrs(circuit=pair, composition_null_mean=baseline.mean, composition_null_sd=baseline.sd)


def hand_pair(runner: Runner, previous: str, induction: str) -> tuple[Head, Head] | None:
    """The two heads that were named, checked against the model.

    Raises:
        InputError: a name that is no head of the model, or two that are not in this order of layers.
    """
    if not previous:
        return None
    shape = (runner.shape.n_layers, runner.shape.n_heads)
    first, second = parse_head(previous, "previous_head", shape), parse_head(induction, "induction_head", shape)
    if first[0] >= second[0]:
        raise InputError(
            f"previous_head must be in an earlier layer than induction_head, not {head_name(first)} before "
            f"{head_name(second)}."
        )
    return first, second


def _best_pair(results: xr.Dataset) -> tuple[Head, Head] | None:
    """The strongest induction head beyond layer 0, and the strongest previous-token head below it."""
    later = [head for head in ranked(results["induction_score"]) if head[0] > 0]
    if not later:
        return None
    earlier = [head for head in ranked(results["previous_token_score"]) if head[0] < later[0][0]]
    return earlier[0], later[0]


def _accuracies(runner: Runner, pair: tuple[Head, Head], prefix: str, count: int | None) -> xr.Dataset:
    sides = k_composition_circuit(runner.model, *pair)
    vocab, rank = sides.query_side.shape
    tokens = sampled_tokens(vocab, rank, count, runner.generator("circuit tokens"))
    read = vocab if tokens is None else len(tokens)
    axes: tuple[Axis, ...] = ("query", "key")
    with Bar("Reading the circuit", len(axes) * read * vocab, runner.progress) as bar:
        ranks = [circuit_ranks(*sides, axis=axis, tokens=tokens, progress=bar.advance) for axis in axes]
    units = {"units": "share of tokens"}
    out = xr.Dataset(coords={"axis": list(axes)}, attrs={f"{prefix}circuit_tokens": read, "vocab": vocab})
    for k in (1, 5):
        shares = [top_k_share(own, min(k, vocab), vocab=vocab) for own in ranks]
        out[f"{prefix}circuit_top{k}_accuracy"] = ("axis", shares, units)
        if tokens is not None:
            ends = [share_interval(round(share * read), read, population=vocab) for share in shares]
            for number, end in enumerate(("low", "high")):
                out[f"{prefix}circuit_top{k}_accuracy_{end}"] = ("axis", [pair[number] for pair in ends], units)
    return out
