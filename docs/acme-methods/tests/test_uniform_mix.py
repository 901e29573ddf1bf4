import numpy as np

import bayeslora as bl


def test_a_model_that_is_always_certain_gets_its_error_rate():
    labels = np.array([0] * 80 + [1] * 20)
    rows = np.tile([1.0, 0.0], (100, 1))
    fit = bl.Predictions(rows, ("a", "b"), labels, ids=[f"fit-{i}" for i in range(100)])
    new = bl.Predictions(rows, ("a", "b"), labels, ids=[f"new-{i}" for i in range(100)])
    mixed = bl.recalibrate(fit, new, "uniform_mix").predictions
    # Half of the uniform part goes to the class that it did not state.
    np.testing.assert_allclose(mixed.probs[:, 1], 0.2, atol=1e-4)
