"""Prior shift: the shares of most likelihood, and probabilities under new shares."""

import json

import numpy as np
import pytest
import record_quapy
from refusal import refused
from scipy.optimize import minimize

from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.prior import PriorShift, new_shares


def rows_of(shares, seed, rows=3000):
    """Return calibrated predictions under equal shares, of rows drawn under others."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(3, rows, p=shares)
    # Unit Gaussians at the corners of a triangle: Bayes' rule is exact.
    corners = 1.5 * np.eye(3)
    texts = corners[labels] + generator.normal(size=(rows, 3))
    logits = texts @ corners.T
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Predictions(probs, ("a", "b", "c"), labels, tuple(f"{seed}-{n}" for n in range(rows)))


EQUAL, OTHER = np.full(3, 1 / 3), np.array([0.7, 0.25, 0.05])


def test_the_shares_have_the_most_likelihood():
    probs = rows_of(OTHER, 1, 500).probs

    def loss(free):
        shares = np.exp(free) / np.exp(free).sum()
        return -np.log(probs @ (shares / EQUAL)).mean()

    solution = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-10})
    reference = np.exp(solution.x) / np.exp(solution.x).sum()
    # EM stops at steps below 1e-10 with a rate of about .7, BFGS at gradients of about 1e-9.
    np.testing.assert_allclose(new_shares(probs, EQUAL), reference, atol=1e-6)


def test_shares_are_estimated_without_labels_and_lower_the_loss():
    fitted, new = rows_of(EQUAL, 0), rows_of(OTHER, 1)
    step = PriorShift().fit(fitted)
    after = step.apply(new.replace(labels=None))
    # Three standard errors of a share of 3,000 rows, widened for overlapping classes: .05.
    np.testing.assert_allclose(after.probs.mean(0), OTHER, atol=0.05)
    losses = [-np.log(p[range(3000), new.labels]).mean() for p in (new.probs, after.probs)]
    assert losses[1] < losses[0] - 0.05


def test_known_shares_follow_bayes_rule():
    fitted, new = rows_of(EQUAL, 0), rows_of(OTHER, 1, 20)
    step = PriorShift(shares=tuple(OTHER)).fit(fitted)
    weights = OTHER / step.before
    expected = new.probs * weights / (new.probs * weights).sum(1, keepdims=True)
    np.testing.assert_allclose(step.apply(new).probs, expected, rtol=1e-12)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.6, 0.1)])
def test_wrong_shares_are_refused(shares):
    with refused("input", "shares"):
        PriorShift(shares=shares).fit(rows_of(EQUAL, 0, 60))


@pytest.mark.parametrize("name", record_quapy.CASES)
def test_quapy_finds_the_same_shares(name):
    """Both stop where the shares hardly move; where a class is gone, they still creep towards 0."""
    golden = json.loads(record_quapy.GOLDEN.read_text(encoding="utf-8"))[name]
    probs, before = record_quapy.rows_of(name)
    np.testing.assert_allclose(new_shares(probs, before), golden["shares"], atol=1e-5)
