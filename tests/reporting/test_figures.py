"""The numbers behind the marks, bars and lines of the figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.container import BarContainer, ErrorbarContainer
from sklearn.metrics import auc, roc_auc_score
from sklearn.metrics import roc_curve as reference_roc

from bayeslora.predictions.collection import gather
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import assess
from bayeslora.reporting.figures import (
    METHODS,
    confidence_panel,
    reliability_panel,
    risk_coverage_panel,
    roc_curve,
)


def fit(confidence, correct, num_bins=15):
    """Return the scores of rows of two classes with these confidences, all labelled alike."""
    probs = np.where(correct, confidence, 1 - np.asarray(confidence))
    rows = Predictions(np.column_stack([probs, 1 - probs]), ("a", "b"), [0] * len(probs), name="m")
    [assessed] = assess(gather([rows]), {"num_bins": num_bins, "num_resamples": 5})
    return assessed


def drawn(axes):
    return [c for c in axes.containers if isinstance(c, ErrorbarContainer)]


def test_the_diagram_has_the_non_empty_bins_with_their_wilson_intervals():
    # 2 of 4 at a confidence of 0.6: near the diagonal; 10 of 20 at 0.95: off it
    assessed = fit([0.6] * 4 + [0.95] * 20, [True, False] * 12, num_bins=10)
    assert [point.off_diagonal for point in assessed.points] == [False, True]
    main, counts = reliability_panel("r", assessed).figure.axes
    points = [bars.lines[0].get_xydata()[0].tolist() for bars in drawn(main)]
    assert points == [pytest.approx([0.6, 0.5]), pytest.approx([0.95, 0.5])]
    ends = [bars.lines[2][0].get_segments()[0][:, 1].tolist() for bars in drawn(main)]
    # Wilson intervals of 2 of 4 and of 10 of 20, from the closed form
    assert ends == [pytest.approx([0.15, 0.85], abs=1e-3), pytest.approx([0.299, 0.701], abs=1e-3)]
    assert [bar.get_height() for bar in counts.patches] == [4, 20]
    assert [text.get_text() for text in counts.texts] == ["4", "20"]


def test_histogram_counts_right_and_wrong_rows_of_every_bin():
    assessed = fit([0.55, 0.6, 0.6, 0.95, 1.0], [False, True, False, True, True], num_bins=4)
    panel = confidence_panel("c", assessed)
    axes = panel.figure.axes[0]
    wrong, right = (bars for bars in axes.containers if isinstance(bars, BarContainer))
    assert [(bar.get_x(), bar.get_height()) for bar in wrong] == [(0.5, 2)]
    assert [(bar.get_x(), bar.get_y(), bar.get_height()) for bar in right] == [
        (0.5, 2, 1),
        (0.75, 0, 2),
    ]
    lines = [line.get_xdata()[0] for line in axes.lines]
    assert lines == [pytest.approx(3 / 5), pytest.approx(3.7 / 5)]
    assert "3 predictions are correct and 2 wrong; 0 of the wrong ones" in panel.description


def test_the_panel_marks_and_tells_the_accuracies():
    method = fit(np.linspace(0.9, 0.55, 20), [True] * 18 + [False] * 2)
    panel = risk_coverage_panel("risk", [(METHODS[0], method)], 0.1)
    marks = [line for line in panel.figure.axes[0].lines if line.get_linestyle() == "None"]
    [points] = [line.get_xydata().tolist() for line in marks]
    assert points == [[0.8, 0.0], [0.9, 0.0], pytest.approx([0.95, 100 / 19])]
    assert "accuracy 1.000, 1.000, 0.947 at 80, 90, 95 %." in panel.description


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


def relative_luminance(color):
    """Return the WCAG 2 relative luminance: the lightness of a colour in grey."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_lines_are_dark_enough_on_white():
    # WCAG 2.2, 1.4.11: graphical objects need a contrast of 3:1 with adjacent colours
    for look in METHODS[:4]:
        assert 1.05 / (relative_luminance(look["color"]) + 0.05) >= 3
