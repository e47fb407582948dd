"""What logits say about the token that came next."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class NextToken(NamedTuple):
    """About each next token: its log-probability in nats, and whether it was the model's first choice."""

    log_prob: Float[Tensor, "*batch"]
    correct: Bool[Tensor, "*batch"]


class Prediction(NamedTuple):
    """A prediction beside the token that came: how probable it was, and what else might have come."""

    log_prob: Float[Tensor, "*batch"]
    """Of the token that came, in nats."""
    rank: Int[Tensor, "*batch"]
    """Tokens that were more probable than it: 0 is the model's first choice, and equals share a rank."""
    entropy: Float[Tensor, "*batch"]
    """Of the prediction, in nats."""
    top: Int[Tensor, "*batch k"]
    """The most probable tokens, the first one first."""
    top_log_prob: Float[Tensor, "*batch k"]


def next_token(logits: Float[Tensor, "*batch vocab"], target: Int[Tensor, "*batch"]) -> NextToken:
    """Log-probability (nats, float32) of `target` under the softmax of `logits`, and whether it is their argmax."""
    exact = logits.float()
    chosen = exact.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return NextToken(chosen - exact.logsumexp(-1), exact.argmax(-1) == target)


def prediction(logits: Float[Tensor, "*batch vocab"], target: Int[Tensor, "*batch"], k: int) -> Prediction:
    """What the softmax of `logits` (in float32) says of `target`, and its `k` most probable tokens."""
    log_prob = logits.float().log_softmax(-1)
    chosen = log_prob.gather(-1, target.unsqueeze(-1))
    # An outcome of probability 0 adds nothing, whatever its logarithm.
    entropy = -torch.where(log_prob.isneginf(), 0.0, log_prob.exp() * log_prob).sum(-1)
    best = log_prob.topk(k, dim=-1)
    return Prediction(chosen.squeeze(-1), (log_prob > chosen).sum(-1), entropy, best.indices, best.values)
