"""Calibration errors against netcal, sums by hand, and explicitly repeated rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netcal.metrics import ECE, MCE

from bayeslora.metrics.calibration import (
    aece,
    ece,
    equal_mass_edges,
    mce,
    reliability_bins,
    top_label,
)

# Both sides sum at most a few hundred numbers below 1 in float64, in different orders.
CLOSE = 1e-12

BINS = st.sampled_from([1, 2, 3, 10, 15, 20, 40])


@st.composite
def confidences(draw):
    """Draw confidences as from models, and as from rounding and voting: on bin edges."""
    share = st.integers(1, 20).flatmap(lambda n: st.integers(0, n).map(lambda k: k / n))
    values = st.one_of(st.floats(0, 1), share, st.sampled_from([0.0, 1.0, 1 / 3, 0.7, 1 - 2**-53]))
    confidence = draw(st.lists(values, min_size=1, max_size=60))
    size = len(confidence)
    correct = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    return np.array(confidence), np.array(correct)


@settings(max_examples=300, deadline=None)
@given(confidences(), BINS)
def test_ece_and_mce_equal_netcal_on_every_input(data, num_bins):
    rows = top_label(*data)
    assert ece(rows, num_bins) == pytest.approx(ECE(bins=num_bins).measure(*data), abs=CLOSE)
    assert mce(rows, num_bins) == pytest.approx(MCE(bins=num_bins).measure(*data), abs=CLOSE)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(30, 300), BINS)
def test_adaptive_ece_equals_netcal_where_confidences_differ(seed, size, num_bins):
    generator = np.random.default_rng(seed)
    data = generator.random(size), generator.integers(0, 2, size)
    netcal = ECE(bins=num_bins, equal_intervals=False).measure(*data)
    assert aece(top_label(*data), num_bins) == pytest.approx(netcal, abs=CLOSE)


@settings(max_examples=200, deadline=None)
@given(confidences(), BINS)
def test_equal_mass_edges_are_numpy_quantiles(data, num_bins):
    expected = np.quantile(data[0], np.linspace(0, 1, num_bins + 1))[1:-1]
    edges = equal_mass_edges(top_label(*data), num_bins)
    assert np.array_equal(edges[1:-1], expected)
    assert (edges[0], edges[-1]) == (0.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(confidences(), BINS)
def test_bins_add_up_to_the_error_and_to_netcal_counts(data, num_bins):
    rows = top_label(*data)
    bins = reliability_bins(rows, num_bins)
    full = [bin_ for bin_ in bins if bin_.count]
    total = sum(bin_.count * abs(bin_.accuracy - bin_.confidence) for bin_ in full) / len(rows)
    assert total == pytest.approx(ece(rows, num_bins), abs=CLOSE)
    assert sum(bin_.count for bin_ in bins) == len(rows)
    assert all(
        bin_.confidence is bin_.accuracy is bin_.accuracy_low is None
        for bin_ in bins
        if not bin_.count
    )
    # for two equal columns netcal's detection mode returns the gaps and counts of single bins
    _, gaps, counts = ECE(bins=[num_bins, num_bins], detection=True).measure(
        np.stack([data[0], data[0]], 1), data[1], return_map=True, return_num_samples=True
    )
    assert [bin_.count for bin_ in bins] == counts.tolist()
    ours = [abs(bin_.accuracy - bin_.confidence) if bin_.count else 0.0 for bin_ in bins]
    np.testing.assert_allclose(ours, gaps, rtol=0, atol=CLOSE)


def test_five_rows_by_hand():
    # two bins: {.2, .4}, one of two right; {.5, .9, 1.0}, two of three right; .5 goes up
    rows = top_label([0.2, 0.4, 0.5, 0.9, 1.0], [1, 0, 0, 1, 1])
    low, high = abs(1 / 2 - 0.3), abs(2 / 3 - 0.8)
    assert ece(rows, 2) == pytest.approx(2 / 5 * low + 3 / 5 * high, abs=CLOSE)
    assert mce(rows, 2) == pytest.approx(max(low, high), abs=CLOSE)


def test_sure_and_right_is_perfect_and_sure_and_wrong_the_worst():
    for error in (ece, mce, aece):
        assert error(top_label(np.ones(5), np.ones(5))) == 0
        assert error(top_label(np.ones(5), np.zeros(5))) == 1
