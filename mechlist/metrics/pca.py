"""Principal components of a few vectors."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mechlist.errors import InputError


class Components(NamedTuple):
    """Vectors in the directions in which they differ most."""

    coordinates: Float[np.ndarray, "vector component"]
    """Of each vector, from the mean of those that were fitted."""
    explained: Float[np.ndarray, " component"]
    """Share of the variance of the fitted vectors, from 0 to 1."""


def principal_components(
    vectors: Float[np.ndarray, "vector d_model"], count: int, fitted: Bool[np.ndarray, " vector"] | None = None
) -> Components:
    """Centred principal components by singular values; each points to where its largest coordinate is positive.

    Args:
        vectors: at least two.
        count: components, at most as many as there are fitted vectors less one and dimensions.
        fitted: vectors that decide mean and directions, the others are placed among them; all without.

    Raises:
        InputError: more components than there can be.
    """
    chosen = np.ones(len(vectors), dtype=bool) if fitted is None else fitted
    most = min(int(chosen.sum()) - 1, vectors.shape[1])
    if not 1 <= count <= most:
        raise InputError(f"components must be from 1 to {most} for {int(chosen.sum())} vectors, not {count}.")
    centred = vectors.astype(np.float64) - vectors[chosen].astype(np.float64).mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred[chosen], full_matrices=False)
    coordinates = centred @ directions[:count].T
    largest = np.abs(coordinates).argmax(axis=0)
    coordinates = coordinates * np.where(coordinates[largest, np.arange(count)] < 0, -1.0, 1.0)
    total = float((sizes**2).sum())
    return Components(coordinates, sizes[:count] ** 2 / total if total > 0 else np.full(count, np.nan))
