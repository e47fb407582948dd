"""A sparse stand-in for W_U, refitted on the model's own final states under an L1 penalty.

Is there an output basis in which a dimension writes few tokens? A study of Llama 2 7b's output basis left that open.
Here the dimensions stay as they are, and the weights between them and the tokens become sparse: minimised is the
divergence from the model's own distribution plus a penalty times the summed sizes of all weights, each in units of its
dimension's typical size, so that a dimension that is large by nature is not spared. A row for a constant, which every
token may have for nothing, says how common a token is. That is convex, and FISTA (Beck & Teboulle 2009, with restarts)
goes towards the one minimum there is. Every token has a step of its own: the second derivative of the log-partition is
diag(p) - p p^T, which is at most diag(p), so that the columns of rare tokens can move far.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist import effort
from mechlist.errors import InputError
from mechlist.weights.blocked import column_blocks

BLOCK_BYTES = 2**26
"""Of the weights, or the logits if these are more, that are worked on at a time."""
COPIES = 16
"""Logits with their exponentials and what is made of them; weights with their gradient and the step."""
_FLOOR = 1e-4
"""Probability that no token's step is taken to be below."""
_SLACK = 1e-6
"""Nats by which rounding may lift what is minimised."""


class Fidelity(NamedTuple):
    """How near a weight matrix comes to the model, state by state."""

    kl: Float[Tensor, " state"]
    """KL(model || refitted), in nats."""
    agrees: Float[Tensor, " state"]
    """1 where the most probable token is the model's."""


@torch.no_grad()
def sparse_refit(
    states: Float[Tensor, "state row"],
    target: Float[Tensor, "state token"],
    start: Float[Tensor, "row token"],
    penalty: Float[Tensor, " row"],
    *,
    steps: int,
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "row token"]:
    """Weights that minimise mean KL(target || softmax(states @ weights)) + sum of penalty * |weights|.

    Memory beside the arguments: two matrices of the weights' size, and `BLOCK_BYTES`.

    Args:
        states: in units of each dimension's typical size, with a constant beside them.
        target: probabilities.
        start: weights to begin with.
        penalty: of each row, in nats per unit of weight; 0 for the constant.
        steps: of FISTA.
        progress: called with 1 after each step.

    Raises:
        InputError: a penalty below 0, or fewer than one step.
    """
    if not (penalty.isfinite().all() and (penalty >= 0).all()) or steps < 1:
        raise InputError(f"penalty must be at least 0 and steps at least 1, not {penalty.min():g} and {steps}.")
    rate = _rates(states, target, start)
    found, ahead, momentum, best = start.clone(), start.clone(), 1.0, math.inf
    for _ in effort.steps(steps):
        total, objective = _objective(states, target, ahead, penalty)
        if objective > best + _SLACK and momentum > 1:
            # The momentum led uphill: forget it, and if that is not enough, go more slowly.
            ahead.copy_(found)
            momentum = 1.0
            total, objective = _objective(states, target, ahead, penalty)
            rate = rate / 2 if objective > best + _SLACK else rate
        best = min(best, objective)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        for columns in _blocks(states, ahead):
            gap = (states @ ahead[:, columns]).sub_(total[:, None]).exp_().sub_(target[:, columns])
            moved = (states.mT @ gap).mul_(-rate[columns] / len(states)).add_(ahead[:, columns])
            new = _shrunk(moved, penalty[:, None] * rate[columns])
            ahead[:, columns] = new + (momentum - 1) / following * (new - found[:, columns])
            found[:, columns] = new
        momentum = following
        if progress is not None:
            progress(1)
    return found


@torch.no_grad()
def fidelity(
    states: Float[Tensor, "state row"], target: Float[Tensor, "state token"], weights: Float[Tensor, "row token"]
) -> Fidelity:
    """How near the weights come to the target on these states."""
    total = log_totals(states, weights)
    kl = torch.zeros(len(states), dtype=torch.float64)
    best = torch.full((len(states),), -torch.inf)
    choice = torch.zeros(len(states), dtype=torch.long)
    for columns in _blocks(states, weights):
        log_probs = states @ weights[:, columns] - total[:, None]
        own = target[:, columns]
        kl += torch.where(own > 0, own * (own.log() - log_probs), 0.0).sum(1).double()
        values, places = log_probs.max(dim=1)
        choice = torch.where(values > best, places + columns.start, choice)
        best = torch.maximum(best, values)
    return Fidelity(kl.float(), (choice == target.argmax(1)).float())


def pruned(weights: Float[Tensor, "d_model token"], zeros: int) -> Float[Tensor, "d_model token"]:
    """The weights with the smallest `zeros` of them set to 0: sparsity without refitting, for comparison."""
    if zeros < 1:
        return weights.clone()
    bar = weights.abs().flatten().kthvalue(min(zeros, weights.numel())).values
    return torch.where(weights.abs() > bar, weights, 0.0)


def constant_only(target: Float[Tensor, "state token"]) -> Float[Tensor, " token"]:
    """Weights of the constant that give every state the mean distribution: where a refit begins."""
    return target.double().mean(0).clamp(min=1e-12).log().float()


def largest_penalty(states: Float[Tensor, "state d_model"], target: Float[Tensor, "state token"]) -> float:
    """The penalty from which on only the constant is left: the largest slope of the divergence there."""
    mean, slope = target.mean(0), 0.0
    for columns in _blocks(states, target):
        slope = max(slope, float((states.mT @ (mean[columns] - target[:, columns])).abs().max()) / len(states))
    return slope


def log_totals(states: Float[Tensor, "state row"], weights: Float[Tensor, "row token"]) -> Float[Tensor, " state"]:
    """Logarithm of the sum of exp(logits) of each state, block by block."""
    total = torch.full((len(states),), -torch.inf)
    for columns in _blocks(states, weights):
        total = torch.logaddexp(total, (states @ weights[:, columns]).logsumexp(1))
    return total


def _rates(
    states: Float[Tensor, "state row"], target: Float[Tensor, "state token"], weights: Float[Tensor, "row token"]
) -> Float[Tensor, " token"]:
    """One over a bound on each token's curvature: the mean of its probability times the state's squared norm."""
    squares, total = states.square().sum(1), log_totals(states, weights)
    bounds = torch.zeros(weights.shape[1])
    for columns in _blocks(states, weights):
        own = (states @ weights[:, columns]).sub_(total[:, None]).exp_()
        bounds[columns] = (torch.maximum(own, target[:, columns]) * squares[:, None]).mean(0)
    return 1 / (bounds + _FLOOR * squares.mean())


def _objective(
    states: Float[Tensor, "state row"],
    target: Float[Tensor, "state token"],
    weights: Float[Tensor, "row token"],
    penalty: Float[Tensor, " row"],
) -> tuple[Float[Tensor, " state"], float]:
    """Log-totals of the states, and what is minimised, but for the target's entropy."""
    total = torch.full((len(states),), -torch.inf)
    reached = torch.zeros(len(states), dtype=torch.float64)
    size = 0.0
    for columns in _blocks(states, weights):
        logits = states @ weights[:, columns]
        size += float((weights[:, columns].abs().sum(1, dtype=torch.float64) * penalty).sum())
        total = torch.logaddexp(total, logits.logsumexp(1))
        reached += logits.mul_(target[:, columns]).sum(1).double()
    return total, float((total.double() - reached).mean()) + size


def _shrunk(values: Float[Tensor, "row token"], by: Float[Tensor, "row token"]) -> Float[Tensor, "row token"]:
    """Towards 0 by so much, and no further; in place."""
    return values.sub_(torch.minimum(values, by).clamp_(min=-by))


def _blocks(states: Tensor, weights: Tensor) -> Iterator[slice]:
    return column_blocks(weights, max(1, BLOCK_BYTES // (4 * COPIES * max(len(states), len(weights)))))
