"""Recalibration by soft labels."""

import logging

import numpy as np
import pytest

from bayeslora import Predictions
from bayeslora.recalibration.recalibrate import fit_recalibrator

CLASSES = ("a", "b", "c")
PROBS = np.random.default_rng(0).dirichlet(np.ones(3), 300)


def fitted(method, **labels):
    return fit_recalibrator(Predictions(PROBS, CLASSES, **labels), method)


def test_the_temperature_that_made_the_shares_is_found():
    """The NLL under p^(1/2), normalised, has its minimum at a temperature of 2."""
    shares = np.sqrt(PROBS) / np.sqrt(PROBS).sum(1, keepdims=True)
    assert fitted("temperature", soft_labels=shares).temperature == pytest.approx(2, abs=1e-8)
    other = fitted("vector", soft_labels=shares)
    mapped = other.apply(Predictions(PROBS, CLASSES)).probs
    # The prior pulls the factor of 1/2 towards 1.
    np.testing.assert_allclose(mapped, shares, atol=0.02)


@pytest.mark.parametrize("method", ["temperature", "vector", "matrix"])
def test_one_choice_per_row_is_a_label(method):
    labels = np.random.default_rng(1).integers(0, 3, 300)
    soft, hard = fitted(method, soft_labels=np.eye(3)[labels]), fitted(method, labels=labels)
    for key, value in hard.report().items():
        assert soft.report()[key] == pytest.approx(value, abs=1e-8)


def test_other_methods_take_the_most_frequent_label(caplog):
    labels = np.random.default_rng(1).integers(0, 3, 300)
    shares = 0.5 * np.eye(3)[labels] + 0.5 / 3
    with caplog.at_level(logging.WARNING):
        soft = fitted("histogram", soft_labels=shares)
    assert "most frequent label" in caplog.text
    rows = Predictions(PROBS, CLASSES)
    hard = fitted("histogram", labels=labels)
    np.testing.assert_array_equal(soft.apply(rows).probs, hard.apply(rows).probs)
