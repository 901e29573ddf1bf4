"""Scores of prediction sets: by hand, against scipy, and among the other scores."""

import numpy as np
import pytest
from scipy.stats import binomtest

from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.scores import SCORES, SET_SCORES
from bayeslora.predictions.record import Predictions

SIZES = ("set_size", "singletons", "empty_sets")


def with_sets(rows=200, seed=0, **parts):
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.ones(3), size=rows)
    labels = generator.integers(3, size=rows)
    sets = generator.random((rows, 3)) < 0.6
    return Predictions(probs, ("a", "b", "c"), labels, sets=sets, name="m", **parts)


def test_four_rows_by_hand():
    sets = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=bool)
    predictions = Predictions(np.full((4, 2), 0.5), ("a", "b"), [0, 1, 0, 0], sets=sets)
    scores = evaluate(predictions, num_resamples=50)
    assert tuple(scores) == (*SCORES, *SET_SCORES)
    expected = {
        "coverage": 2 / 4,
        "set_size": (1 + 2 + 0 + 1) / 4,
        "singletons": 2 / 4,
        "empty_sets": 1 / 4,
    }
    assert {key: scores[key].value for key in expected} == pytest.approx(expected)
    for key in expected.keys() - {"set_size"}:
        assert scores[key].low < scores[key].value < scores[key].high
    assert not scores["set_size"].has_interval  # four rows are too few for a bootstrap


def test_shares_have_wilson_intervals():
    predictions = with_sets()
    covered = predictions.sets[np.arange(200), predictions.labels]
    expected = binomtest(int(covered.sum()), 200).proportion_ci(method="wilson")
    coverage = evaluate(predictions, num_resamples=50)["coverage"]
    assert (coverage.low, coverage.high) == pytest.approx(tuple(expected), abs=1e-12)


def test_the_size_has_a_bootstrap_interval():
    size = evaluate(with_sets(2000), num_resamples=2000)["set_size"]
    deviation = with_sets(2000).sets.sum(1).std() / np.sqrt(2000)
    # The ends of 2,000 resamples err by about 5 % of the width.
    assert size.low == pytest.approx(size.value - 1.96 * deviation, abs=0.1 * deviation * 2)
    assert size.high == pytest.approx(size.value + 1.96 * deviation, abs=0.1 * deviation * 2)


def test_sizes_are_scored_without_labels_and_coverage_is_not():
    predictions = with_sets()
    scores = evaluate(predictions.replace(labels=None), num_resamples=50)
    assert tuple(scores) == ("mean_confidence", "sharpness", *SIZES)
    assert scores["set_size"].value == predictions.sets.sum(1).mean()
