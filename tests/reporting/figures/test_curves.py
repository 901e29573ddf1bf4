"""Curves of several methods: the numbers behind the lines, and the number of points."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_auc_score
from sklearn.metrics import roc_curve as reference_roc

from bayeslora.metrics.calibration import ece
from bayeslora.metrics.scores import Score
from bayeslora.metrics.selective import aurc
from bayeslora.metrics.top_label import top_label
from bayeslora.predictions.collection import gather
from bayeslora.reporting.assess import Evaluation, assess
from bayeslora.reporting.figures.curves import (
    MARKED,
    Selective,
    risk_coverage_panel,
    roc_curve,
    roc_panel,
)
from bayeslora.reporting.figures.drawings import draw, risk_panels
from bayeslora.reporting.figures.reliability import MOST_CLASSES, class_panels
from bayeslora.reporting.figures.rendering import render
from bayeslora.reporting.figures.style import METHODS, POINTS, panels_of, sampled_sizes, thinned
from bayeslora.reporting.ranking import Facts


def selective(confidence, correct, label="m"):
    return Selective(label, top_label(confidence, correct), "AURC 0.1")


def scored(*items, ood=None):
    methods = gather(list(items), ood)
    return assess(methods, Evaluation(num_resamples=2))


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


def test_figures_of_many_rows_stay_small():
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(0, 1, 100_000), generator.normal(1, 1, 100_000)
    result = SimpleNamespace(score="s", auroc=Score.alone(0.8), fpr95=Score.alone(0.6))
    method = SimpleNamespace(
        label="m",
        scores=SimpleNamespace(ood={"far": result}),
        uncertainties=lambda _: (inside, outside),
    )
    roc = roc_panel("roc", "far", "far", [(role, method) for role in METHODS])
    confidence = generator.uniform(0.25, 1, 100_000)
    method = selective(confidence, generator.uniform(size=100_000) < confidence)
    risk = risk_coverage_panel("risk", [(role, method) for role in METHODS], 0.5)
    for panel in (roc, risk):
        assert len(render(panel).standalone) < 60_000


def test_more_methods_than_looks_take_more_panels():
    parts = list(panels_of(range(2 * len(METHODS) + 1)))
    assert [number for number, _ in parts] == [1, 2, 3]
    assert [item for _, part in parts for _, item in part] == list(range(11))
    assert all(len({role.marker for role, _ in part}) == len(part) for _, part in parts)


@pytest.mark.parametrize(
    ("methods", "sizes"), [(0, []), (1, [1]), (5, [5]), (6, [3, 3]), (7, [4, 3]), (11, [4, 4, 3])]
)
def test_no_method_is_left_alone_in_a_panel(methods, sizes):
    assert [len(part) for _, part in panels_of(range(methods))] == sizes


def test_panels_of_one_figure_share_their_axis(make):
    methods = scored(*(make(str(i), signal=1 + i, rows=60) for i in range(6)))
    drawn = list(risk_panels(methods))
    first, second = (panel.figure.axes[0].get_ylim() for panel in drawn)
    assert first == second
    tops = [line.get_ydata() for panel in drawn for line in panel.figure.axes[0].lines]
    assert first[1] > max(values[-1] for values in tops)


def test_one_class_against_the_rest_is_the_binary_diagram(make):
    predictions = make("m", rows=120)
    [panel] = class_panels([(1, *scored(predictions))], ["crypto"])
    place = predictions.classes.index("crypto")
    of_class = predictions.labels == place
    error = ece(top_label(predictions.probs[:, place], of_class), 15)
    assert panel.name == f"reliability-1-class-{place + 1}"
    assert panel.title == "Reliability diagram of m for the class crypto"
    assert f"crypto: {of_class.sum()} of 120 examples, error {error:.3f}" in panel.description
    counts = [bar.get_height() for bar in panel.figure.axes[1].patches]
    assert sum(counts) == 120


def test_of_many_classes_the_worst_are_drawn(make):
    size = MOST_CLASSES + 3
    probs = np.full((60, size), 0.2 / (size - 1))
    probs[:, 0] = 0.8  # always confident in the first class, which never occurs
    labels = np.arange(60) % (size - 1) + 1
    names = tuple(f"c{place}" for place in range(size))
    predictions = make("m", rows=60).replace(
        probs=probs, labels=labels, classes=names, total=None, aleatoric=None, epistemic=None
    )
    panels = list(class_panels([(1, *scored(predictions))], True))
    assert len(panels) == MOST_CLASSES
    assert panels[0].name == "reliability-1-class-1"
    assert list(class_panels([(1, *scored(predictions))], False)) == []


def test_each_set_gets_its_methods_sizes_and_scores(make):
    far = make("m", rows=30, labelled=False, seed=3)
    methods = scored(make("m"), make("n"), ood={"n": {"far": far}})
    drawings = draw(Facts(methods, sets={"far": "far away"}))
    [roc] = drawings["roc"].drawings
    assert "30 of the set (positive), 240 in distribution. n: AUROC" in roc.standalone
    assert "m: AUROC" not in roc.standalone
    [risk] = drawings["selective"].drawings
    assert "m: AURC" in risk.standalone
    assert "; n: AURC" in risk.standalone
    assert math.isclose(float(risk.standalone.split('width="')[1].split("pt")[0]), 3.4 * 72)
