"""Scores per row against torch, torchmetrics, scikit-learn and numbers by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from bayeslora.metrics.rowwise import CLAMP, labelled_rows, row_scores
from bayeslora.predictions.record import Predictions

CLOSE = 1e-12  # sums of at most some hundred numbers below 10


def random_predictions(rows=200, classes=4, seed=0) -> Predictions:
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.ones(classes), size=rows)
    labels = generator.integers(0, classes, size=rows)
    return Predictions(probs, tuple("abcdefgh"[:classes]), labels)


def test_means_equal_torch_torchmetrics_and_scikit_learn():
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_calibration_error,
    )

    from bayeslora.metrics.calibration import ece, mce, top_label

    predictions = random_predictions()
    probs, labels = torch.tensor(predictions.probs), torch.tensor(predictions.labels)
    accuracy, nll, brier, confidence, sharpness = row_scores(predictions).means.mean(0)
    theirs = multiclass_accuracy(probs, labels, num_classes=4, average="micro")
    assert accuracy == pytest.approx(float(theirs), abs=1e-7)  # theirs is float32
    theirs = torch.nn.functional.nll_loss(probs.log(), labels)
    assert nll == pytest.approx(float(theirs), abs=CLOSE)
    assert nll == pytest.approx(log_loss(predictions.labels, predictions.probs), abs=CLOSE)
    theirs = brier_score_loss(predictions.labels, predictions.probs, scale_by_half=False)
    assert brier == pytest.approx(theirs, abs=CLOSE)
    assert confidence == pytest.approx(predictions.probs.max(1).mean(), abs=CLOSE)
    # the expected Brier score of labels drawn from the probabilities, row by row
    squares = np.array([[p @ p - 2 * p[c] + 1 for c in range(4)] for p in predictions.probs])
    expected = (predictions.probs * squares).sum(1).mean()
    assert 1 - sharpness == pytest.approx(expected, abs=CLOSE)
    # off the bin edges, torchmetrics is right as well, in float32
    surest = top_label(predictions.confidence, predictions.prediction == predictions.labels)
    for ours, norm in ((ece, "l1"), (mce, "max")):
        theirs = multiclass_calibration_error(probs, labels, num_classes=4, n_bins=15, norm=norm)
        assert ours(surest, 15) == pytest.approx(float(theirs), abs=1e-6)


def test_two_rows_by_hand():
    rows = row_scores(Predictions([[0.2, 0.8], [0.6, 0.4]], ("a", "b"), [1, 1]))
    assert rows.correct.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(rows.nll, [-math.log(0.8), -math.log(0.4)], rtol=1e-15)
    np.testing.assert_allclose(rows.brier, [0.2**2 + 0.2**2, 0.6**2 + 0.6**2], rtol=1e-14)


def test_an_impossible_label_is_clamped_and_counted():
    rows = row_scores(Predictions([[1.0, 0.0], [0.0, 1.0]], ("a", "b"), [1, 1]))
    assert rows.nll.tolist() == [-math.log(CLAMP), 0.0]
    assert rows.brier.tolist() == [2.0, 0.0]
    assert rows.clamped == 1


def test_rows_without_a_label_are_left_out():
    predictions = Predictions([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]], ("a", "b"), [-1, 1, 0])
    assert row_scores(predictions).confidence.tolist() == [0.6, 0.5]
    assert len(labelled_rows(predictions)) == 2
    assert len(row_scores(predictions.replace(labels=None))) == 0


def test_the_order_follows_from_the_rows():
    predictions = random_predictions()
    shuffled = predictions.take(np.random.default_rng(1).permutation(len(predictions)))
    assert np.array_equal(labelled_rows(predictions).probs, labelled_rows(shuffled).probs)
