"""What each row of a matrix over the vocabulary is like: its moments, the entropy of its softmax, its extreme tokens.

Rows are directions of the residual stream, such as the hidden dimensions of W_U, and columns are tokens. Everything
is computed in float64, tile by tile (`mechlist.weights.blocked`).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.weights.blocked import ENTRY_BYTES, Progress, entries


class Moments(NamedTuple):
    """Of each row over the vocabulary."""

    mean: Float[Tensor, " row"]
    sd: Float[Tensor, " row"]
    """With the whole vocabulary as the population."""
    norm: Float[Tensor, " row"]
    kurtosis: Float[Tensor, " row"]
    """In excess of the normal distribution's; NaN for a row of equal entries."""
    least: Float[Tensor, " row"]
    largest: Float[Tensor, " row"]


class Extremes(NamedTuple):
    """Tokens that each row writes most up, and most down, the most extreme first."""

    up: Int[Tensor, "row k"]
    up_weight: Float[Tensor, "row k"]
    down: Int[Tensor, "row k"]
    down_weight: Float[Tensor, "row k"]


def moments(
    matrix: Float[Tensor, "row vocab"], *, tile_bytes: int = ENTRY_BYTES, progress: Progress | None = None
) -> Moments:
    """Mean, standard deviation, norm, excess kurtosis and range of each row.

    Raises:
        InputError: a value that is not finite.
    """
    rows, vocab = matrix.shape
    total, least, largest = (torch.full((rows,), start, dtype=torch.float64) for start in (0.0, torch.inf, -torch.inf))
    for tile in entries(matrix, tile_bytes=tile_bytes, progress=progress):
        low, high = tile.values.aminmax(dim=1)
        if not (low.isfinite().all() and high.isfinite().all()):
            raise InputError("The matrix holds values that are not finite; check the model's weights.")
        least[tile.rows] = torch.minimum(least[tile.rows], low.cpu())
        largest[tile.rows] = torch.maximum(largest[tile.rows], high.cpu())
        total[tile.rows] += tile.values.sum(1).cpu()
    mean = total / vocab
    second, fourth = torch.zeros_like(mean), torch.zeros_like(mean)
    for tile in entries(matrix, tile_bytes=tile_bytes, progress=progress):
        squares = tile.values.sub_(mean[tile.rows, None].to(tile.values)).square_()
        second[tile.rows] += squares.sum(1).cpu()
        fourth[tile.rows] += squares.square_().sum(1).cpu()
    # Where all entries are equal but for rounding there is no shape to speak of.
    spread = second / vocab
    same = spread <= 1e-24 * (mean.square() + spread)
    kurtosis = torch.where(same, torch.nan, fourth / vocab / spread.square() - 3)
    return Moments(mean, spread.sqrt(), (second + vocab * mean.square()).sqrt(), kurtosis, least, largest)


def softmax_entropies(
    matrix: Float[Tensor, "row vocab"],
    coefficients: Float[Tensor, " row"] | float | int,
    found: Moments,
    *,
    tile_bytes: int = ENTRY_BYTES,
    progress: Progress | None = None,
) -> Float[Tensor, " row"]:
    """Entropy in nats of the softmax over the vocabulary of each row times its coefficient.

    On small weights it is ln(vocab) - coefficient**2 * sd**2 / 2 to second order, so that what looks nearly uniform at
    one coefficient is not at another.

    Args:
        matrix: rows over the vocabulary.
        coefficients: of each row, or of all.
        found: the rows' moments.
        tile_bytes: of a tile.
        progress: called with the number of entries that are done.

    Raises:
        InputError: a coefficient that is not finite.
    """
    scale = torch.as_tensor(coefficients, dtype=torch.float64).cpu().expand(len(matrix))
    if not scale.isfinite().all():
        raise InputError("coefficients must be finite; received one that is not.")
    # The largest logit, which is where the weight is least if the coefficient is negative.
    top = torch.maximum(scale * found.largest, scale * found.least)
    total, weighted = torch.zeros_like(top), torch.zeros_like(top)
    for tile in entries(matrix, scale=scale, tile_bytes=tile_bytes, progress=progress):
        logits = tile.values.sub_(top[tile.rows, None].to(tile.values))
        weights = logits.exp()
        total[tile.rows] += weights.sum(1).cpu()
        # So low a logit adds nothing, and 0 times minus infinity would be no number.
        weighted[tile.rows] += weights.mul_(logits.clamp_(min=-1e4)).sum(1).cpu()
    return total.log() - weighted / total


def extreme_tokens(
    matrix: Float[Tensor, "row vocab"],
    k: int,
    *,
    tile_bytes: int = ENTRY_BYTES,
    progress: Progress | None = None,
) -> Extremes:
    """The `k` tokens with the largest and with the smallest entry of each row; which of equal ones is left open.

    Raises:
        InputError: `k` below 1 or above the vocabulary.
    """
    rows, vocab = matrix.shape
    if not 1 <= k <= vocab:
        raise InputError(f"k must be from 1 to {vocab}, the vocabulary, not {k}.")
    shape = (rows, k)
    best = {
        sign: (torch.full(shape, -torch.inf, dtype=torch.float64), torch.full(shape, vocab, dtype=torch.long))
        for sign in (1, -1)
    }
    for tile in entries(matrix, tile_bytes=tile_bytes, progress=progress):
        for sign, (values, ids) in best.items():
            signed = tile.values if sign == 1 else tile.values.neg_()
            found = signed.topk(min(k, signed.shape[1]), dim=1)
            every = torch.cat([values[tile.rows], found.values.cpu()], dim=1)
            named = torch.cat([ids[tile.rows], found.indices.cpu() + tile.columns.start], dim=1)
            values[tile.rows], order = every.topk(k, dim=1)
            ids[tile.rows] = named.gather(1, order)
    (up, up_ids), (down, down_ids) = best[1], best[-1]
    return Extremes(up_ids, up, down_ids, -down)
