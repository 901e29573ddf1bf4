"""Curves of several methods: the numbers behind the lines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_auc_score
from sklearn.metrics import roc_curve as reference_roc

from bayeslora.predictions.collection import gather
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import assess
from bayeslora.reporting.figures import METHODS, risk_coverage_panel, roc_curve


def test_the_panel_marks_and_tells_the_accuracies():
    first = np.linspace(0.55, 0.9, 20)
    labels = np.array([1, 1] + [0] * 18)
    probs = np.column_stack([first, 1 - first])
    [method] = assess(gather([Predictions(probs, ("a", "b"), labels, name="m")]), {})
    panel = risk_coverage_panel("risk", [(METHODS[0], method)], 0.1)
    marks = [line for line in panel.figure.axes[0].lines if line.get_linestyle() == "None"]
    [drawn] = [line.get_xydata().tolist() for line in marks]
    assert drawn == [[0.8, 0.0], [0.9, 0.0], pytest.approx([0.95, 100 / 19])]
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
