"""Beta, histogram and isotonic calibration against scikit-learn, netcal, SciPy and hand sums."""

import numpy as np
import pytest
from faulty_rows import rows
from scipy.optimize import minimize as scipy_minimize

from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.one_vs_rest import (
    BetaCalibration,
    HistogramBinning,
    IsotonicRegression,
)


def two(stated, labels):
    """Return two-class predictions from the stated probabilities of the second class."""
    stated = np.asarray(stated)
    return Predictions(np.column_stack([1 - stated, stated]), ("no", "yes"), np.asarray(labels))


def hits(predictions):
    return (predictions.labels[:, None] == np.arange(predictions.num_classes)).astype(float)


def divided(values):
    return values / values.sum(1, keepdims=True)


def test_a_flat_prior_gives_beta_calibration_by_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    predictions = rows(2000, sharp=1.5)
    fitted = BetaCalibration(prior_scale=1e5).fit(predictions)
    expected = np.empty_like(predictions.probs)
    for c in range(3):
        features = np.column_stack(
            [np.log(predictions.probs[:, c]), -np.log1p(-predictions.probs[:, c])]
        )
        theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000)
        theirs.fit(features, predictions.labels == c)
        assert (theirs.coef_ > 0).all()  # otherwise the bounds would be active
        np.testing.assert_allclose(
            fitted.parameters[:, c], [*theirs.coef_[0], theirs.intercept_[0]], atol=1e-3
        )
        expected[:, c] = theirs.predict_proba(features)[:, 1]
    np.testing.assert_allclose(fitted.apply(predictions).probs, divided(expected), atol=1e-5)


def test_beta_calibration_is_the_optimum_of_the_naive_objective_within_its_bounds():
    """Probabilities that fall where they should rise drive a and b to their bounds."""
    generator = np.random.default_rng(0)
    stated = generator.uniform(0.02, 0.98, 80)
    predictions = two(stated, (generator.random(80) > stated).astype(int))
    fitted = BetaCalibration(prior_scale=0.5).fit(predictions)

    def naive(free):
        a, b, c = free
        logits = a * np.log(stated) - b * np.log(1 - stated) + c
        loss = np.logaddexp(0, np.where(predictions.labels == 1, -logits, logits)).sum()
        return loss + ((a - 1) ** 2 + (b - 1) ** 2 + c**2) / (2 * 0.5**2)

    bounds = [(0, None), (0, None), (None, None)]
    searched = scipy_minimize(naive, [1, 1, 0], bounds=bounds, method="trust-constr", tol=1e-10)
    ours = fitted.parameters[:, 1]
    assert (ours[:2] >= 0).all()
    assert ours[:2].min() < 1e-6
    # An interior-point method ends slightly inside the bounds.
    np.testing.assert_allclose(ours, searched.x, atol=2e-3)
    assert naive(ours) <= searched.fun + 1e-8


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_histogram_binning_is_netcals_off_the_edges():
    from netcal.binning import HistogramBinning as Theirs

    predictions, other = rows(5000, sharp=1.0), rows(200, sharp=1.0, seed=1)
    fitted = HistogramBinning(num_bins=8, bins="equal-width", smoothing=0).fit(predictions)
    assert not np.isnan(fitted.values).any()
    theirs = Theirs(bins=8)
    theirs.fit(np.array(predictions.probs), np.array(predictions.labels))
    expected = theirs.transform(np.array(other.probs))
    np.testing.assert_allclose(fitted.apply(other).probs, expected, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_netcals_histogram_maps_an_edge_to_the_bin_below_that_it_was_fitted_in():
    """Bins [0, .5) and [.5, 1] of `yes`: 1 of 2 and 3 of 3 rows; of `no`: 0 of 1 and 1 of 4."""
    from netcal.binning import HistogramBinning as Theirs

    predictions = two([0.1, 0.2, 0.5, 0.5, 0.9], [0, 1, 1, 1, 1])
    theirs = Theirs(bins=2)
    theirs.fit(np.array(predictions.probs), np.array(predictions.labels))
    edge = np.array([[0.5, 0.5]])
    assert theirs.transform(edge).tolist() == [0.5]
    fitted = HistogramBinning(num_bins=2, bins="equal-width", smoothing=0).fit(predictions)
    assert fitted.values[1, 1] == 1
    assert fitted.apply(two([0.5], [1])).probs[0, 1] == pytest.approx(1 / (1 + 1 / 4))


def test_histogram_binning_by_hand():
    """Bins [0, .5) and [.5, 1] of `yes`: 1 of 3 and 2 of 2 rows; its share is (3 + 1) / (5 + 2)."""
    predictions = two([0.1, 0.2, 0.4, 0.5, 0.9], [0, 0, 1, 1, 1])
    plain = HistogramBinning(num_bins=2, bins="equal-width", smoothing=0).fit(predictions)
    np.testing.assert_allclose(plain.values[:, 1], [1 / 3, 1])
    smooth = HistogramBinning(num_bins=2, bins="equal-width", smoothing=2).fit(predictions)
    np.testing.assert_allclose(smooth.values[:, 1], [(1 + 2 * 4 / 7) / 5, (2 + 2 * 4 / 7) / 4])
    # `no` at .5 is in the upper bin with .9, .8 and .6; two of these are `no`
    np.testing.assert_allclose(plain.values[:, 0], [0, 2 / 4])
    answer = plain.apply(two([0.5], [1])).probs
    np.testing.assert_allclose(answer, [[0.5 / 1.5, 1 / 1.5]])


def test_equal_mass_bins_hold_equally_many_rows():
    predictions = rows(300, classes=4)
    fitted = HistogramBinning(num_bins=10, smoothing=0).fit(predictions)
    np.testing.assert_allclose(
        fitted.edges[1:-1], np.quantile(predictions.probs, np.arange(1, 10) / 10, 0)
    )
    binned = fitted.apply(predictions)
    places = (predictions.probs[:, :, None] >= fitted.edges[1:-1].T[None]).sum(2)
    assert all(np.bincount(column, minlength=10).tolist() == [30] * 10 for column in places.T)
    expected = np.empty_like(predictions.probs)
    for c in range(4):
        for k in range(10):
            inside = places[:, c] == k
            expected[inside, c] = hits(predictions)[inside, c].mean()
    np.testing.assert_allclose(binned.probs, divided(expected), atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_isotonic_regression_is_netcals():
    from netcal.binning import IsotonicRegression as Theirs

    predictions, other = rows(800), rows(200, seed=1)
    fitted = IsotonicRegression(smoothing=0).fit(predictions)
    theirs = Theirs()
    theirs.fit(np.array(predictions.probs), np.array(predictions.labels))
    expected = theirs.transform(np.array(other.probs))
    np.testing.assert_allclose(fitted.apply(other).probs, expected, atol=1e-12)
    # without smoothing, a label that was never seen so high or low is ruled out
    assert expected.min() == 0
    assert IsotonicRegression().fit(predictions).apply(other).probs.min() > 0


def test_isotonic_regression_by_hand():
    """Labels 0 1 0 1 1 pool to 0, ½ ½, 1 1; the share of `yes` is (3 + 1) / (5 + 2)."""
    predictions = two([0.1, 0.3, 0.4, 0.6, 0.9], [0, 1, 0, 1, 1])
    plain = IsotonicRegression(smoothing=0).fit(predictions).apply(predictions).probs[:, 1]
    np.testing.assert_allclose(plain, [0, 0.5, 0.5, 1, 1])
    share = 4 / 7
    smooth = [share / 2, *[(1 + share) / 3] * 2, *[(2 + share) / 3] * 2]
    fitted = IsotonicRegression(smoothing=1).fit(predictions)
    np.testing.assert_allclose(np.interp(predictions.probs[:, 1], *fitted.knots[1]), smooth)


def test_smoothed_blocks_rise_all_the_same():
    """A single 0, then 50 rows with one 1, then 20 rows of 1.

    With the share 22 / 73 counted once per block, the single row would lie above the next block;
    the two blocks merge and count both shares.
    """
    labels = np.array([0, 1] + [0] * 49 + [1] * 20)
    stated = np.linspace(0.01, 0.99, 71)
    fitted = IsotonicRegression(smoothing=1).fit(two(stated, labels))
    share = 22 / 73
    expected = [(1 + 2 * share) / 53] * 51 + [(20 + share) / 21] * 20
    np.testing.assert_allclose(np.interp(stated, *fitted.knots[1]), expected)
