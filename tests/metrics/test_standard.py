"""The sums behind printed values and the bootstrap agree with netcal and torchmetrics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.metrics.calibration import calibration_errors, ece, mce, top_label
from bayeslora.metrics.ood import detection, detection_areas, sorted_by_uncertainty

CONFIDENCES = st.lists(
    st.tuples(st.integers(0, 100).map(lambda k: k / 100), st.booleans()), min_size=1, max_size=60
)
UNCERTAINTIES = st.lists(st.integers(-9, 9).map(lambda k: k / 3), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(CONFIDENCES, st.sampled_from([1, 10, 15, 20]))
def test_netcal_errors_equal_the_bootstraps_sums(rows, num_bins):
    confidence, correct = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    pairs = top_label(confidence, correct)
    errors = calibration_errors(pairs, num_bins)
    # Sums of at most 60 float64 terms of order 1.
    assert errors == pytest.approx((ece(pairs, num_bins), mce(pairs, num_bins)), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(UNCERTAINTIES, UNCERTAINTIES)
def test_torchmetrics_areas_equal_the_bootstraps_sums(inside, outside):
    pair = (np.array(inside), np.array(outside))
    # torchmetrics sums in single precision.
    ours = detection(sorted_by_uncertainty(*pair))[[0, 1, 3]]
    assert detection_areas(*pair) == pytest.approx(ours, abs=1e-6)


def test_values_outside_the_unit_interval_are_not_taken_for_logits():
    # A sigmoid in single precision would map both 40 and 50 to 1, a tie with AUROC 1/2.
    auroc, *_ = detection_areas(np.array([40.0]), np.array([50.0]))
    assert auroc == 1.0
