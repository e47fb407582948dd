"""Rows of a matrix over the vocabulary that are unlike the others, by three methods.

A study of Llama 2 7b's output basis speaks of "PCA on standardised data" and leaves open which data: the vectors
themselves, or the matrix of their distances. Both are here, and a third that needs no component to come out right.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.location import robust_z
from mechlist.weights.blocked import Progress, column_blocks

METHODS = ("PCA of rows", "PCA of distances", "distance from median")
COMPONENTS = 2
BLOCK_BYTES = 2**26
"""Of the columns that are standardised at a time."""


class Outliers(NamedTuple):
    """How far out each row is, by method."""

    score: Float[np.ndarray, "method row"]
    """Robust z: distance from the median in standard deviations by the median absolute deviation; of PCA the larger
    size of both components'."""
    outlier: Bool[np.ndarray, "method row"]
    components: Float[np.ndarray, "method component row"]
    """Scores on the first two principal components; NaN for the third method."""
    variance: Float[np.ndarray, "method component"]
    """Share of the variance that they hold."""


def find_outliers(
    matrix: Float[Tensor, "row vocab"], *, threshold: float | int | None = None, progress: Progress | None = None
) -> Outliers:
    """Rows that are outliers by each of `METHODS`.

    - PCA of rows: every token's column is standardised over the rows, and the rows are projected on two components;
    - PCA of distances: the same with the columns of the matrix of Euclidean distances between rows;
    - distance from median: Euclidean distance of each row from the row of the columns' medians.

    Beside the matrix it takes four arrays of row x row in float64 and `BLOCK_BYTES`.

    Args:
        matrix: three rows at least.
        threshold: robust z beyond which a row is an outlier; by default the two-sided bound of 5 % after Bonferroni
            over the rows, as if they were normal (4.374 for 4,096).
        progress: called with the number of entries that are done.

    Raises:
        InputError: fewer than three rows, or a threshold that is not above 0.
    """
    rows = len(matrix)
    if rows < 3:
        raise InputError(f"Outliers need three rows at least to be among, not {rows}.")
    bar = bonferroni_z(rows) if threshold is None else threshold
    if not bar > 0:
        raise InputError(f"threshold must be above 0, not {threshold}.")
    plain, standard, from_median = _products(matrix, progress)
    scores = np.full((len(METHODS), rows), np.nan)
    components = np.full((len(METHODS), COMPONENTS, rows), np.nan)
    variance = np.full((len(METHODS), COMPONENTS), np.nan)
    components[0], variance[0] = _principal(standard)
    distances = _standardised(_distances(plain))
    components[1], variance[1] = _principal(distances @ distances.T)
    scores[:2] = np.abs([[robust_z(one) for one in both] for both in components[:2]]).max(axis=1)
    scores[2] = robust_z(np.sqrt(from_median))
    return Outliers(scores, scores > bar, components, variance)


def bonferroni_z(count: int, *, alpha: float | int = 0.05, sides: int = 2) -> float:
    """Normal deviate that none of `count` independent normal values passes in 1 - `alpha` of all cases or more.

    Raises:
        InputError: no value, an alpha outside 0 to 1, or sides other than 1 and 2.
    """
    if count < 1 or not 0 < alpha < 1 or sides not in (1, 2):
        raise InputError(
            f"count, alpha and sides must be at least 1, in 0 to 1, and 1 or 2; not {count, alpha, sides}."
        )
    return -NormalDist().inv_cdf(alpha / (sides * count))


def _products(
    matrix: Float[Tensor, "row vocab"], progress: Progress | None
) -> tuple[Float[np.ndarray, "row row"], Float[np.ndarray, "row row"], Float[np.ndarray, " row"]]:
    """Inner products of the rows, of the rows with standardised columns, and squared distances from the median row."""
    rows = len(matrix)
    plain, standard = (torch.zeros(rows, rows, dtype=torch.float64) for _ in range(2))
    product = torch.empty(rows, rows, device=matrix.device)
    from_median = torch.zeros(rows, dtype=torch.float64)
    for columns in column_blocks(matrix, max(1, BLOCK_BYTES // (4 * rows))):
        block = matrix[:, columns].float()
        plain += torch.mm(block, block.mT, out=product).cpu()
        from_median += (block - block.median(dim=0).values).square_().sum(1).cpu().double()
        mean, sd = block.mean(dim=0), block.std(dim=0, correction=0)
        # A token that all rows write alike tells nothing of them.
        block = (block - mean).div_(torch.where(sd > 0, sd, 1))
        standard += torch.mm(block, block.mT, out=product).cpu()
        if progress is not None:
            progress(block.numel())
    return plain.numpy(), standard.numpy(), from_median.numpy()


def _distances(products: Float[np.ndarray, "row row"]) -> Float[np.ndarray, "row row"]:
    squares = np.diag(products)
    apart = np.sqrt(np.clip(squares[:, None] + squares[None] - 2 * products, 0, None))
    np.fill_diagonal(apart, 0)
    return apart


def _standardised(values: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
    sd = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(sd > 0, sd, 1)


def _principal(
    products: Float[np.ndarray, "row row"],
) -> tuple[Float[np.ndarray, "component row"], Float[np.ndarray, " component"]]:
    """Scores of the rows on their first components, and the share of the variance, from the rows' inner products."""
    from scipy.sparse.linalg import eigsh  # only this needs it

    # The same start each time: else the signs, and the last digits, change from run to run.
    start = np.random.default_rng(0).standard_normal(len(products))
    values, vectors = eigsh(products, k=COMPONENTS, v0=start)
    order = np.argsort(-values)
    values, vectors = np.clip(values[order], 0, None), vectors[:, order]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(COMPONENTS)])
    return (signs * vectors * np.sqrt(values)).T, values / max(np.trace(products), np.finfo(float).tiny)
