"""Rows described tile by tile, against NumPy and SciPy on the whole matrix."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from mechlist.errors import InputError
from mechlist.weights.dimensions import extreme_tokens, moments, softmax_entropies

TILES = (64, 1000, 2**20)


@pytest.fixture
def matrix() -> torch.Tensor:
    drawn = torch.randn(70, 501, generator=torch.Generator().manual_seed(0))
    return drawn.sign() * drawn.abs() ** torch.linspace(0.5, 2, 70)[:, None] + 3


@pytest.mark.parametrize("tile_bytes", TILES)
def test_moments_are_those_of_the_whole_rows(matrix: torch.Tensor, tile_bytes: int):
    found, exact = moments(matrix, tile_bytes=tile_bytes), matrix.double().numpy()
    np.testing.assert_allclose(found.mean, exact.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.sd, exact.std(1), rtol=1e-12)
    np.testing.assert_allclose(found.norm, np.linalg.norm(exact, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(exact, axis=1), rtol=1e-9)
    assert np.array_equal(found.least, exact.min(1))
    assert np.array_equal(found.largest, exact.max(1))


def test_a_row_of_equal_entries_has_no_kurtosis():
    found = moments(torch.full((2, 9), 0.1))
    assert found.kurtosis.isnan().all()
    np.testing.assert_allclose(found.sd, 0, atol=1e-9)


@pytest.mark.parametrize("tile_bytes", TILES)
@pytest.mark.parametrize("coefficient", [1.0, -0.7, 40.0, 0.0])
def test_entropies_are_those_of_the_softmax(matrix: torch.Tensor, tile_bytes: int, coefficient: float):
    found = softmax_entropies(matrix, coefficient, moments(matrix), tile_bytes=tile_bytes)
    log_p = (coefficient * matrix.double()).log_softmax(1)
    np.testing.assert_allclose(found, -(log_p.exp() * log_p).sum(1), atol=1e-9)


def test_each_row_may_have_its_own_coefficient(matrix: torch.Tensor):
    own = torch.linspace(-2, 2, 70)
    found = softmax_entropies(matrix, own, moments(matrix))
    for row in (0, 35, 69):
        alone = softmax_entropies(matrix[row : row + 1], float(own[row]), moments(matrix[row : row + 1]))
        assert float(found[row]) == pytest.approx(float(alone[0]), abs=1e-9)


def test_small_weights_are_below_uniform_by_half_their_variance():
    """The deficit at coefficient 1 is var / 2 to second order, and ln 32000 = 10.37349."""
    vocab = 32_000
    weights = torch.randn(3, vocab, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.01], [0.02], [0.03]])
    found = moments(weights)
    deficit = math.log(vocab) - softmax_entropies(weights, 1.0, found)
    assert math.log(vocab) == pytest.approx(10.37349, abs=5e-6)
    np.testing.assert_allclose(deficit, found.sd**2 / 2, rtol=0.02)
    # At 26.7 times the size it is about 700 times as far, so that "near-uniform" says little.
    larger = math.log(vocab) - softmax_entropies(weights[2:], 26.7, moments(weights[2:]))
    assert 600 < float(larger[0] / deficit[2]) < 800


@pytest.mark.parametrize("tile_bytes", TILES)
def test_extreme_tokens_are_the_sorted_ends(matrix: torch.Tensor, tile_bytes: int):
    found = extreme_tokens(matrix, 4, tile_bytes=tile_bytes)
    order = matrix.argsort(dim=1)
    assert torch.equal(found.up, order.flip(1)[:, :4])
    assert torch.equal(found.down, order[:, :4])
    assert torch.equal(found.up_weight.float(), matrix.gather(1, found.up))
    assert torch.equal(found.down_weight.float(), matrix.gather(1, found.down))


def test_bad_input(matrix: torch.Tensor):
    with pytest.raises(InputError, match="k must be from 1 to 501, the vocabulary, not 502"):
        extreme_tokens(matrix, 502)
    with pytest.raises(InputError, match="coefficients must be finite; received one that is not"):
        softmax_entropies(matrix, math.nan, moments(matrix))
    broken = matrix.clone()
    broken[3, 5] = torch.nan
    with pytest.raises(InputError, match="values that are not finite; check the model's weights"):
        moments(broken)
