"""The quantile that makes split conformal sets exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.conformal import classwise_thresholds, marginal_threshold, quantile_rank


@pytest.mark.parametrize(
    ("count", "alpha", "rank"),
    [
        (9, 0.1, 9),
        (0, 0.5, 1),
        (3, 0.75, 1),
        # (n + 1)(1 − alpha) is 10 · 0.7 = 7.000000000000001 and 100 · 0.07 in floating point
        (9, 0.3, 7),
        (99, 0.93, 7),
    ],
)
def test_the_rank_by_hand(count, alpha, rank):
    assert quantile_rank(count, alpha) == rank


def test_the_threshold_is_a_score_or_infinite():
    scores = np.array([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6])
    assert marginal_threshold(scores, 0.1) == 0.9
    assert marginal_threshold(scores, 0.5) == 0.5
    assert marginal_threshold(scores[:8], 0.1) == np.inf
    assert marginal_threshold(scores[:1], 0.5) == 0.5
    assert marginal_threshold(scores[:0], 0.5) == np.inf


@settings(deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 60), alpha=st.sampled_from([0.05, 0.2, 0.5]))
def test_the_threshold_of_a_class_is_that_of_its_rows(seed, count, alpha):
    generator = np.random.default_rng(seed)
    scores, labels = generator.random(count), generator.integers(4, size=count)
    thresholds = classwise_thresholds(scores, labels, 5, alpha)
    assert thresholds.tolist() == [marginal_threshold(scores[labels == c], alpha) for c in range(5)]
