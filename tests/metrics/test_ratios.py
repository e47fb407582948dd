"""What a share may be taken of."""

import numpy as np

from mechlist.metrics.ratios import recoverable


def test_gaps_that_are_noise_are_nothing_to_recover():
    base, source = np.array([1.0, 2.0, 3.0, -2.0]), np.array([1.00008, 5.0, 3.0, -2.5])
    gap = recoverable(base, source)
    assert np.isnan(gap[[0, 2]]).all()
    np.testing.assert_allclose(gap[[1, 3]], [3.0, -0.5])
    # Alone, a small gap is all there is; one of rounding is not.
    assert recoverable(np.array([0.0]), np.array([1e-4]))[0] == 1e-4
    assert np.isnan(recoverable(np.array([1e3]), np.array([1e3 + 1e-3]))).all()
