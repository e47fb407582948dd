"""Predictions without some of the prompt's tokens: what they really do, against which other scores are judged."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.patching.tokens.inputs import answer_log_probs
from mechlist.runner import Intervention, Rows, Runner


def leave_one_out(runner: Runner, tokens: Sequence[int], answer: int) -> Float[Tensor, " position"]:
    """Log p(answer) of the whole prompt minus that of the prompt without each token, those behind moved up; nats.

    Raises:
        InputError: a prompt of a single token.
    """
    if len(tokens) < 2:
        raise InputError("Leaving out a token takes a prompt of two tokens at least.")
    shorter = [[*tokens[:i], *tokens[i + 1 :]] for i in range(len(tokens))]
    found = answer_log_probs(runner, [list(tokens), *shorter], answer)
    return found[0] - found[1:]


def masked_log_probs(
    runner: Runner, tokens: Sequence[int], answer: int, removed: Bool[Tensor, "row position"]
) -> Float[Tensor, " row"]:
    """Log p(answer) where some tokens are out of sight: no other token attends to them, all places stay as they are."""

    def change(scores: Tensor, rows: Rows) -> Tensor:
        size = scores.shape[-1]
        hidden = removed[rows.index, :size].to(scores.device)[:, None, None, :]
        # A token still sees itself, so that every query has something to attend to.
        itself = torch.eye(size, dtype=torch.bool, device=scores.device)
        return scores.masked_fill(hidden & ~itself, -torch.inf)

    layers = range(runner.shape.n_layers)
    with runner.intervene(*(Intervention(f"blocks.{layer}.attn.hook_attn_scores", change) for layer in layers)):
        return answer_log_probs(runner, [list(tokens)] * len(removed), answer)


def mask_out(runner: Runner, tokens: Sequence[int], answer: int) -> Float[Tensor, " position"]:
    """Log p(answer) of the whole prompt minus that with each token out of sight; nats."""
    size = len(tokens)
    nothing_and_each = torch.cat([torch.zeros(1, size, dtype=torch.bool), torch.eye(size, dtype=torch.bool)])
    found = masked_log_probs(runner, tokens, answer, nothing_and_each)
    return found[0] - found[1:]


def deletion_curves(
    runner: Runner, tokens: Sequence[int], answer: int, orders: Sequence[Sequence[int]]
) -> Float[Tensor, "order removed"]:
    """Log p(answer) with the first 0, 1, 2, ... tokens of each order out of sight.

    Orders name equally many positions. A score that finds the tokens that matter makes the curve fall early.
    """
    removed = torch.zeros(len(orders), len(orders[0]) + 1, len(tokens), dtype=torch.bool)
    for row, order in zip(removed, orders, strict=True):
        for step, position in enumerate(order, start=1):
            row[step:, position] = True
    return masked_log_probs(runner, tokens, answer, removed.flatten(0, 1)).view(len(orders), -1)
