"""Vector and matrix scaling against a naive objective, scikit-learn, and each other."""

import numpy as np
from faulty_rows import nll, rows, softmax
from scipy.optimize import minimize as scipy_minimize

from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.linear import GRID, MatrixScaling, VectorScaling

# With log-probabilities within about 20 nats of 0, a gradient of 1e-9 and a curvature of at least
# 1 / N = 1/150 (from the prior), parameters are accurate to about 1e-6.
CLOSE = 1e-5


def objective(weights, intercept, predictions, scale, others):
    """Return the penalised NLL of W and b, row by row and entry by entry."""
    total = 0.0
    for probs, label in zip(predictions.probs, predictions.labels, strict=True):
        logits = weights @ np.log(np.maximum(probs, np.finfo(float).eps)) + intercept
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
    for i, row in enumerate(weights):
        total += intercept[i] ** 2 / (2 * scale**2)
        for j, weight in enumerate(row):
            change = weight - (i == j)
            total += change**2 / (2 * (scale if i == j else others) ** 2)
    return total


def test_vector_scaling_is_the_optimum_of_the_naive_objective():
    predictions = rows(150, tilt=1.0)

    def naive(free):
        return objective(np.diag(free[:3]), free[3:], predictions, 0.7, 1.0)

    fitted = VectorScaling(prior_scale=0.7).fit(predictions)
    ours = np.concatenate([fitted.scale, fitted.intercept])
    searched = scipy_minimize(naive, [1, 1, 1, 0, 0, 0], method="BFGS", options={"gtol": 1e-4})
    # SciPy uses finite differences of a sum over 150 rows and stops at about 1e-4.
    np.testing.assert_allclose(ours, searched.x, atol=2e-4)
    assert naive(ours) <= searched.fun + 1e-9


def test_matrix_scaling_is_the_optimum_of_the_naive_objective():
    predictions = rows(150, tilt=1.0)

    def naive(free):
        return objective(free[:9].reshape(3, 3), free[9:], predictions, 0.7, 0.2)

    fitted = MatrixScaling(off_diagonal_scale=0.2, prior_scale=0.7).fit(predictions)
    ours = np.concatenate([fitted.weights.ravel(), fitted.intercept])
    start = np.concatenate([np.eye(3).ravel(), np.zeros(3)])
    searched = scipy_minimize(naive, start, method="BFGS", options={"gtol": 1e-4})
    np.testing.assert_allclose(ours, searched.x, atol=2e-4)
    assert naive(ours) <= searched.fun + 1e-9


def test_the_gradient_is_zero_at_the_optimum():
    """Compute the gradient of the penalised NLL by the textbook formula."""
    predictions = rows(150, tilt=1.0)
    fitted = MatrixScaling(off_diagonal_scale=0.3, prior_scale=0.5).fit(predictions)
    logs = np.log(predictions.probs)
    residuals = softmax(logs @ fitted.weights.T + fitted.intercept)
    residuals[np.arange(150), predictions.labels] -= 1
    deviations = np.where(np.eye(3) == 1, 0.5, 0.3)
    slopes = residuals.T @ logs + (fitted.weights - np.eye(3)) / deviations**2
    np.testing.assert_allclose(slopes / 150, 0, atol=1e-7)
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


def test_without_room_beside_the_diagonal_matrix_scaling_is_vector_scaling():
    predictions, other = rows(200, tilt=1.0), rows(50, tilt=1.0, seed=1)
    vector = VectorScaling().fit(predictions).apply(other).probs
    matrix = MatrixScaling(off_diagonal_scale=1e-7).fit(predictions).apply(other).probs
    np.testing.assert_allclose(matrix, vector, atol=CLOSE)


def test_a_narrow_prior_leaves_probabilities_alone():
    predictions = rows(100, tilt=1.0)
    recalibrated = (
        MatrixScaling(off_diagonal_scale=1e-7, prior_scale=1e-7).fit(predictions).apply(predictions)
    )
    np.testing.assert_allclose(recalibrated.probs, predictions.probs, atol=1e-6)


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
