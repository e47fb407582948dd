"""The steps of the induction experiment: each runs the model and returns a part of the result."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechlist import effort
from mechlist.datasets.passages import PASSAGE, repeated_passage
from mechlist.errors import InputError, ModelError
from mechlist.experiments.induction.effects import ablation_effects, mlp_effects
from mechlist.metrics.attention import all_head_scores
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.patching.ablation import ablated_next_tokens, matched_random_heads
from mechlist.patching.mlp import SOURCES, mlp_loss_increase
from mechlist.runner import Batch, Runner
from mechlist.text import visible
from mechlist.types import Head, head_name

SCORES = {
    "induction_score": "induction",
    "previous_token_score": "previous token",
    "duplicate_token_score": "duplicate token",
    "current_token_score": "current token",
    "first_token_score": "first token",
}
CLEAR, TIMES_UNIFORM = 0.15, 3.0
"""A head has a role if its score is above the null, this much attention, and this many times uniform attention."""


def scores(runner: Runner, tokens: Tensor, period: int) -> xr.Dataset:
    """Five scores of every head with intervals over sequences; log-probability and accuracy by half and position."""
    rows = _rows(runner, tokens, period, "Scoring heads")
    generator = runner.numpy_generator("bootstrap")
    results = xr.Dataset(coords=_grid(runner))
    for name in SCORES:
        for form in ("", "_loose"):
            values = rows[f"{name}{form}"].mean(dim=0)
            results[f"{name}{form}"] = (("layer", "head"), values.numpy(), {"units": "attention weight"})
        ends = bootstrap_interval(rows[name].numpy(), generator=generator)
        for end, grid in zip(("low", "high"), ends, strict=True):
            results[f"{name}_{end}"] = (("layer", "head"), grid, {"units": "attention weight"})
    length = tokens.shape[1]
    uniform = torch.tril(torch.ones(1, 1, length, length))
    chance = all_head_scores(uniform / uniform.sum(-1, keepdim=True), period, runner.bos_token_id is not None)
    results["uniform_attention"] = xr.DataArray(
        [chance[name].strict.item() for name in SCORES], dims="score", coords={"score": list(SCORES)}
    )
    return results.merge(_halves(rows["log_prob"], rows["correct"], period))


def null(runner: Runner, tokens: Tensor, period: int, models: int) -> xr.Dataset:
    """The largest score of any head of each untrained model, on the same tokens; empty where there can be none."""
    largest: list[list[float]] = []
    for number in effort.steps(models):
        try:
            untrained = runner.untrained(number)
        except ModelError:
            return xr.Dataset()
        rows = _rows(untrained, tokens, period, "Scoring an untrained model")
        largest.append([rows[name].mean(dim=0).max().item() for name in SCORES])
    if not largest:
        return xr.Dataset()
    return xr.Dataset(
        {"null_largest_score": (("twin", "score"), largest, {"units": "attention weight"})},
        coords={"score": list(SCORES)},
    )


def threshold(results: xr.Dataset, name: str) -> float:
    """What a head's score must exceed: the null's largest, a clear amount, and a multiple of uniform attention."""
    bars = [CLEAR, TIMES_UNIFORM * float(results["uniform_attention"].sel(score=name))]
    if "null_largest_score" in results:
        bars.append(float(results["null_largest_score"].sel(score=name).max()))
    return max(bars)


def found_heads(results: xr.Dataset, name: str) -> list[Head]:
    """Heads whose score, by the lower end of its interval, is above the threshold; the strongest first."""
    low = results[f"{name}_low"].values
    certain = np.where(np.isnan(low), results[name].values, low)
    bar = threshold(results, name)
    return [head for head in ranked(results[name]) if certain[head] > bar]


def ranked(grid: xr.DataArray) -> list[Head]:
    """Heads by falling score."""
    order = np.argsort(-grid.values.ravel(), kind="stable")
    return [(int(i) // grid.sizes["head"], int(i) % grid.sizes["head"]) for i in order]


def patterns(runner: Runner, results: xr.Dataset, tokens: Tensor, count: int) -> xr.Dataset:
    """Attention patterns of the strongest induction and previous-token heads, on one sequence."""
    chosen = ranked(results["induction_score"])[: count - count // 3]
    for head in ranked(results["previous_token_score"]):
        if len(chosen) < min(count, results["induction_score"].size) and head not in chosen:
            chosen.append(head)
    if not chosen:
        return xr.Dataset()
    chosen.sort()
    hooks = {layer: runner.hooks(f"blocks.{layer}.attn.hook_pattern")[0] for layer, _ in chosen}
    kept = runner.capture(tokens, *hooks.values())
    stacked = np.stack([kept[hooks[layer]][0, head].float().numpy() for layer, head in chosen])
    return xr.Dataset(
        {
            "pattern": (("name", "query", "key"), stacked, {"units": "attention weight"}),
            "token_id": ("key", tokens[0].numpy()),
            "token": ("key", [visible(t) for t in runner.token_texts(tokens[0].tolist())]),
        },
        coords={"name": [head_name(head) for head in chosen]},
    )


def ablations(runner: Runner, results: xr.Dataset, tokens: Tensor, random_sets: int) -> xr.Dataset:
    """Second-half accuracy and log-probability without the found heads, and without matched random ones."""
    found = {"induction heads": found_heads(results, "induction_score")}
    found["previous-token heads"] = found_heads(results, "previous_token_score")
    if not found["induction heads"] or not random_sets:
        return xr.Dataset()
    generator = runner.generator("random heads")
    roles = [head for heads in found.values() for head in heads]
    size = (runner.shape.n_layers, runner.shape.n_heads)
    layers = {layer for layer, _ in found["induction heads"]}
    found["rest of the layer"] = [h for h in ranked(results["induction_score"]) if h[0] in layers and h not in roles]
    for number in range(1, random_sets + 1):
        drawn = matched_random_heads(found["induction heads"], roles, size, generator)
        # Small models have few other heads, and the same set twice is one control.
        if drawn not in found.values():
            found[f"random {number}"] = drawn
    sets = {name: heads for name, heads in found.items() if heads}
    period = (tokens.shape[1] - int(runner.bos_token_id is not None)) // 2
    intact = _second_half(*ablated_next_tokens(runner, tokens, [], "zero"), period)
    without = [
        [_second_half(*ablated_next_tokens(runner, tokens, heads, mode), period) for mode in ("zero", "mean")]
        for heads in sets.values()
    ]
    tested = ablation_effects(intact, np.array(without), runner.numpy_generator("ablation"))
    named = [", ".join(head_name(h) for h in heads) for heads in sets.values()]
    return tested.assign(ablated_heads=("head_set", named)).assign_coords(
        head_set=list(sets), ablation=["zero", "mean"]
    )


def mlp(runner: Runner, tokens: Tensor, period: int, sequences: int) -> xr.Dataset:
    """Increase of the loss when one MLP output is replaced, by layer and position, for three kinds of replacement."""
    if runner.shape.attn_only or not sequences:
        return xr.Dataset()
    names = {"same_token": "mlp_loss_increase"} | {s: f"mlp_loss_increase_{s}" for s in SOURCES if s != "same_token"}
    # One prompt has no other to take a value from, and is its own mean.
    sources = SOURCES if len(tokens) > 1 else SOURCES[:1]
    generator = runner.numpy_generator("MLP replacement")
    out = xr.Dataset()
    for source in sources:
        # Rolled, each sequence is the first once, and what is put in stays what it is for all of them together.
        rows = [tokens.roll(-i, dims=0) for i in range(min(sequences, len(tokens)))]
        increase = torch.stack([mlp_loss_increase(runner, row, period, source, 1) for row in rows])
        out = out.merge(mlp_effects(names[source], increase.double().numpy(), generator))
    return out


def natural_text(runner: Runner, text: str) -> xr.Dataset:
    """Induction scores and halves on a natural passage shown twice, for a model with a tokenizer.

    Raises:
        InputError: a text that does not repeat, is too long, or a model without tokenizer.
    """
    if runner.tokenizer is None:
        if text:
            raise InputError("text needs a model with a tokenizer, and this one has none.")
        return xr.Dataset()
    ids = runner.to_tokens(text or PASSAGE, prepend_bos=False)
    if not text:
        longest = (runner.shape.n_ctx - 1) // 2
        ids = ids[:longest] * 2
    period = repeated_passage(ids)
    bos = [] if runner.bos_token_id is None else [runner.bos_token_id]
    tokens = torch.tensor([[*bos, *ids]])
    rows = _rows(runner, tokens, period, "Natural text")
    halves = _halves(rows["log_prob"], rows["correct"], period)
    return xr.Dataset(
        {
            "text_induction_score": (("layer", "head"), rows["induction_score"][0].numpy()),
            "text_log_prob": halves["log_prob"].drop_vars("position", errors="ignore"),
            "text_accuracy": halves["accuracy"].drop_vars("position", errors="ignore"),
            "text_log_prob_by_position": ("text_position", halves["log_prob_by_position"].values, {"units": "nats"}),
            "text_token": ("text_position", [visible(t) for t in runner.token_texts(tokens[0].tolist())]),
        },
        attrs={"text_period": period},
    )


def _rows(runner: Runner, tokens: Tensor, period: int, what: str) -> dict[str, Tensor]:
    """Scores and next-token statistics of every sequence."""
    hooks = runner.hooks("blocks.*.attn.hook_pattern")
    has_bos = runner.bos_token_id is not None

    def score(batch: Batch) -> dict[str, Tensor]:
        layers: dict[str, list[Tensor]] = {}
        for hook in hooks:
            for name, value in all_head_scores(batch[hook], period, has_bos).items():
                layers.setdefault(name, []).append(value.strict)
                layers.setdefault(f"{name}_loose", []).append(value.loose)
        stacked = {name: torch.stack(values, dim=1) for name, values in layers.items()}
        return stacked | batch.next_tokens()._asdict()

    return runner.map(tokens, score, capture=hooks, label=what)


def _halves(log_prob: Tensor, correct: Tensor, period: int) -> xr.Dataset:
    """Means per half and per position; position is that of the predicted token, and 0 is predicted by nothing."""
    halves = {"first": slice(None, -period), "second": slice(-period, None)}
    by_half = [(log_prob[:, s].mean().item(), correct[:, s].float().mean().item()) for s in halves.values()]
    by_position: dict[str, Any] = {
        "log_prob_by_position": (log_prob.mean(dim=0), "nats"),
        "accuracy_by_position": (correct.float().mean(dim=0), "share of sequences"),
    }
    return xr.Dataset(
        {
            "log_prob": ("half", [x[0] for x in by_half], {"units": "nats"}),
            "accuracy": ("half", [x[1] for x in by_half], {"units": "share of tokens"}),
            **{
                name: ("position", np.concatenate([[np.nan], values.numpy()]), {"units": unit})
                for name, (values, unit) in by_position.items()
            },
        },
        coords={"half": list(halves), "position": np.arange(log_prob.shape[1] + 1)},
    )


def _second_half(log_prob: Tensor, correct: Tensor, period: int) -> np.ndarray:
    """Accuracy and log-probability of each sequence's second half."""
    return torch.stack([x[:, -period:].double().mean(dim=1) for x in (correct, log_prob)]).numpy()


def _grid(runner: Runner) -> dict[str, Any]:
    return {"layer": np.arange(runner.shape.n_layers), "head": np.arange(runner.shape.n_heads)}
