"""Ridge regression that is judged on groups that it has not seen."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from mechlist.errors import InputError


class HeldOut(NamedTuple):
    """What a probe says of the group that it was not fitted on, and how."""

    predicted: Float[np.ndarray, " row"]
    weights: Float[np.ndarray, "group feature"]
    """Of the probe without that group."""
    intercepts: Float[np.ndarray, " group"]
    group: Int[np.ndarray, " row"]
    """Number of each row's group."""


def leave_group_out(
    x: Float[np.ndarray, "row feature"],
    y: Float[np.ndarray, " row"],
    groups: Shaped[np.ndarray, " row"],
    *,
    penalty: float | int = 0.01,
) -> HeldOut:
    """Fit y = x w + b on all groups but one, and predict that one; for each group in turn.

    The squared length of w is penalised by `penalty` times the mean variance of the features, summed over the rows that
    are fitted: 1 would shrink a typical direction to half.

    Raises:
        InputError: fewer than two groups, or a penalty that is not above 0.
    """
    if penalty <= 0:
        raise InputError(f"penalty must be more than 0, not {penalty}.")
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"groups must be two at least, so that one can be held out, not {len(names)}.")
    x, y = x.astype(np.float64), y.astype(np.float64)
    middle = x.mean(axis=0)
    x = x - middle
    weights, intercepts = np.zeros((len(names), x.shape[1])), np.zeros(len(names))
    parts = [(x[group == g], y[group == g]) for g in range(len(names))]
    whole = sum((p.T @ p for p, _ in parts), np.zeros((x.shape[1], x.shape[1])))
    moment = x.T @ y
    for g, (own, own_y) in enumerate(parts):
        rows = len(x) - len(own)
        mean, mean_y = -own.sum(axis=0) / rows, (y.sum() - own_y.sum()) / rows
        gram = whole - own.T @ own - rows * np.outer(mean, mean)
        right = moment - own.T @ own_y - rows * mean * mean_y
        shrink = penalty * max(float(np.trace(gram)) / len(gram), np.finfo(float).tiny)
        weights[g] = np.linalg.solve(gram + shrink * np.eye(len(gram)), right)
        intercepts[g] = mean_y - (mean + middle) @ weights[g]
    predicted = ((x + middle) * weights[group]).sum(axis=1) + intercepts[group]
    return HeldOut(predicted, weights, intercepts, group)
