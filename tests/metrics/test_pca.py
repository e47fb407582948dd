import numpy as np
import pytest

from mechlist.errors import InputError
from mechlist.metrics.pca import principal_components


def test_components_are_those_of_the_covariance():
    vectors = np.random.default_rng(0).normal(size=(12, 5)) * np.array([5, 1, 3, 0.1, 2])
    found = principal_components(vectors, 3)
    values, directions = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(found.explained, values[::-1][:3] / values.sum())
    expected = (vectors - vectors.mean(0)) @ directions[:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(found.coordinates), np.abs(expected))
    assert (found.coordinates[np.abs(found.coordinates).argmax(0), np.arange(3)] > 0).all()


def test_vectors_that_are_not_fitted_are_placed_among_the_others():
    vectors = np.array([[1000.0, 7.0], [0.0, -1.0], [0.0, 1.0], [0.0, 3.0]])
    found = principal_components(vectors, 1, np.array([False, True, True, True]))
    np.testing.assert_allclose(found.explained, [1.0])
    np.testing.assert_allclose(found.coordinates[:, 0], [6.0, -2.0, 0.0, 2.0])


def test_equal_vectors_have_no_variance():
    assert np.isnan(principal_components(np.ones((3, 4)), 1).explained).all()


@pytest.mark.parametrize("count", [0, 3])
def test_there_are_fewer_components_than_vectors(count: int):
    with pytest.raises(InputError, match=f"components must be from 1 to 2 for 3 vectors, not {count}"):
        principal_components(np.eye(3), count)
