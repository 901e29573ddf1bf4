"""The class-wise error is netcal's binary error of each class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netcal.metrics import ECE

from bayeslora.metrics.rowwise import classwise_bins, cwece

CLOSE = 1e-12  # sums of at most some hundred numbers below 1


@st.composite
def labelled(draw):
    rows, classes = draw(st.integers(1, 40)), draw(st.integers(2, 7))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probs = generator.dirichlet(np.ones(classes), size=rows)
    if draw(st.booleans()):  # vote shares on bin edges, including exact 0 and 1
        probs = np.round(probs * 3) / 3
    return probs, generator.integers(0, classes, size=rows)


@settings(max_examples=150, deadline=None)
@given(labelled(), st.sampled_from([1, 3, 10, 15]))
def test_it_is_the_mean_of_netcal_over_classes(data, num_bins):
    probs, labels = data
    binary = [
        ECE(bins=num_bins).measure(probs[:, c].copy(), (labels == c).astype(int))
        for c in range(probs.shape[1])
    ]
    assert cwece(classwise_bins(probs, labels, num_bins)) == pytest.approx(
        np.mean(binary), abs=CLOSE
    )


def test_three_rows_by_hand():
    # one bin: per class |share of the label - mean probability|
    probs = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7]])
    gap = abs(1 / 3 - 1.8 / 3)
    assert cwece(classwise_bins(probs, np.array([0, 1, 1]), 1)) == pytest.approx(gap, abs=CLOSE)
