"""The single form in which scores take confidence and correctness."""

import numpy as np
import pytest
from refusal import refused

from bayeslora.metrics.calibration import top_label


def test_rows_are_sorted_and_counts_follow_them():
    rows = top_label([0.9, 0.5, 0.7], [True, False, True])
    assert rows.confidence.tolist() == [0.5, 0.7, 0.9]
    assert rows.correct.tolist() == [0.0, 1.0, 1.0]
    assert rows.counts(np.array([10, 20, 30])).tolist() == [20, 30, 10]
    assert rows.counts(None).tolist() == [1, 1, 1]


def test_equal_confidences_are_runs():
    assert top_label([0.5, 0.9, 0.5, 0.9, 0.9], [1, 1, 1, 1, 1]).runs.tolist() == [0, 2, 5]
    assert top_label([0.5], [1]).runs.tolist() == [0, 1]


def test_bins_hold_their_left_edge_and_the_last_one_both():
    rows = top_label([0.0, 0.49, 0.5, 1.0], [1, 1, 1, 1])
    assert rows.starts(np.array([0.0, 0.5, 1.0])).tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("confidence", "correct", "named"),
    [
        ([0.5, 1.2], [1, 0], ("row 2: confidence", "1.2")),
        ([0.5, float("nan")], [1, 0], ("row 2: confidence", "nan")),
        ([0.5, 0.5], [1, 3], ("row 2: correct", "3.0")),
        ([0.5], [1, 0], ("[1]", "[2]")),
        ([], [], ("[0]",)),
        ([[0.5, 0.5]], [[1, 0]], ("[1, 2]",)),
    ],
)
def test_anything_else_is_refused(confidence, correct, named):
    with refused("input", *named):
        top_label(confidence, correct)
