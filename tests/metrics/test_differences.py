"""Distances between predictions of the same rows: definitions, invariances, intervals."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from bayeslora.metrics.compare import compare
from bayeslora.metrics.differences import DISTANCES, distances, farther_from_zero_p
from bayeslora.metrics.intervals import Resampling
from bayeslora.predictions.record import Predictions

CLOSE = 1e-12  # sums of a few hundred numbers below 2


def method(name, seed, rows=150, labelled=True, **parts):
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.ones(4), size=rows)
    labels = np.random.default_rng(99).integers(4, size=rows) if labelled else None
    fields = {"epistemic": generator.random(rows), "labels": labels, "name": name, **parts}
    return Predictions(probs, ("a", "b", "c", "d"), **fields)


def by_name(comparison):
    return {row.name: row.distances for row in comparison.rows}


def test_both_numbers_are_their_sums():
    first, second = method("first", 0), method("second", 1)
    result = distances([first, second], 1, Resampling(20))[0]
    # The largest gap between the probabilities of any set of classes, over all 16 sets.
    sets = np.array([[(k >> c) & 1 for c in range(4)] for k in range(16)])
    gaps = np.abs((first.probs - second.probs) @ sets.T).max(1)
    assert result["tv"].value == pytest.approx(gaps.mean(), abs=CLOSE)
    ratio = first.epistemic.mean() / second.epistemic.mean()
    assert result["epistemic_ratio"].value == pytest.approx(ratio, abs=CLOSE)


def test_total_variation_is_symmetric_and_ratios_are_reciprocal():
    pair = [method("first", 0), method("second", 1)]
    there = by_name(compare(pair, distance_to="second", num_resamples=20))["first"]
    back = by_name(compare(pair, distance_to="first", num_resamples=20))["second"]
    assert there["tv"] == back["tv"]
    product = there["epistemic_ratio"].value * back["epistemic_ratio"].value
    assert product == pytest.approx(1, abs=CLOSE)


def test_classes_and_rows_may_come_in_another_order():
    ids = [f"row-{k}" for k in range(150)]
    first, second = method("first", 0, ids=ids), method("second", 1, ids=ids)
    moved = second.replace(
        classes=("d", "a", "b", "c"),
        probs=second.probs[:, [3, 0, 1, 2]],
        labels=(second.labels + 1) % 4,
    ).take(np.random.default_rng(3).permutation(150))
    expected = by_name(compare([first, second], distance_to="second", num_resamples=20))
    result = by_name(compare([first, moved], distance_to="second", num_resamples=20))
    for key in DISTANCES:
        assert result["first"][key].value == pytest.approx(expected["first"][key].value, abs=CLOSE)


def test_the_interval_is_that_of_a_bootstrap_over_rows():
    first, second = method("first", 0, rows=400), method("second", 1, rows=400)
    score = distances([first, second], 1, Resampling(2000))[0]["tv"]
    apart = 0.5 * np.abs(first.probs - second.probs).sum(1)
    # A mean of 400 bounded numbers is nearly normal; quantiles of 2,000 resamples err by 5 %.
    half = 1.96 * apart.std() / 20
    assert score.high - score.value == pytest.approx(half, rel=0.15)
    assert score.value - score.low == pytest.approx(half, rel=0.15)


def test_without_epistemic_uncertainty_there_is_no_ratio():
    bare, zero = method("bare", 0, epistemic=None), method("zero", 1, epistemic=np.zeros(150))
    whole = method("whole", 2)
    methods = [bare, zero, whole]
    result = by_name(compare(methods, distance_to="whole", num_resamples=10))
    assert set(result["bare"]) == {"tv"}
    assert result["zero"]["epistemic_ratio"].value == 0
    for name in ("bare", "zero"):
        result = by_name(compare(methods, distance_to=name, num_resamples=10))
        assert all(set(scores) == {"tv"} for scores in result.values())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("other_sign", [1, -1])
def test_what_is_farther_from_zero_is_so_whatever_its_sign(sign, other_sign):
    generator = np.random.default_rng(0)
    near, far = generator.normal([[0.1], [0.4]], 1, (2, 400))
    p = farther_from_zero_p(sign * near, other_sign * far)
    assert p < 0.05
    assert p == farther_from_zero_p(-sign * near, -other_sign * far)
    # Both factors of b² − a², each by the textbook test.
    tests = [ttest_rel(other_sign * far, way * sign * near).pvalue for way in (1, -1)]
    assert p == pytest.approx(max(tests))
    assert farther_from_zero_p(other_sign * far, sign * near) == 1
