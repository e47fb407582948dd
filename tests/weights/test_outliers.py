"""Planted outliers found by all three methods; projections against scikit-learn's definition on the whole matrix."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from mechlist.errors import InputError
from mechlist.weights.outliers import METHODS, bonferroni_z, find_outliers

PLANTED = 17


@pytest.fixture
def matrix() -> torch.Tensor:
    drawn = torch.randn(60, 800, generator=torch.Generator().manual_seed(0)) * 0.02
    drawn[PLANTED] *= 8
    return drawn


def test_a_planted_dimension_is_the_only_outlier_by_every_method(matrix: torch.Tensor):
    found = find_outliers(matrix)
    assert [np.flatnonzero(row).tolist() for row in found.outlier] == [[PLANTED]] * len(METHODS)
    assert (found.score[:, PLANTED] > 10).all()


def test_normal_rows_have_no_outlier():
    found = find_outliers(torch.randn(200, 3000, generator=torch.Generator().manual_seed(1)))
    assert found.outlier.sum() <= 1


def principal(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores on two components of standardised columns, as StandardScaler and PCA give them, up to signs."""
    scaled = (samples - samples.mean(0)) / samples.std(0)
    u, s, _ = np.linalg.svd(scaled, full_matrices=False)
    return (u * s)[:, :2].T, s[:2] ** 2 / (s**2).sum()


def test_both_readings_of_pca_are_those_of_the_whole_matrix(matrix: torch.Tensor):
    found = find_outliers(matrix)
    rows = matrix.double().numpy()
    for place, samples in enumerate((rows, cdist(rows, rows))):
        scores, variance = principal(samples)
        np.testing.assert_allclose(np.abs(found.components[place]), np.abs(scores), rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(found.variance[place], variance, rtol=1e-3)


def test_the_distance_is_from_the_median_row(matrix: torch.Tensor):
    apart = np.linalg.norm((matrix - matrix.median(dim=0).values).double().numpy(), axis=1)
    middle = np.median(apart)
    expected = (apart - middle) / (1.482602218505602 * np.median(np.abs(apart - middle)))
    np.testing.assert_allclose(find_outliers(matrix).score[2], expected, rtol=1e-4, atol=1e-5)


def test_the_same_matrix_gives_the_same_numbers(matrix: torch.Tensor):
    one, other = find_outliers(matrix), find_outliers(matrix.clone())
    assert np.array_equal(one.components, other.components, equal_nan=True)


def test_bonferroni_of_the_source():
    """5 % over 4,096 components is 4.374 two-sided and 4.220 one-sided."""
    assert bonferroni_z(4096) == pytest.approx(4.374, abs=5e-4)
    assert bonferroni_z(4096, sides=1) == pytest.approx(4.220, abs=5e-4)


def test_bad_input(matrix: torch.Tensor):
    with pytest.raises(InputError, match="three rows at least to be among, not 2"):
        find_outliers(matrix[:2])
    with pytest.raises(InputError, match=r"threshold must be above 0, not -1\.0"):
        find_outliers(matrix, threshold=-1.0)
    with pytest.raises(InputError, match="count, alpha and sides must be at least 1"):
        bonferroni_z(0)
