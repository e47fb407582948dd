"""Replacement of one MLP output at a time, over layer and position, on a block of tokens shown twice."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.metrics.distributions import Loss
from mechlist.patching.grid import patch_grid
from mechlist.patching.replacements import Given, Mean
from mechlist.patching.sweep.cells import check_site, hook_name
from mechlist.runner import Runner

Source = Literal["same_token", "other_sequence", "mean"]
SOURCES: tuple[Source, ...] = ("same_token", "other_sequence", "mean")


def mlp_loss_increase(
    runner: Runner, tokens: Int[Tensor, "prompt position"], period: int, source: Source, prompts: int
) -> Float[Tensor, "layer position"]:
    """Mean increase of the loss (nats a token) when one MLP output of the second block is replaced.

    The value comes from the same token one period earlier (this keeps the token's identity and so
    removes little), from the same position of another prompt, or from the mean over prompts at that position. The
    loss is the mean over all next tokens. Positions outside the last `period` + 1 are NaN; the first of these is the
    last token of the first block, whose earlier "same token" is what precedes the first block. The loss is measured
    on the first `prompts` prompts; replacements are drawn from all of them.

    Raises:
        InputError: a model without MLPs.
    """
    check_site("mlp_out", "position", runner.shape, runner.language_model.hook_names)
    base = tokens[:prompts]
    length = tokens.shape[1]
    first = max(period, length - period - 1)
    grid = torch.full((runner.shape.n_layers, length), torch.nan)
    # The last token predicts nothing.
    grid[:, length - 1 :] = 0
    if first >= length - 1:
        return grid
    # A replacement changes no earlier prediction, so the loss is read from there on and spread over all of them.
    read = list(range(first, length - 1))
    found = patch_grid(
        runner,
        base=base,
        source=_replacement(runner, tokens, period, source, prompts),
        site="mlp_out",
        per="position",
        metric=Loss(position=[read]),
        roles={str(position): [[position]] * len(base) for position in read},
    )
    increase = (found["patched"] - found["base"]).mean("prompt") * len(read) / (length - 1)
    grid[:, first : length - 1] = torch.from_numpy(increase.transpose("layer", "role").values)
    return grid


def _replacement(
    runner: Runner, tokens: Int[Tensor, "prompt position"], period: int, source: Source, prompts: int
) -> Int[Tensor, "measured position"] | Given | Mean:
    """What stands in for the MLP outputs of the first `prompts` prompts."""
    if source == "mean":
        return Mean(tokens)
    if source == "other_sequence":
        return tokens.roll(1, dims=0)[:prompts]
    hooks = [hook_name("mlp_out", layer) for layer in range(runner.shape.n_layers)]
    own = runner.capture(tokens[:prompts], *hooks)
    return Given([own.pop(hook).roll(period, dims=1) for hook in hooks])
