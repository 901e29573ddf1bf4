"""Risk and coverage against sums by the definition, and the mean over orders of tied rows."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.metrics.calibration import answered, aurc, top_label

CLOSE = 1e-12  # sums of at most some hundred numbers below 1

ROWS = st.lists(
    st.tuples(st.sampled_from([0.3, 0.5, 0.7, 0.9]), st.integers(0, 1)), min_size=1, max_size=6
)


def area_in_this_order(correct) -> float:
    errors = np.cumsum(1 - np.asarray(correct))
    return float(np.mean(errors / np.arange(1, len(errors) + 1)))


def test_four_rows_by_hand():
    # from the surest: right, wrong, right, wrong
    rows = top_label([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0])
    assert aurc(rows) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4, abs=CLOSE)
    assert answered(rows).errors_in(np.arange(1.0, 5)).tolist() == [0, 1, 1, 2]


def test_tied_rows_enter_together():
    tied = answered(top_label([0.5, 0.9, 0.5, 0.5], [0, 1, 1, 0]))
    assert (tied.before.tolist(), tied.upto.tolist(), tied.errors.tolist()) == ([1], [4], [2])
    assert tied.errors_in(np.array([1.0, 4.0])).tolist() == [0, 2]


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_ties_give_the_mean_over_all_their_orders(pairs):
    areas = [
        area_in_this_order([correct for _, correct in order])
        for order in permutations(pairs)
        if all(left[0] >= right[0] for left, right in pairwise(order))
    ]
    rows = top_label(*zip(*pairs, strict=True))
    assert aurc(rows) == pytest.approx(np.mean(areas), abs=CLOSE)
