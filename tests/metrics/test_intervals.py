"""Intervals against published numbers and other libraries, and by their guarantees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from bayeslora.metrics.intervals import bootstrap_interval, wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(case):
    successes, trials = case
    low, high = wilson([successes], [trials])
    theirs = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert (low[0], high[0]) == (
        pytest.approx(theirs.low, abs=1e-12),
        pytest.approx(theirs.high, abs=1e-12),
    )
    assert 0 <= low[0] <= successes / trials <= high[0] <= 1


def test_wilson_by_hand():
    # 0 of 10 at z = 1.959964: the upper end is z²/(n + z²)
    low, high = wilson(0, 10)
    assert low == 0
    assert high == pytest.approx(3.841459 / 13.841459, abs=1e-6)


def test_percentile_and_reflected_are_mirror_images():
    # 399 numbers: the 10th and the 390th of 400 gaps are at 2.5 % and 97.5 %
    deviations = np.linspace(-0.099, 0.299, 399)
    plain = bootstrap_interval(0.5, deviations, "percentile")
    assert (plain.low, plain.high) == (pytest.approx(0.41), pytest.approx(0.79))
    mirrored = bootstrap_interval(0.5, deviations, "reflected")
    assert (mirrored.low, mirrored.high) == (pytest.approx(0.21), pytest.approx(0.59))


@given(
    st.floats(0, 1),
    st.lists(st.floats(-1, 1), min_size=1, max_size=30),
    st.sampled_from(["percentile", "reflected"]),
)
def test_the_interval_holds_the_value_and_stays_above_the_floor(value, deviations, method):
    score = bootstrap_interval(value, np.array(deviations), method, floor=0.0)
    assert 0 <= score.low <= score.value == value <= score.high
