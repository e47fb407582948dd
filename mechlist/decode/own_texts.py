"""Texts that the model writes itself, from nothing: a corpus that every model has at hand."""

import torch
from torch import Tensor

from mechlist.decode.generation import Completion, generate
from mechlist.decode.sampling import Sampling
from mechlist.errors import InputError
from mechlist.runner import Runner


def own_texts(
    runner: Runner, count: int, tokens: int, *, sampling: Sampling | None = None, label: str = "Writing texts"
) -> list[Completion]:
    """Continuations of the empty prompt, BOS alone, drawn from the whole distribution by default.

    They go on beyond an end-of-text token, so that all are equally long: what follows is another text.

    Args:
        runner: the model.
        count: texts.
        tokens: of each, at most what the context holds beside BOS.
        sampling: how tokens are chosen.
        label: what the progress bar says.

    Raises:
        InputError: a model without BOS token, or no room for a token.
    """
    if runner.bos_token_id is None:
        raise InputError("The empty prompt is the BOS token alone, and this model has none: give texts.")
    room = min(tokens, runner.shape.n_ctx - 1)
    return generate(
        runner, [[runner.bos_token_id]], max_new_tokens=room, samples=count, sampling=sampling, label=label
    )[0]


def with_bos(runner: Runner, texts: list[Completion]) -> list[Tensor]:
    """Tokens of the texts with the BOS token in front."""
    return [torch.tensor([runner.bos_token_id, *text.tokens]) for text in texts]
