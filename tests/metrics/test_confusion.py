"""F1, balanced accuracy, MCC and confusion matrix against scikit-learn, with absent classes."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.rowwise import class_counts, labelled_rows
from bayeslora.predictions.record import Predictions

CLOSE = 1e-12  # ratios of sums of at most a few hundred small integers


@st.composite
def labelled(draw):
    """Return predictions of up to five classes; labels or predictions may lack some of them."""
    n, c = draw(st.integers(1, 60)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probs = generator.dirichlet(np.full(c, draw(st.sampled_from([0.05, 1.0]))), size=n)
    labels = generator.integers(0, draw(st.integers(1, c)), size=n)
    return Predictions(probs, tuple("abcde"[:c]), labels)


def oracle(labels, prediction):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that are predicted but never a label
        return [
            sk.f1_score(labels, prediction, average="macro", zero_division=0),
            sk.balanced_accuracy_score(labels, prediction),
            sk.matthews_corrcoef(labels, prediction),
        ]


def ours(counts):
    return [counts.f1, counts.balanced_accuracy, counts.mcc]


@settings(max_examples=150, deadline=None)
@given(labelled(), st.integers(0, 2**32 - 1))
def test_scores_per_class_are_scikit_learns_in_every_resample(data, seed):
    rows = labelled_rows(data)
    table = np.random.default_rng(seed).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), 3)
    counts = np.vstack([np.ones(len(rows), np.int64), table]).T.astype(np.float64)
    actual = np.stack(ours(class_counts(rows)(counts)), axis=1)
    for resample, values in zip(counts.T.astype(int), actual, strict=True):
        drawn = np.repeat(np.arange(len(rows)), resample)
        expected = oracle(rows.labels[drawn], rows.prediction[drawn])
        np.testing.assert_allclose(values, expected, atol=CLOSE)


@settings(max_examples=40, deadline=None)
@given(labelled())
def test_the_confusion_matrix_is_scikit_learns_and_holds_the_scores(data):
    scores = evaluate(data, num_resamples=2, by_class=True)
    table = sk.confusion_matrix(data.labels, data.prediction, labels=range(data.num_classes))
    np.testing.assert_array_equal(np.array(scores.confusion), table)
    assert scores.class_names == data.classes
    assert scores["accuracy"].value == pytest.approx(np.trace(table) / table.sum(), abs=CLOSE)
    each = sk.f1_score(
        data.labels, data.prediction, labels=range(data.num_classes), average=None, zero_division=0
    )
    present = table.sum(0) + table.sum(1) > 0
    for place, name in enumerate(data.classes):
        class_scores = scores.classes[name].scores
        assert ("f1" in class_scores) == present[place]
        if present[place]:
            assert class_scores["f1"].value == pytest.approx(each[place], abs=CLOSE)


def drawn(classes=3, rows=200, seed=0):
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.full(classes, 0.4), size=rows)
    labels = (probs.cumsum(1) > generator.random((rows, 1))).argmax(1)
    return Predictions(probs, tuple(f"class {k}" for k in range(classes)), labels, name="m")


def test_intervals_hold_the_value():
    scores = evaluate(drawn(), num_resamples=200)
    for key in ("f1", "balanced_accuracy", "mcc"):
        score = scores[key]
        assert score.low < score.value < score.high
        # within a factor as wide as that of the accuracy, a mean over the same rows
        accuracy = scores["accuracy"]
        ratio = (score.high - score.low) / (accuracy.high - accuracy.low)
        assert 0.7 < ratio < 2
