"""The number of items erased or exchanged along a direction, against as large moves in random directions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.datasets.lists.design import Text
from mechlist.experiments.list_predictions import read_logits
from mechlist.metrics.ridge import HeldOut
from mechlist.runner import Runner, replace

PROBE, MEAN = "probe", "mean"
WAYS = (PROBE, MEAN)
"""Directions: the probe's weights, which read the number; and what a line more adds to the state on average. They
differ wherever features go together (Haufe et al. 2014)."""


class Moves(NamedTuple):
    """How far the state of each text goes along its unit direction."""

    erased: Float[np.ndarray, " text"]
    """To the mean coordinate of all texts."""
    exchanged: Float[np.ndarray, " text"]
    """To the coordinate of the text of the same prompt with the partner's number of items."""
    direction: Float[np.ndarray, "text d_model"]
    """Of unit length; fitted without the text's topic."""


def directions(
    way: str, states: Float[np.ndarray, "text d_model"], labels: Float[np.ndarray, " text"], held_out: HeldOut
) -> Float[np.ndarray, "topic d_model"]:
    """Unit vectors, each fitted without its topic.

    Args:
        way: one of the `WAYS`.
        states: of the texts that the probe was fitted on.
        labels: their numbers of items.
        held_out: the probe.
    """
    found = held_out.weights
    if way == MEAN:
        found = np.zeros_like(held_out.weights)
        for topic in range(len(found)):
            others = held_out.group != topic
            centred = labels[others] - labels[others].mean()
            found[topic] = centred @ states[others] / (centred**2).sum()
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(length > 0, length, 1)


def partners(texts: Sequence[Text]) -> Int[np.ndarray, " text"]:
    """For each text the one of its prompt with the mirrored number of items: the most for the fewest, and so on."""
    place = {(text.prompt.tokens, text.items): i for i, text in enumerate(texts)}
    items = sorted({text.items for text in texts})
    mirrored = dict(zip(items, reversed(items), strict=True))
    return np.array([place[text.prompt.tokens, mirrored[text.items]] for text in texts])


def moves(
    states: Float[np.ndarray, "text d_model"],
    unit: Float[np.ndarray, "topic d_model"],
    topic: Int[np.ndarray, " row"],
    rows: Int[np.ndarray, " row"],
    other: Int[np.ndarray, " row"],
) -> Moves:
    """The moves of some texts.

    Args:
        states: of all texts that the probe was fitted on.
        unit: a direction a topic.
        topic: number of the topic of each text that is moved.
        rows: numbers of the texts that are moved.
        other: the partner of each, among those that are moved.
    """
    direction = unit[topic]
    mean = direction @ states.mean(axis=0)
    own = (states[rows] * direction).sum(axis=1)
    return Moves(mean - own, own[other] - own, direction)


def random_directions(
    shape: tuple[int, int], draws: int, generator: np.random.Generator
) -> Float[np.ndarray, "draw topic d_model"]:
    """Unit vectors, one a topic and draw."""
    drawn = generator.normal(size=(draws, *shape))
    return drawn / np.linalg.norm(drawn, axis=2, keepdims=True)


def decision(
    runner: Runner,
    texts: Sequence[Text],
    hook: str,
    states: Float[np.ndarray, "text d_model"] | None,
    label: str,
) -> Float[np.ndarray, " text"]:
    """A at the line break behind each text, with the residual stream there replaced where states are given."""
    special = texts[0].special
    rows = [torch.tensor(text.tokens) for text in texts]
    where = torch.tensor([[text.line_break] for text in texts])

    def of(logits: Float[Tensor, "token vocab"], numbers: Int[Tensor, " token"]) -> dict[str, Tensor]:  # noqa: ARG001
        return {"A": (logits[:, special.end_of_turn] - logits[:, special.hyphen]).double()}

    if states is None:
        return read_logits(runner, rows, where, of, label=label)["A"].numpy()[:, 0]
    value = torch.from_numpy(states[:, None]).float()
    with runner.intervene(replace(hook, value, positions=[-1])):
        return read_logits(runner, rows, where, of, label=label)["A"].numpy()[:, 0]
