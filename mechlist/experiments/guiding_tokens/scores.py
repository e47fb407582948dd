"""Scores of every token of one prompt by every method, and how far they agree with what removal really does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from mechlist.metrics.statistics import bootstrap_interval, rank_correlation
from mechlist.patching.tokens.attention import last_attention
from mechlist.patching.tokens.gradients import gradient_times_input, integrated_gradients
from mechlist.patching.tokens.inputs import input_statistics
from mechlist.patching.tokens.removal import deletion_curves, leave_one_out, mask_out
from mechlist.patching.tokens.tracing import noise_each
from mechlist.runner import Runner

ATTENTION = ("attention", "rollout", "value-weighted")
GRADIENTS = ("gradient x input", "integrated gradients")
REMOVAL = ("leave-one-out", "mask-out")
TRACING = "causal tracing"
METHODS = (*ATTENTION, *GRADIENTS, *REMOVAL, TRACING)
TRUTH = "leave-one-out"


@dataclass(frozen=True)
class Scored:
    """Scores by method and position, with what is known beside them."""

    score: Float[np.ndarray, "method position"]
    noise_low: Float[np.ndarray, " position"]
    noise_high: Float[np.ndarray, " position"]
    """Bootstrap interval over the draws of noise."""
    gap: float
    """By which integrated gradients miss what they have to add up to, in nats."""
    pattern: Float[np.ndarray, "head query key"]
    """Of the layer whose attention is taken."""


def all_scores(
    runner: Runner, tokens: Sequence[int], answer: int, *, layer: int, steps: int, draws: int, deviations: float | int
) -> Scored:
    """Every method's scores of a prompt's tokens for the prediction of `answer`.

    Attention is a share of 1, and value-weighted attention a length; all else is in nats of log p(answer).
    """
    attention = last_attention(runner, tokens, layer)
    along = integrated_gradients(
        runner, tokens, answer, baseline=input_statistics(runner, len(tokens)).mean, steps=steps
    )
    noised = noise_each(runner, tokens, answer, draws=draws, deviations=deviations).numpy()
    low, high = bootstrap_interval(noised, generator=np.random.default_rng(runner.seed))
    scores = {
        "attention": attention.mean,
        "rollout": attention.rollout,
        "value-weighted": attention.value_weighted,
        "gradient x input": gradient_times_input(runner, tokens, answer),
        "integrated gradients": along.score,
        "leave-one-out": leave_one_out(runner, tokens, answer),
        "mask-out": mask_out(runner, tokens, answer),
        TRACING: torch.from_numpy(noised.mean(axis=0)),
    }
    stacked = np.stack([scores[method].double().numpy() for method in METHODS])
    return Scored(stacked, low, high, along.gap, attention.pattern.double().numpy())


def without_bos(score: Float[np.ndarray, "method position"]) -> Float[np.ndarray, "method position"]:
    """The scores of all tokens but the first, BOS, which is NaN; attention shares add up to 1 again."""
    out = score.copy()
    out[:, 0] = np.nan
    for method in ATTENTION:
        row = METHODS.index(method)
        total = np.nansum(out[row])
        out[row] = out[row] / total if total > 0 else out[row]
    return out


def agreement(score: Float[np.ndarray, "method position"]) -> Float[np.ndarray, " method"]:
    """Rank correlation of each method's scores with leave-one-out's, over the positions that both have."""
    truth = score[METHODS.index(TRUTH)]
    there = np.isfinite(truth)
    return np.array([rank_correlation(row[there], truth[there]) for row in score])


def deletion(
    runner: Runner,
    tokens: Sequence[int],
    answer: int,
    score: Float[np.ndarray, "method position"],
    generator: np.random.Generator,
    *,
    random_orders: int,
) -> xr.Dataset:
    """Log p(answer) with the first 0, 1, 2, ... tokens of each method's order out of sight.

    An order begins with the highest score. The last token is never taken away: it is where the model predicts. Random
    orders are the measure of what an order is worth.

    Returns:
        `deletion(method, removed)` in nats, `deletion_area(method)` its mean over `removed` (low for a good order), and
        `random_deletion(order, removed)`.
    """
    candidates = [i for i in range(len(tokens) - 1) if np.isfinite(score[:, i]).all()]
    orders = [sorted(candidates, key=lambda i, row=row: (-row[i], i)) for row in score]
    drawn = [generator.permutation(candidates).tolist() for _ in range(random_orders)]
    curves = deletion_curves(runner, tokens, answer, orders + drawn).numpy()
    own = curves[: len(orders)]
    return xr.Dataset(
        {
            "deletion": (("method", "removed"), own, {"units": "nats"}),
            "deletion_area": ("method", own.mean(axis=1), {"units": "nats"}),
            "random_deletion": (("order", "removed"), curves[len(orders) :], {"units": "nats"}),
        },
        coords={"method": list(METHODS), "removed": np.arange(own.shape[1])},
    )


MEANINGS = {
    "attention": "attention of the last position in one layer, mean over heads: a share of 1",
    "rollout": "attention rolled out over all layers: a share of 1",
    "value-weighted": "attention times the length of what is read",
    "gradient x input": "first-order effect of the token's embedding, in nats",
    "integrated gradients": "the same along the way from the mean embedding, in nats",
    "leave-one-out": "nats that the answer loses without the token",
    "mask-out": "nats that the answer loses when no other token sees it",
    TRACING: "nats that the answer loses when its embedding is noised",
}
