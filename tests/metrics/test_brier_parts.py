"""The parts of the Brier score: the identity, Murphy's parts on few values, and extremes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.metrics.rowwise import brier_parts, classwise_bins

CLOSE = 1e-12  # sums of at most some hundred numbers below 1


def parts(probs, labels, num_bins=15):
    probs, labels = np.asarray(probs, dtype=float), np.asarray(labels)
    brier = ((probs - np.eye(probs.shape[1])[labels]) ** 2).sum(1).mean()
    return brier, brier_parts(classwise_bins(probs, labels, num_bins)(), np.array(brier))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 5), st.sampled_from([1, 7, 15])
)
def test_they_add_up_and_generalised_resolution_is_that_of_stephenson_et_al(seed, n, c, num_bins):
    generator = np.random.default_rng(seed)
    probs, labels = generator.dirichlet(np.ones(c), n), generator.integers(c, size=n)
    brier, terms = parts(probs, labels, num_bins)
    assert terms.reliability - terms.resolution + terms.uncertainty == pytest.approx(
        brier, abs=CLOSE
    )
    # the five sums of their equation 12, class by class and bin by bin
    resolution = 0.0
    for k in range(c):
        truth, shares = (labels == k).astype(float), probs[:, k]
        place = np.minimum(
            (np.searchsorted(np.linspace(0, 1, num_bins + 1), shares, "right")), num_bins
        )
        for b in np.unique(place):
            inside = place == b
            spread = shares[inside] - shares[inside].mean()
            within = (spread**2).sum() - 2 * (spread * (truth[inside] - truth[inside].mean())).sum()
            resolution += inside.sum() * (truth[inside].mean() - truth.mean()) ** 2 - within
    assert terms.resolution == pytest.approx(resolution / n, abs=CLOSE)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 80))
def test_where_a_bin_has_one_value_they_are_murphys(seed, n):
    generator = np.random.default_rng(seed)
    first, labels = generator.choice([0.1, 0.5, 0.9], n), generator.integers(2, size=n)
    _, terms = parts(np.column_stack([first, 1 - first]), labels, 5)
    truth = labels == 0
    values = [(first == v, v) for v in (0.1, 0.5, 0.9) if (first == v).any()]
    reliability = sum(rows.mean() * (v - truth[rows].mean()) ** 2 for rows, v in values)
    resolution = sum(rows.mean() * (truth[rows].mean() - truth.mean()) ** 2 for rows, _ in values)
    assert terms.reliability == pytest.approx(2 * reliability, abs=CLOSE)
    assert terms.resolution == pytest.approx(2 * resolution, abs=CLOSE)
    assert terms.uncertainty == pytest.approx(2 * truth.mean() * (1 - truth.mean()), abs=CLOSE)


def test_perfect_predictions_resolve_all_and_shares_resolve_nothing():
    labels = np.array([0, 1, 2, 0])
    brier, terms = parts(np.eye(3)[labels], labels)
    assert (brier, terms.reliability) == (0, 0)
    assert terms.resolution == terms.uncertainty == pytest.approx(2 * 1 / 4 * 3 / 4 + 1 / 4)
    shares = np.tile([0.5, 0.25, 0.25], (4, 1))
    brier, terms = parts(shares, labels)
    assert terms.reliability == pytest.approx(0, abs=CLOSE)
    assert terms.resolution == pytest.approx(0, abs=CLOSE)
    assert terms.uncertainty == pytest.approx(brier, abs=CLOSE)


def test_one_class_alone_leaves_no_uncertainty():
    _, terms = parts([[0.7, 0.3], [0.8, 0.2]], [0, 0])
    assert terms.uncertainty == 0
