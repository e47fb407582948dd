"""Probes of the number of items in the residual stream at line breaks, on topics that they were not fitted on."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.datasets.lists.design import Text, shared_rows
from mechlist.metrics.ridge import HeldOut, leave_group_out
from mechlist.runner import Batch, Runner

TOKEN_INDEX, LAYER_0, SHUFFLED, UNTRAINED = "token index", "layer 0", "shuffled labels", "untrained model"
BASELINES = (TOKEN_INDEX, LAYER_0, SHUFFLED, UNTRAINED)
"""The place of the token alone; the residual stream before the first layer; numbers of items exchanged at random; a
model of the same shape with random weights."""


def states(runner: Runner, texts: Sequence[Text], label: str) -> Float[np.ndarray, "layer text d_model"]:
    """The residual stream at the line break behind each text: before the first layer, then after each."""
    hooks = runner.hooks("blocks.0.hook_resid_pre") + [
        runner.hooks(f"blocks.{layer}.hook_resid_post")[0] for layer in range(runner.shape.n_layers)
    ]
    rows, held = shared_rows(texts)
    at = [sorted({texts[i].line_break for i in np.flatnonzero(held == row).tolist()}) for row in range(len(rows))]
    place = [{position: i for i, position in enumerate(positions)} for positions in at]

    def taken(batch: Batch) -> dict[str, Tensor]:
        out = torch.full((len(batch.rows.index), max(map(len, at)), len(hooks), runner.shape.d_model), torch.nan)
        for row, number in enumerate(batch.rows.index.tolist()):
            for layer, hook in enumerate(hooks):
                out[row, : len(at[number]), layer] = batch[hook][row, at[number]].float().cpu()
        return {"states": out}

    found = runner.map(rows, taken, capture=hooks, label=label)["states"].numpy()
    chosen = [found[row, place[row][text.line_break]] for row, text in zip(held.tolist(), texts, strict=True)]
    return np.stack(chosen, axis=1).astype(np.float64)


def numbers(texts: Sequence[Text]) -> Float[np.ndarray, " text"]:
    """Items of each text."""
    return np.array([float(text.items) for text in texts])


def probe(x: Float[np.ndarray, "text feature"], texts: Sequence[Text], penalty: float | int) -> HeldOut:
    """A ridge probe of the number of items, each topic held out in turn."""
    return leave_group_out(x, numbers(texts), topics_of(texts), penalty=penalty)


def topics_of(texts: Sequence[Text]) -> np.ndarray:
    """The topic of each text."""
    return np.array([text.prompt.topic for text in texts])


def baseline_predictions(
    name: str,
    layer: int,
    own: Float[np.ndarray, "layer text d_model"],
    untrained: Float[np.ndarray, "layer text d_model"] | None,
    texts: Sequence[Text],
    penalty: float | int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " text"] | None:
    """What a probe says that has only the baseline; None where there is no untrained model.

    Args:
        name: one of the `BASELINES`.
        layer: 1 for the residual stream after the first layer.
        own: states of the model.
        untrained: states of an untrained one.
        texts: that are read.
        penalty: of the ridge.
        generator: that shuffles.
    """
    labels = numbers(texts)
    if name == TOKEN_INDEX:
        x = np.array([[float(text.line_break)] for text in texts])
    elif name == LAYER_0:
        x = own[0]
    elif name == SHUFFLED:
        x, labels = own[layer], generator.permutation(labels)
    elif untrained is None:
        return None
    else:
        x = untrained[layer]
    return leave_group_out(x, labels, topics_of(texts), penalty=penalty).predicted
