"""Detection scores against scikit-learn, enumerated pairs, and numbers by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bayeslora.metrics.ood import detection, thresholds

CLOSE = 1e-12  # sums of at most some hundred numbers below 1


@st.composite
def two_sets(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 5, 10**6]))  # few levels: many ties
    sizes = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    shift = draw(st.sampled_from([0.0, 0.3]))
    inside, outside = (generator.integers(0, levels, size) / levels for size in sizes)
    return inside, outside + shift


@settings(max_examples=300, deadline=None)
@given(two_sets())
def test_all_four_equal_scikit_learn(data):
    inside, outside = data
    truth = np.repeat([0, 1], [len(inside), len(outside)])
    values = np.concatenate(data)
    false_rate, true_rate, _ = roc_curve(truth, values, drop_intermediate=False)
    expected = [
        roc_auc_score(truth, values),
        average_precision_score(truth, values),
        false_rate[np.argmax(true_rate >= 0.95)],
        average_precision_score(1 - truth, -values),
    ]
    np.testing.assert_allclose(detection(thresholds(*data)), expected, rtol=0, atol=CLOSE)


@settings(max_examples=100, deadline=None)
@given(two_sets(), st.integers(0, 2**32 - 1))
def test_counts_mean_repeated_rows(data, seed):
    generator = np.random.default_rng(seed)
    counts = [generator.integers(0, 3, len(part)) for part in data]
    for part in counts:
        part[0] += 1
    repeated = thresholds(*(np.repeat(*pair) for pair in zip(data, counts, strict=True)))
    resampled = detection(thresholds(*data), *counts)
    np.testing.assert_allclose(resampled, detection(repeated), rtol=0, atol=CLOSE)


@settings(max_examples=50, deadline=None)
@given(two_sets())
def test_exchanging_the_sets_mirrors_auroc(data):
    forth, back = detection(thresholds(*data))[0], detection(thresholds(*data[::-1]))[0]
    assert forth + back == pytest.approx(1, abs=CLOSE)


def test_five_rows_by_hand():
    # pairs (out over in): .9 beats both; .5 beats .1 and ties with .5; .3 beats .1 only
    auroc, aupr, fpr95, aupr_in = detection(thresholds([0.1, 0.5], [0.9, 0.5, 0.3]))
    assert auroc == pytest.approx((2 + 1.5 + 1) / 6, abs=CLOSE)
    # thresholds .9: P = 1; .5: P = 2/3; .3: P = 3/4; each adds a third of the recall
    assert aupr == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, abs=CLOSE)
    # from the least uncertain: .1 (in), .3 (out), then .5 of both: P = 1 and 2/4, half recall each
    assert aupr_in == pytest.approx((1 + 2 / 4) / 2, abs=CLOSE)
    assert fpr95 == 0.5  # from .3 on, all three OOD rows and one of the two others are flagged


def test_exactly_95_percent_is_enough():
    # 19 of 20 OOD rows lie above every in-distribution row, the last one below
    assert detection(thresholds([0.5], [0.9] * 19 + [0.1]))[2] == 0.0
    assert detection(thresholds([0.5], [0.9] * 18 + [0.1] * 2))[2] == 1.0


def test_extremes():
    assert detection(thresholds([0.1, 0.2], [0.8])).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert detection(thresholds([0.5] * 3, [0.5])).tolist() == [0.5, 0.25, 1.0, 0.75]
    assert detection(thresholds([0.9], [0.1])).tolist() == [0.0, 0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        ([], [0.5], "in-distribution"),
        ([0.5], [], "OOD"),
        ([0.5], [float("nan")], "OOD"),
    ],
)
def test_empty_sets_and_nan_are_refused(inside, outside, message):
    with refused("input", message):
        thresholds(inside, outside)
