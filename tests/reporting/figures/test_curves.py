"""Curves of several methods: the numbers behind the lines, and the number of points."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_auc_score
from sklearn.metrics import roc_curve as reference_roc

from bayeslora.metrics.calibration import ece, top_label
from bayeslora.metrics.selective import aurc
from bayeslora.predictions.collection import gather
from bayeslora.reporting.assess import assess
from bayeslora.reporting.figures.curves import (
    MARKED,
    Selective,
    risk_coverage_panel,
    roc_curve,
)
from bayeslora.reporting.figures.reliability import class_panels
from bayeslora.reporting.figures.style import METHODS, POINTS, sampled_sizes, thinned


def selective(confidence, correct, label="m"):
    return Selective(label, top_label(confidence, correct), "AURC 0.1")


def scored(*items, ood=None):
    methods = gather(list(items), ood)
    return assess(methods, {"num_resamples": 2})


def test_risk_is_the_share_of_errors_among_the_surest():
    method = selective([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0])
    sizes = np.arange(1, 5)
    assert method.risk(sizes) == pytest.approx([0 / 1, 1 / 2, 1 / 3, 2 / 4])


def test_ties_take_the_mean_of_all_orders():
    confidence, correct = [0.9, 0.5, 0.5, 0.5], [0, 0, 1, 1]
    tied = [correct[:1] + list(order) for order in itertools.permutations(correct[1:])]
    mean = np.mean([1 - np.cumsum(order) / np.arange(1, 5) for order in tied], axis=0)
    assert selective(confidence, correct).risk(np.arange(1, 5)) == pytest.approx(mean)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.3, 0.5, 0.8, 0.9]), st.booleans()), min_size=1))
def test_the_mean_risk_is_aurc(rows):
    confidence, correct = zip(*rows, strict=True)
    method = selective(confidence, correct)
    risk = method.risk(np.arange(1, len(rows) + 1))
    # both are sums of at most a few dozen float64 terms below 1
    assert risk.mean() == pytest.approx(aurc(method.rows), abs=1e-12)


def test_accuracy_is_that_of_the_fewest_rows_that_reach_the_coverage():
    # 0.95 · 20 is 19 rows, though the float64 product is slightly larger
    method = selective(np.linspace(0.5, 0.9, 20), [0] + [1] * 19)
    assert method.answered.accuracy_at(95) == 1
    assert method.answered.accuracy_at(96) == pytest.approx(19 / 20)


def test_the_panel_marks_and_tells_the_accuracies():
    method = selective(np.linspace(0.5, 0.9, 20), [0, 0] + [1] * 18)
    panel = risk_coverage_panel("risk", [(METHODS[0], method)], 0.1)
    marks = [line for line in panel.figure.axes[0].lines if line.get_linestyle() == "None"]
    [drawn] = [line.get_xydata().tolist() for line in marks]
    assert drawn == [[0.8, 0.0], [0.9, 0.0], pytest.approx([0.95, 100 / 19])]
    assert panel.description == "m: AURC 0.1; accuracy 1.000, 1.000, 0.947 at 80, 90, 95 %."
    assert MARKED == (80, 90, 95)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
)
def test_the_roc_is_that_of_scikit_learn(inside, outside):
    inside, outside = np.array(inside, float), np.array(outside, float)
    across, up = roc_curve(inside, outside)
    truth = np.repeat([0, 1], [len(inside), len(outside)])
    values = np.concatenate([inside, outside])
    expected = reference_roc(truth, values, drop_intermediate=False)
    assert across == pytest.approx(expected[0])
    assert up == pytest.approx(expected[1])
    assert auc(across, up) == pytest.approx(roc_auc_score(truth, values))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3000), st.integers(10, 200))
def test_thinning_moves_no_point_farther_than_a_step(seed, size, points):
    generator = np.random.default_rng(seed)
    across, up = np.sort(generator.beta(0.3, 2, size)), np.sort(generator.beta(2, 0.3, size))
    x, y = thinned(across, up, points)
    assert len(x) <= points
    assert (x[0], y[0], x[-1], y[-1]) == (across[0], up[0], across[-1], up[-1])
    step = (across[-1] + up[-1] - across[0] - up[0]) / (points - 1)
    nearest = np.searchsorted(x + y, across + up, side="right") - 1
    distance = np.abs(across - x[nearest]) + np.abs(up - y[nearest])
    # float64: sums of two numbers below 1
    assert distance.max() <= step + 1e-12


def test_few_rows_are_all_drawn_and_many_are_sampled():
    assert sampled_sizes(7).tolist() == list(range(1, 8))
    many = sampled_sizes(1_000_000)
    assert (many[0], many[-1]) == (1, 1_000_000)
    assert len(many) <= POINTS
    assert np.all(np.diff(many) > 0)
    # no gap is wider than 1 % of all rows
    assert np.diff(many).max() < 10_000


def test_one_class_against_the_rest_is_the_binary_diagram(make):
    predictions = make("m", rows=120)
    [panel] = class_panels(1, *scored(predictions), ["crypto"])
    place = predictions.classes.index("crypto")
    of_class = predictions.labels == place
    error = ece(top_label(predictions.probs[:, place], of_class), 15)
    assert panel.name == f"reliability-1-class-{place + 1}"
    assert panel.title == "Reliability diagram of m for the class crypto"
    assert f"crypto: {of_class.sum()} of 120 examples, error {error:.3f}" in panel.description
    counts = [bar.get_height() for bar in panel.figure.axes[1].patches]
    assert sum(counts) == 120
