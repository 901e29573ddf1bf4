"""Vector and matrix scaling against the gradient of the objective, scikit-learn, and each other."""

import numpy as np
import pytest
from faulty_rows import nll, rows, softmax

from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.linear import GRID, MatrixScaling, VectorScaling


@pytest.mark.parametrize("method", [VectorScaling, MatrixScaling])
def test_the_gradient_is_zero_at_the_optimum(method):
    """Compute the gradient of the penalised NLL, which is convex, by the textbook formula."""
    predictions = rows(150, tilt=1.0)
    more = {"off_diagonal_scale": 0.3} if method is MatrixScaling else {}
    fitted = method(prior_scale=0.5, **more).fit(predictions)
    weights, free = (fitted.weights, 1) if more else (np.diag(fitted.scale), np.eye(3))
    logs = np.log(predictions.probs)
    residuals = softmax(logs @ weights.T + fitted.intercept)
    residuals[np.arange(150), predictions.labels] -= 1
    deviations = np.where(np.eye(3) == 1, 0.5, 0.3)
    slopes = residuals.T @ logs + (weights - np.eye(3)) / deviations**2
    np.testing.assert_allclose(free * slopes / 150, 0, atol=1e-7)
    np.testing.assert_allclose((residuals.sum(0) + fitted.intercept / 0.25) / 150, 0, atol=1e-7)


def test_a_flat_prior_gives_scikit_learns_softmax_regression():
    from sklearn.linear_model import LogisticRegression

    predictions = rows(600, sharp=2, tilt=0.5)
    fitted = MatrixScaling(off_diagonal_scale=1e4, prior_scale=1e4).fit(predictions)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000)
    theirs.fit(np.log(predictions.probs), predictions.labels)
    # Weights are only determined up to a shift common to all classes; probabilities are unique.
    expected = theirs.predict_proba(np.log(predictions.probs))
    np.testing.assert_allclose(fitted.apply(predictions).probs, expected, atol=1e-4)


def confused(count, seed):
    """Return rows whose stated probabilities mix the logits of neighbouring classes."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((count, 3))
    labels = (softmax(logits).cumsum(1) > generator.random((count, 1))).argmax(1)
    mixed = logits + 0.8 * logits[:, [1, 2, 0]]
    return Predictions(softmax(mixed), ("a", "b", "c"), labels)


def test_cross_validation_finds_whether_classes_are_mixed():
    fit, apply = confused(1500, 0), confused(1500, 1)
    mixing = MatrixScaling().fit(fit)
    assert mixing.chosen >= 0.1
    assert nll(mixing.apply(apply)) < nll(VectorScaling().fit(fit).apply(apply)) - 0.05
    apart = MatrixScaling().fit(rows(400, classes=8, sharp=3))
    assert apart.chosen == GRID[0]
