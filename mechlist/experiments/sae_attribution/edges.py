"""Which earlier features make the strongest later ones active: attribution from SAE to SAE, and exact ablation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.sae.attribution import FeatureAttribution, feature_attribution
from mechlist.sae.edges import activation_without, upstream
from mechlist.sae.load import Place, opened_sae
from mechlist.sae.sae import Sae
from mechlist.sae.stream import Asked

SENDERS = 5
"""Earlier features that are kept of each later one."""
COLUMNS = ("later", "later_feature", "earlier", "earlier_feature", "edge_attribution", "edge_exact", "edge_lists")


def feature_edges(
    runner: Runner, where: Sequence[Place], found: Sequence[FeatureAttribution], asked: Asked, count: int
) -> xr.Dataset:
    """The `COLUMNS` of every edge, from each SAE to the next: means over the lists on which the later feature counts.

    Of every SAE but the first the `count` features with the largest mean attribution; each at the position where it
    gets most on a list.
    """
    rows: list[tuple[Any, ...]] = []
    for number in range(1, len(where)):
        with opened_sae(runner, where[number - 1]) as earlier, opened_sae(runner, where[number]) as later:
            for feature in _strongest(found[number], count):
                found_here = _edges(runner, earlier, later, feature, found[number], asked)
                rows += [(number, feature, number - 1, *edge) for edge in found_here]
    columns = zip(*rows, strict=True) if rows else ([] for _ in COLUMNS)
    return xr.Dataset({name: ("edge", list(own)) for name, own in zip(COLUMNS, columns, strict=True)})


def _edges(
    runner: Runner, earlier: Sae, later: Sae, feature: int, own: FeatureAttribution, asked: Asked
) -> list[tuple[int, float, float, int]]:
    question, here = asked.question, (own.feature == feature).any(dim=1).nonzero()[:, 0].tolist()
    rows = [question.tokens[i][: int(question.lengths[i])] for i in here]
    position = [_position(own, i, feature) for i in here]
    counted: Bool[Tensor, "prompt position"] = asked.counted[here][:, : max(len(row) for row in rows)]
    site = upstream(runner, earlier.hook, later, feature, rows, position)
    parts = feature_attribution(earlier, site, counted, earlier.d_sae, summed=True)
    total: dict[int, float] = {}
    for numbers, values in zip(parts.feature.tolist(), parts.attribution.nan_to_num(0.0).tolist(), strict=True):
        for number, value in zip(numbers, values, strict=True):
            if number >= 0:
                total[number] = total.get(number, 0.0) + value / len(here)
    senders = sorted(total, key=lambda number: (-abs(total[number]), number))[:SENDERS]
    exact = activation_without(runner, earlier, senders, later, feature, rows, position, counted).mean(dim=1)
    return [(number, total[number], float(value), len(here)) for number, value in zip(senders, exact, strict=True)]


def _strongest(own: FeatureAttribution, count: int) -> list[int]:
    total: dict[int, float] = {}
    for number, value in zip(own.feature.flatten().tolist(), own.attribution.flatten().tolist(), strict=True):
        if number >= 0:
            total[number] = total.get(number, 0.0) + value
    return sorted(total, key=lambda number: (-abs(total[number]), number))[:count]


def _position(own: FeatureAttribution, row: int, feature: int) -> int:
    """Where the feature gets most on a list."""
    ranks = (own.feature[row] == feature).nonzero()[:, 0]
    return int(own.position[row, ranks[own.attribution[row, ranks].abs().argmax()]])


def require_order(hooks: Sequence[str], *, summed: bool) -> None:
    """Whether there are edges to ask for.

    Raises:
        InputError: one SAE alone, SAEs that are not in the order of their layers, positions that are added up.
    """
    layers = [int(hook.split(".")[1]) for hook in hooks]
    if len(layers) < 2 or np.any(np.diff(layers) <= 0):
        raise InputError(f"edges go from an SAE to the next: saes must be of later and later layers, not of {layers}.")
    if summed:
        raise InputError("edges must be 0 with summed: a feature's position is needed, and all are added up.")
