"""The rows of an unembedding described: moments, entropies, extreme tokens, outliers; random directions beside."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechlist.metrics.statistics import bootstrap_interval
from mechlist.weights.blocked import Progress
from mechlist.weights.dimensions import extreme_tokens, moments, softmax_entropies
from mechlist.weights.outliers import COMPONENTS, METHODS, find_outliers

PASSES = 8
"""Times that `describe` goes over the matrix, for its progress."""
KINDS = ("English letters", "other letters", "no letter", "broken bytes")
GROUPS = ("outliers", "other dimensions")
_NATS = {"units": "nats"}


def describe(
    weight: Float[Tensor, "d_model vocab"],
    *,
    typical: Float[Tensor, " d_model"],
    value: Float[Tensor, " d_model"],
    top: int,
    threshold: float | int | None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Everything about each hidden dimension that W_U alone says.

    Args:
        weight: W_U; row j is what one unit of dimension j adds to every logit.
        typical: size of each dimension in hidden states.
        value: of each dimension on one prompt.
        top: tokens kept at either end.
        threshold: robust z of an outlier; see `find_outliers`.
        progress: called with the number of entries that are done, of `PASSES` times all.
    """
    found = moments(weight, progress=progress)
    entropies = {
        "entropy": softmax_entropies(weight, 1.0, found, progress=progress),
        "entropy_typical": softmax_entropies(weight, typical, found, progress=progress),
        "entropy_prompt": softmax_entropies(weight, value, found, progress=progress),
    }
    extremes = extreme_tokens(weight, top, progress=progress)
    out = find_outliers(weight, threshold=threshold, progress=progress)
    tokens = ("dimension", "end")
    return xr.Dataset(
        {
            **{name: ("dimension", values.numpy(), _NATS) for name, values in entropies.items()},
            "norm": ("dimension", found.norm.numpy()),
            "sd": ("dimension", found.sd.numpy()),
            "kurtosis": ("dimension", found.kurtosis.numpy(), {"note": "in excess of the normal distribution's"}),
            "up_token": (tokens, extremes.up.numpy()),
            "up_weight": (tokens, extremes.up_weight.numpy()),
            "down_token": (tokens, extremes.down.numpy()),
            "down_weight": (tokens, extremes.down_weight.numpy()),
            "outlier": (("method", "dimension"), out.outlier),
            "outlier_score": (("method", "dimension"), out.score, {"units": "robust standard deviations"}),
            "component_score": (("method", "component", "dimension"), out.components),
            "component_variance": (("method", "component"), out.variance),
        },
        coords={
            "dimension": np.arange(len(weight)),
            "end": 1 + np.arange(top),
            "method": list(METHODS),
            "component": 1 + np.arange(COMPONENTS),
        },
    )


def random_directions(weight: Float[Tensor, "d_model vocab"], count: int, generator: torch.Generator) -> xr.Dataset:
    """Moments and entropy, at coefficient 1, of random orthonormal mixtures of the hidden dimensions."""
    drawn = torch.randn(len(weight), min(count, len(weight)), generator=generator)
    mixed = torch.linalg.qr(drawn).Q.mT.to(weight) @ weight
    found = moments(mixed)
    return xr.Dataset(
        {
            "random_entropy": ("direction", softmax_entropies(mixed, 1.0, found).numpy(), _NATS),
            "random_norm": ("direction", found.norm.numpy()),
            "random_kurtosis": ("direction", found.kurtosis.numpy()),
        }
    )


def token_kind(text: str) -> str:
    """Which of `KINDS` a token's text is."""
    if "\ufffd" in text:
        return KINDS[3]
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return KINDS[2]
    return KINDS[0] if all(character.isascii() for character in letters) else KINDS[1]


def kind_shares(texts: Sequence[Sequence[str]], outlier: np.ndarray, generator: np.random.Generator) -> xr.Dataset:
    """Mean share of each kind among the extreme tokens of outliers and of all others, with intervals over dimensions.

    Args:
        texts: of the extreme tokens of each dimension.
        outlier: of each dimension.
        generator: of the bootstrap.
    """
    kinds = [[token_kind(text) for text in row] for row in texts]
    shares = np.array([[row.count(kind) / len(row) for kind in KINDS] for row in kinds])
    share, low, high = (np.full((len(GROUPS), len(KINDS)), np.nan) for _ in range(3))
    for group, chosen in enumerate((outlier, ~outlier)):
        if chosen.any():
            share[group] = shares[chosen].mean(axis=0)
            low[group], high[group] = bootstrap_interval(shares[chosen], generator=generator)
    dims = ("group", "kind")
    return xr.Dataset(
        {"kind_share": (dims, share), "kind_share_low": (dims, low), "kind_share_high": (dims, high)},
        coords={"group": list(GROUPS), "kind": list(KINDS)},
    )
