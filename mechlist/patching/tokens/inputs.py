"""What enters the first layer: its spread over the vocabulary, and predictions with it changed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.runner import Runner
from mechlist.runner.batch import Batch
from mechlist.runner.batching import Prompts

INPUT = "blocks.0.hook_resid_pre"
"""Where embeddings, with learned positions if there are any, enter the first layer."""
SAMPLE = 512
"""Tokens of the vocabulary, drawn at random, from which the spread is known."""


class Inputs(NamedTuple):
    """Over the vocabulary."""

    mean: Float[Tensor, "position d_model"]
    """Of what enters at each position."""
    deviation: float
    """Standard deviation of an entry around its mean."""


def answer_log_probs(runner: Runner, prompts: Prompts, answer: int) -> Float[Tensor, " prompt"]:
    """Log-probability, in nats, of `answer` behind each prompt; in float64."""

    def function(batch: Batch) -> dict[str, Tensor]:
        return {"log_prob": batch.logits()[:, 0].float().log_softmax(dim=1)[:, answer].double()}

    return runner.map(prompts, function, positions=-1, row_bytes=lambda _, __: 12 * runner.shape.d_vocab)["log_prob"]


def input_statistics(runner: Runner, length: int) -> Inputs:
    """Mean and spread of what enters the first layer, from random tokens in prompts of `length`."""
    number = max(4, SAMPLE // length)
    generator = runner.generator("spread of embeddings")
    tokens = torch.randint(runner.shape.d_vocab, (number, length), generator=generator)
    # The same token at every place shows whether places have embeddings of their own.
    tokens[0] = tokens[0, 0]
    found = runner.capture(tokens, INPUT)[INPUT].double()
    drawn = found[1:]
    learned = not torch.allclose(found[0], found[0, :1], rtol=1e-4)
    mean = drawn.mean(dim=0) if learned else drawn.mean(dim=(0, 1)).expand(length, -1)
    return Inputs(mean, float((drawn - mean).pow(2).mean().sqrt()))


def input_of(runner: Runner, tokens: Sequence[int]) -> Float[Tensor, "position d_model"]:
    """What enters the first layer for a prompt."""
    return runner.capture([list(tokens)], INPUT)[INPUT][0]
