"""Ridge probes judged on groups that they were not fitted on."""

import numpy as np
import pytest

from mechlist.errors import InputError
from mechlist.metrics.ridge import leave_group_out


def test_each_group_is_predicted_by_a_fit_on_the_others():
    generator = np.random.default_rng(0)
    x, groups = 5 + generator.normal(size=(60, 4)), np.repeat(["a", "b", "c"], 20)
    y = x @ [1.0, -2.0, 0.5, 0.0] + 3 + 0.1 * generator.normal(size=60)
    found = leave_group_out(x, y, groups, penalty=0.5)
    for number, name in enumerate("abc"):
        fitted, held = groups != name, groups == name
        centred = x[fitted] - x[fitted].mean(0)
        shrink = 0.5 * (centred**2).sum() / 4
        weights = np.linalg.solve(centred.T @ centred + shrink * np.eye(4), centred.T @ (y[fitted] - y[fitted].mean()))
        np.testing.assert_allclose(found.weights[number], weights, rtol=1e-9)
        expected = y[fitted].mean() + (x[held] - x[fitted].mean(0)) @ weights
        np.testing.assert_allclose(found.predicted[held], expected, rtol=1e-9)


def test_what_holds_in_one_group_only_is_not_learned():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), 30)
    y = generator.normal(size=180)
    # A feature of its own for each group: perfect within, nothing across.
    x = np.zeros((180, 6))
    x[np.arange(180), groups] = y
    found = leave_group_out(x, y, groups, penalty=1e-6)
    assert ((found.predicted - y) ** 2).sum() >= 0.95 * ((y - y.mean()) ** 2).sum()


def test_features_that_never_vary_predict_the_mean():
    found = leave_group_out(np.ones((4, 2)), np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(found.predicted, [3.5, 3.5, 1.5, 1.5])


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="groups must be two at least, so that one can be held out, not 1"):
        leave_group_out(np.ones((2, 1)), np.ones(2), np.zeros(2))
    with pytest.raises(InputError, match="penalty must be more than 0, not 0"):
        leave_group_out(np.ones((2, 1)), np.ones(2), np.arange(2), penalty=0)
