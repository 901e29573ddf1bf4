"""The bootstrap: its resamples, its law, and the shortcut on large sets."""

import numpy as np
import pytest

from bayeslora.metrics import intervals
from bayeslora.metrics.calibration import bin_sums, ece, top_label
from bayeslora.metrics.intervals import bootstrap_deviations, bootstrap_interval


def mean_of(values):
    def prepare(rows):
        return lambda counts: (values[rows] @ counts / counts.sum(axis=0))[None]

    return prepare


def ece_of(rows):
    sums = bin_sums(rows)
    return lambda _: lambda counts: sums(counts).ece[None]


def test_every_resample_has_as_many_rows_as_the_set_in_each_group():
    seen = []

    def prepare(*groups):
        def statistic(*counts):
            seen.extend(zip(*(np.atleast_1d(part.sum(axis=0)) for part in counts), strict=True))
            assert [len(part) for part in counts] == [len(group) for group in groups]
            return np.zeros((1, *counts[0].shape[1:]))

        return statistic

    bootstrap_deviations(prepare, [7, 3], 20, seed=0)
    assert seen == [(7, 3)] * 21  # the set itself, then twenty resamples


def test_the_seed_decides():
    values = np.random.default_rng(0).random(50)
    first, again, other = (
        bootstrap_deviations(mean_of(values), [50], 30, seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_spread_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    deviations = bootstrap_deviations(mean_of(values), [400], 4000, seed=0)
    # the standard deviation of 4000 draws errs by 1/sqrt(8000) = 1.1 %; five times that fails with
    # probability 6e-7, and the seed is fixed
    assert deviations.std() == pytest.approx(values.std() / 20, rel=0.056)
    assert abs(deviations.mean()) < 5 * values.std() / 20 / np.sqrt(4000)


def test_large_sets_have_the_spread_of_their_size_not_of_the_part(monkeypatch):
    monkeypatch.setattr(intervals, "MAX_ROWS", 500)
    values = np.random.default_rng(0).normal(size=5000)
    deviations = bootstrap_deviations(mean_of(values), [5000], 4000, seed=0)
    # 1.1 % as above, and the deviation of 500 rows errs by 1/sqrt(1000) = 3.2 %: five times 3.4 %
    assert deviations.std() == pytest.approx(values.std() / np.sqrt(5000), rel=0.17)


def test_intervals_of_a_share_hold_the_truth_as_often_as_they_say():
    truth, size, trials = 0.8, 400, 300
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(trials):
        values = (generator.random(size) < truth).astype(float)
        deviations = bootstrap_deviations(mean_of(values), [size], 400, seed=trial)
        score = bootstrap_interval(values.mean(), deviations[:, 0], "percentile")
        covered += score.low <= truth <= score.high
    # Binomial(300, .95) is below 270 with probability 1.6e-4; the seed is fixed
    assert covered >= 270
    assert covered < trials  # an interval that always contains the truth would be too wide


def test_reflected_intervals_of_a_calibration_error_hold_the_truth_percentile_ones_do_not():
    size, truth, trials = 600, 0.03, 100
    generator = np.random.default_rng(0)
    covered = dict.fromkeys(("percentile", "reflected"), 0)
    for trial in range(trials):
        confidence = 0.5 + 0.5 * generator.random(size)
        rows = top_label(confidence, generator.random(size) < confidence - truth)
        deviations = bootstrap_deviations(ece_of(rows), [size], 200, seed=trial)[:, 0]
        for method in covered:
            score = bootstrap_interval(ece(rows), deviations, method, floor=0.0)
            covered[method] += score.low <= truth <= score.high
    # 95 and 28 here; as binomials of 100 their deviations are 2 and 4, and the seed is fixed
    assert covered["reflected"] >= 75
    assert covered["percentile"] <= 65
