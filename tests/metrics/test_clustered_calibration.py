"""Calibration of clustered rows: copies of one row count once."""

import numpy as np
import pytest

from bayeslora.metrics.calibration import reliability_bins, top_label
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.intervals import wilson
from bayeslora.predictions.record import Predictions


def copied(rows, times, seed):
    """Return calibrated predictions: `rows` rows of two classes, each `times` times."""
    generator = np.random.default_rng(seed)
    sure = generator.uniform(0.5, 1.0, rows)
    labels = (generator.random(rows) >= sure).astype(np.int64)
    twin = np.repeat(np.arange(rows), times)
    return Predictions(
        np.column_stack([sure, 1 - sure])[twin],
        ("a", "b"),
        labels[twin],
        columns={"twin": tuple(map(str, twin))},
    )


def test_copies_do_not_make_a_calibrated_model_look_miscalibrated():
    """At a level of 5 %, 13 or more of 120 occur by chance in 0.6 % of such tests."""
    p = [
        evaluate(copied(60, 5, seed), cluster_by="twin", num_resamples=99).calibration_p
        for seed in range(120)
    ]
    assert sum(value < 0.05 for value in p) < 13
    naive = [evaluate(copied(60, 5, seed), num_resamples=99).calibration_p for seed in range(20)]
    assert sum(value < 0.05 for value in naive) > 10


def test_p_of_copies_is_about_that_of_the_rows_themselves():
    once = evaluate(copied(150, 1, 3), num_resamples=1000)
    twice = evaluate(copied(150, 2, 3), cluster_by="twin", num_resamples=1000)
    # both are shares of 1,000 draws with different random numbers: five standard errors
    assert twice.calibration_p == pytest.approx(once.calibration_p, abs=0.11)
    assert twice.ece_if_calibrated == pytest.approx(once.ece_if_calibrated, rel=0.1)


def test_bins_of_copies_have_the_intervals_of_the_rows_themselves():
    once, often = copied(80, 1, 1), copied(80, 4, 1)

    def bins(predictions, clusters=None):
        right = predictions.prediction == predictions.labels
        return reliability_bins(top_label(predictions.confidence, right), 8, clusters=clusters)

    clusters = np.array(list(map(int, often.columns["twin"])))
    for bin_, copies in zip(bins(once), bins(often, clusters), strict=True):
        assert copies.count == 4 * bin_.count
        if bin_.count:
            # float64 sums in a different order
            assert copies.accuracy_low == pytest.approx(bin_.accuracy_low, abs=1e-12)
            assert copies.accuracy_high == pytest.approx(bin_.accuracy_high, abs=1e-12)


def test_rows_of_different_clusters_change_nothing():
    predictions = copied(80, 1, 2)
    right = predictions.prediction == predictions.labels
    rows = top_label(predictions.confidence, right)
    assert reliability_bins(rows, 5, clusters=np.arange(80)) == reliability_bins(rows, 5)
    low, high = wilson(right.sum(), 80)
    [only] = reliability_bins(rows, 1, clusters=np.arange(80))
    assert (only.accuracy_low, only.accuracy_high) == pytest.approx((low, high))
