"""Tiles against whole matrices, whatever their size."""

import pytest
import torch

from mechlist.errors import InputError
from mechlist.weights.blocked import column_blocks, entries, products

SIZES = (1, 8, 200, 2**20)


@pytest.mark.parametrize("tile_bytes", SIZES)
def test_tiles_of_products_are_those_of_the_whole_product(tile_bytes: int):
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randn(7, 3, generator=generator), torch.randn(11, 3, generator=generator)
    found, done, places = torch.full((7, 11), torch.nan), [], set()
    for tile in products(rows, columns, tile_bytes=tile_bytes, progress=done.append):
        found[tile.rows, tile.columns] = tile.values
        places.add(tile.values.data_ptr())
    torch.testing.assert_close(found, rows @ columns.T)
    assert sum(done) == 77
    assert len(places) == 1, "every tile is in the one buffer"


@pytest.mark.parametrize("tile_bytes", SIZES)
def test_tiles_of_entries_are_in_float64_and_scaled(tile_bytes: int):
    # A transposed matrix, as a TransformerBridge has its unembedding.
    matrix = torch.randn(90, 70, generator=torch.Generator().manual_seed(0)).mT
    scale = torch.arange(70.0)
    found, done = torch.full((70, 90), torch.nan, dtype=torch.float64), []
    for tile in entries(matrix, scale=scale, tile_bytes=tile_bytes, progress=done.append):
        assert tile.values.dtype == torch.float64
        found[tile.rows, tile.columns] = tile.values.clone()
        # To be changed at will.
        tile.values.zero_()
    assert torch.equal(found, matrix.double() * scale[:, None].double())
    assert sum(done) == 6300


def test_column_blocks_end_with_what_is_left():
    assert list(column_blocks(torch.zeros(2, 5), 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_no_room_for_a_tile():
    with pytest.raises(InputError, match="tile_bytes must be at least 1, not 0"):
        next(products(torch.zeros(2, 2), torch.zeros(2, 2), tile_bytes=0))
    with pytest.raises(InputError, match="tile_bytes must be at least 1, not -3"):
        next(entries(torch.zeros(2, 2), tile_bytes=-3))
