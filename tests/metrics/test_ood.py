"""Detection scores against scikit-learn, enumerated pairs, resamples, and numbers by hand."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bayeslora.metrics.ood import auroc_difference_p, detection, sorted_by_uncertainty

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
    np.testing.assert_allclose(
        detection(sorted_by_uncertainty(*data)), expected, rtol=0, atol=CLOSE
    )


@settings(max_examples=100, deadline=None)
@given(two_sets(), st.integers(0, 2**32 - 1))
def test_counts_mean_repeated_rows(data, seed):
    generator = np.random.default_rng(seed)
    counts = [generator.integers(0, 3, len(part)) for part in data]
    for part in counts:
        part[0] += 1
    repeated = sorted_by_uncertainty(*(np.repeat(*pair) for pair in zip(data, counts, strict=True)))
    resampled = detection(sorted_by_uncertainty(*data), *counts)
    np.testing.assert_allclose(resampled, detection(repeated), rtol=0, atol=CLOSE)


@settings(max_examples=50, deadline=None)
@given(two_sets())
def test_exchanging_the_sets_mirrors_auroc(data):
    forth, back = (
        detection(sorted_by_uncertainty(*data))[0],
        detection(sorted_by_uncertainty(*data[::-1]))[0],
    )
    assert forth + back == pytest.approx(1, abs=CLOSE)


def paired_sets(seed, sizes=(80, 60), *, gain=0.0, levels=10**6):
    """Return uncertainties of the same rows by two methods; the second separates better."""
    generator = np.random.default_rng(seed)
    shared = [generator.normal(shift, 1, size) for shift, size in zip((0, 1), sizes, strict=True)]
    return [
        tuple(
            np.round((part + better * is_out + generator.normal(0, 0.7, part.size)) * levels)
            for is_out, part in enumerate(shared)
        )
        for better in (0.0, gain)
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 10**6]))
def test_the_test_of_a_difference_by_enumerated_pairs(seed, levels):
    first, second = paired_sets(seed, (25, 18), gain=0.5, levels=levels)
    wins = [
        np.array([[(out > value) + (out == value) / 2 for value in inside] for out in outside])
        for inside, outside in (first, second)
    ]  # [N_out, N_in]
    gap = wins[0] - wins[1]
    variance = gap.mean(1).var(ddof=1) / 18 + gap.mean(0).var(ddof=1) / 25
    expected = 2 * scipy.stats.norm.sf(abs(gap.mean()) / np.sqrt(variance))
    assert auroc_difference_p(first, second) == pytest.approx(expected, rel=1e-9)
    assert auroc_difference_p(second, first) == pytest.approx(expected, rel=1e-9)


def test_the_test_agrees_with_resamples_of_the_rows():
    first, second = paired_sets(3, gain=0.3)
    generator = np.random.default_rng(0)
    counts = [
        generator.multinomial(size, np.full(size, 1 / size), 4000).T for size in map(len, first)
    ]
    gaps = np.subtract(
        *(detection(sorted_by_uncertainty(*pair), *counts)[0] for pair in (first, second))
    )
    value = np.subtract(*(detection(sorted_by_uncertainty(*pair))[0] for pair in (first, second)))
    deviation = abs(value) / scipy.stats.norm.isf(auroc_difference_p(first, second) / 2)
    # the resampled deviation is known to 1 / sqrt(8000), and of 60 rows too small by 1 %
    assert gaps.std() == pytest.approx(deviation, rel=0.06)


def test_without_a_difference_one_in_twenty_is_significant():
    p = [auroc_difference_p(*paired_sets(seed)) for seed in range(400)]
    # 20 expected; within four binomial deviations of 4.4
    assert 3 <= sum(value < 0.05 for value in p) <= 38


def test_extremes():
    assert detection(sorted_by_uncertainty([0.1, 0.2], [0.8])).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert detection(sorted_by_uncertainty([0.5] * 3, [0.5])).tolist() == [0.5, 0.25, 1.0, 0.75]
    assert detection(sorted_by_uncertainty([0.9], [0.1])).tolist() == [0.0, 0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [([], [0.5], "in-distribution"), ([0.5], [], "OOD"), ([0.5], [float("nan")], "OOD")],
)
def test_empty_sets_and_nan_are_refused(inside, outside, message):
    with refused("input", message):
        sorted_by_uncertainty(inside, outside)
