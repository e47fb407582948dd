"""Loops over a vocabulary in tiles: each is worth its product, its buffer is made once, and memory does not grow.

A matrix of 262,144 x 262,144 scores would take 275 GB, and 640 x 262,144 weights in float64 1.3 GB. Both are walked
through here in blocks of rows *and* columns. A row block against all columns, at the other extreme, reads all columns
again for every few rows, and leaves a heap full of pieces of odd sizes.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist import effort
from mechlist.errors import InputError

PRODUCT_BYTES = 2**24
"""Of a tile of products: 2,048 x 2,048 in float32, for which each factor's rows are read once."""
ENTRY_BYTES = 2**20
"""Of a tile of entries, which is gone through several times and stays in a core's own cache."""
ENTRY_ROWS = 64

Progress = Callable[[int], None]
"""Called with the number of entries that are done."""


class Tile(NamedTuple):
    """A part of a matrix: some rows and some columns of it, row block by row block."""

    rows: slice
    columns: slice
    values: Float[Tensor, "row column"]
    """In the loop's one buffer: to be changed at will, and gone when the next tile comes."""


@torch.no_grad()
def products(
    rows: Float[Tensor, "row rank"],
    columns: Float[Tensor, "column rank"],
    *,
    tile_bytes: int = PRODUCT_BYTES,
    progress: Progress | None = None,
) -> Iterator[Tile]:
    """Tiles of `rows @ columns.T`, about square.

    Raises:
        InputError: no room for a tile.
    """
    side = math.isqrt(_entries(tile_bytes, rows.dtype))
    high, wide = min(side, len(rows)), min(side, len(columns))
    buffer = rows.new_empty(high * wide)
    for top, left in _places(len(rows), high, len(columns), wide, "products of weights, tile by tile"):
        some, other = rows[top : top + high], columns[left : left + wide]
        values = buffer[: len(some) * len(other)].view(len(some), len(other))
        torch.mm(some, other.mT, out=values)
        yield Tile(slice(top, top + len(some)), slice(left, left + len(other)), values)
        if progress is not None:
            progress(values.numel())


@torch.no_grad()
def entries(
    matrix: Float[Tensor, "row column"],
    *,
    scale: Float[Tensor, " row"] | None = None,
    tile_bytes: int = ENTRY_BYTES,
    progress: Progress | None = None,
) -> Iterator[Tile]:
    """Tiles of a matrix in float64, wider than high; `scale` multiplies its rows.

    Raises:
        InputError: no room for a tile.
    """
    high, wide = len(matrix), matrix.shape[1]
    room = _entries(tile_bytes, torch.float64)
    high = max(1, min(high, ENTRY_ROWS, room))
    wide = max(1, min(wide, room // high))
    # There is no float64 on MPS.
    there = matrix.device if matrix.device.type != "mps" else torch.device("cpu")
    buffer = torch.empty(high * wide, dtype=torch.float64, device=there)
    factor = None if scale is None else scale.to(buffer)
    for top, left in _places(len(matrix), high, matrix.shape[1], wide, "entries of a matrix, tile by tile"):
        part = matrix[top : top + high, left : left + wide]
        values = buffer[: part.numel()].view(part.shape)
        values.copy_(part)
        if factor is not None:
            values.mul_(factor[top : top + len(part), None])
        yield Tile(slice(top, top + len(part)), slice(left, left + part.shape[1]), values)
        if progress is not None:
            progress(values.numel())


def column_blocks(matrix: Float[Tensor, "row column"], width: int) -> Iterator[slice]:
    """Blocks of columns, `width` wide but for the last."""
    for left in range(0, matrix.shape[1], width):
        yield slice(left, min(left + width, matrix.shape[1]))


def _entries(tile_bytes: int, dtype: torch.dtype) -> int:
    if tile_bytes < 1:
        raise InputError(f"tile_bytes must be at least 1, not {tile_bytes}.")
    return max(1, tile_bytes // dtype.itemsize)


def _places(rows: int, high: int, columns: int, wide: int, label: str) -> Iterator[tuple[int, int]]:
    """Where tiles begin; while a run is planned, the first few of them."""
    across = -(-columns // wide)
    for step in effort.steps(-(-rows // high) * across, label):
        yield step // across * high, step % across * wide
