"""Scores of prediction sets: by hand, against scipy, and among the other scores."""

import numpy as np
import pytest
from scipy.stats import binomtest

from bayeslora.metrics.evaluate import SCORE_KEYS, SET_KEYS, evaluate, worst_class_coverage
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
    assert tuple(scores) == (*SCORE_KEYS, *SET_KEYS)
    expected = {
        "coverage": 2 / 4,
        "set_size": (1 + 2 + 0 + 1) / 4,
        "singletons": 2 / 4,
        "empty_sets": 1 / 4,
        "worst_class_coverage": 1 / 3,
    }
    assert {key: scores[key].value for key in SET_KEYS} == pytest.approx(expected)
    for key in SET_KEYS.keys() - {"set_size"}:
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


def test_the_interval_of_the_lowest_coverage_minds_that_it_was_sought_out():
    """Twenty classes have the same true coverage: the lowest of their shares is below it."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 50)
    scores = [worst_class_coverage(generator.random(1000) < 0.9, labels) for _ in range(400)]
    assert np.mean([score.value for score in scores]) < 0.85
    share = np.mean([score.low <= 0.9 <= score.high for score in scores])
    # 400 draws of a share of 0.95 or more have a standard deviation of 0.011 at most.
    assert share > 0.95 - 4 * 0.011


def test_sizes_are_scored_without_labels_and_coverage_is_not():
    predictions = with_sets()
    scores = evaluate(predictions.replace(labels=None), num_resamples=50)
    assert tuple(scores) == ("mean_confidence", "sharpness", *SIZES)
    assert scores["set_size"].value == predictions.sets.sum(1).mean()


def test_the_stated_coverage_comes_from_the_notes():
    def stated(noted):
        return evaluate(with_sets(metadata=noted), num_resamples=5).stated_coverage

    assert stated({"conformal_alpha": "0.1"}) == 0.9
    assert stated({"conformal_alpha": "a tenth"}) is None
    assert stated({"conformal_alpha": "2"}) is None
    assert stated({}) is None
