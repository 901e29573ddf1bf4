"""Beta, histogram and isotonic calibration against scikit-learn, netcal, scipy and hand sums."""

import numpy as np
import pytest
from faulty_rows import rows
from scipy.optimize import minimize as scipy_minimize

from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.beta import BetaCalibration
from bayeslora.recalibration.histogram import HistogramBinning
from bayeslora.recalibration.isotonic import IsotonicRegression
from bayeslora.recalibration.recalibrator import renormalised


def two(stated, labels):
    """Two classes, with the stated probabilities of the second one."""
    stated = np.asarray(stated)
    return Predictions(np.column_stack([1 - stated, stated]), ("no", "yes"), np.asarray(labels))


def hits(given):
    return (given.labels[:, None] == np.arange(given.num_classes)).astype(float)


def divided(values):
    return values / values.sum(1, keepdims=True)


def test_a_flat_prior_gives_beta_calibration_by_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    given = rows(2000, sharp=1.5)
    found = BetaCalibration(prior_scale=1e5).fit(given)
    expected = np.empty_like(given.probs)
    for c in range(3):
        features = np.column_stack([np.log(given.probs[:, c]), -np.log1p(-given.probs[:, c])])
        theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000)
        theirs.fit(features, given.labels == c)
        assert (theirs.coef_ > 0).all()  # else the bounds would matter
        np.testing.assert_allclose(
            found.parameters[:, c], [*theirs.coef_[0], theirs.intercept_[0]], atol=1e-3
        )
        expected[:, c] = theirs.predict_proba(features)[:, 1]
    np.testing.assert_allclose(found.apply(given).probs, divided(expected), atol=1e-5)


def test_beta_calibration_is_the_optimum_of_the_naive_objective_within_its_bounds():
    """Stated probabilities that fall where they should rise: a and b end at their bounds."""
    generator = np.random.default_rng(0)
    stated = generator.uniform(0.02, 0.98, 80)
    given = two(stated, (generator.random(80) > stated).astype(int))
    found = BetaCalibration(prior_scale=0.5).fit(given)

    def naive(free):
        a, b, c = free
        logits = a * np.log(stated) - b * np.log(1 - stated) + c
        loss = np.logaddexp(0, np.where(given.labels == 1, -logits, logits)).sum()
        return loss + ((a - 1) ** 2 + (b - 1) ** 2 + c**2) / (2 * 0.5**2)

    bounds = [(0, None), (0, None), (None, None)]
    searched = scipy_minimize(naive, [1, 1, 0], bounds=bounds, method="trust-constr", tol=1e-10)
    ours = found.parameters[:, 1]
    assert (ours[:2] >= 0).all()
    assert ours[:2].min() < 1e-6
    # An interior method ends a little inside the bounds.
    np.testing.assert_allclose(ours, searched.x, atol=2e-3)
    assert naive(ours) <= searched.fun + 1e-8


def test_beta_calibration_maps_two_classes_alike():
    given = two(np.random.default_rng(0).uniform(size=200), np.arange(200) % 2)
    (a, b, c), (a2, b2, c2) = BetaCalibration().fit(given).parameters.T
    # log p of one class is log(1 − p) of the other: a and b change places, and c its sign.
    np.testing.assert_allclose([a, b, c], [b2, a2, -c2], atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_histogram_binning_is_netcals_off_the_edges():
    from netcal.binning import HistogramBinning as Theirs

    given, other = rows(5000, sharp=1.0), rows(200, sharp=1.0, seed=1)
    found = HistogramBinning(num_bins=8, bins="equal-width", smoothing=0).fit(given)
    assert not np.isnan(found.values).any()
    theirs = Theirs(bins=8)
    theirs.fit(np.array(given.probs), np.array(given.labels))
    expected = theirs.transform(np.array(other.probs))
    np.testing.assert_allclose(found.apply(other).probs, expected, atol=1e-12)


def test_histogram_binning_by_hand():
    """Bins [0, .5) and [.5, 1] of `yes`: 1 of 3 and 2 of 2 rows; its share is (3 + 1) / (5 + 2)."""
    given = two([0.1, 0.2, 0.4, 0.5, 0.9], [0, 0, 1, 1, 1])
    plain = HistogramBinning(num_bins=2, bins="equal-width", smoothing=0).fit(given)
    np.testing.assert_allclose(plain.values[:, 1], [1 / 3, 1])
    smooth = HistogramBinning(num_bins=2, bins="equal-width", smoothing=2).fit(given)
    np.testing.assert_allclose(smooth.values[:, 1], [(1 + 2 * 4 / 7) / 5, (2 + 2 * 4 / 7) / 4])
    # `no` at .5 lies in its upper bin with .9, .8 and .6, of which two are `no`
    np.testing.assert_allclose(plain.values[:, 0], [0, 2 / 4])
    answer = plain.apply(two([0.5], [1])).probs
    np.testing.assert_allclose(answer, [[0.5 / 1.5, 1 / 1.5]])


def test_equal_mass_bins_hold_equally_many_rows():
    given = rows(300, classes=4)
    found = HistogramBinning(num_bins=10, smoothing=0).fit(given)
    np.testing.assert_allclose(
        found.edges[1:-1], np.quantile(given.probs, np.arange(1, 10) / 10, 0)
    )
    binned = found.apply(given)
    places = (given.probs[:, :, None] >= found.edges[1:-1].T[None]).sum(2)
    assert all(np.bincount(column, minlength=10).tolist() == [30] * 10 for column in places.T)
    expected = np.empty_like(given.probs)
    for c in range(4):
        for k in range(10):
            inside = places[:, c] == k
            expected[inside, c] = hits(given)[inside, c].mean()
    np.testing.assert_allclose(binned.probs, divided(expected), atol=1e-12)


def test_an_empty_bin_says_what_it_can():
    given = two([0.1, 0.15, 0.9], [0, 0, 1])
    plain = HistogramBinning(num_bins=4, bins="equal-width", smoothing=0).fit(given)
    np.testing.assert_allclose(plain.apply(two([0.3], [0])).probs, [[0.7, 0.3]])
    smooth = HistogramBinning(num_bins=4, bins="equal-width").fit(given)
    np.testing.assert_allclose(smooth.apply(two([0.3], [0])).probs, [[3 / 5, 2 / 5]])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_isotonic_regression_is_netcals():
    from netcal.binning import IsotonicRegression as Theirs

    given, other = rows(800), rows(200, seed=1)
    found = IsotonicRegression(smoothing=0).fit(given)
    theirs = Theirs()
    theirs.fit(np.array(given.probs), np.array(given.labels))
    expected = theirs.transform(np.array(other.probs))
    np.testing.assert_allclose(found.apply(other).probs, expected, atol=1e-12)


def test_isotonic_regression_by_hand():
    """Labels 0 1 0 1 1 pool to 0, ½ ½, 1 1; the share of `yes` is (3 + 1) / (5 + 2)."""
    given = two([0.1, 0.3, 0.4, 0.6, 0.9], [0, 1, 0, 1, 1])
    plain = IsotonicRegression(smoothing=0).fit(given).apply(given).probs[:, 1]
    np.testing.assert_allclose(plain, [0, 0.5, 0.5, 1, 1])
    share = 4 / 7
    smooth = [share / 2, *[(1 + share) / 3] * 2, *[(2 + share) / 3] * 2]
    found = IsotonicRegression(smoothing=1).fit(given)
    np.testing.assert_allclose(np.interp(given.probs[:, 1], *found.knots[1]), smooth)


def test_smoothed_blocks_rise_all_the_same():
    """A single 0, then 50 rows with one 1, then 20 rows of 1.

    With the share 22 / 73 counted once in each block, the single row would lie above the next
    block; the two become one, with both shares in it.
    """
    labels = np.array([0, 1] + [0] * 49 + [1] * 20)
    stated = np.linspace(0.01, 0.99, 71)
    found = IsotonicRegression(smoothing=1).fit(two(stated, labels))
    share = 22 / 73
    expected = [(1 + 2 * share) / 53] * 51 + [(20 + share) / 21] * 20
    np.testing.assert_allclose(np.interp(stated, *found.knots[1]), expected)


def test_a_row_of_zeros_keeps_its_probabilities():
    stated = np.array([[0.2, 0.8], [0.3, 0.7]])
    mapped = renormalised(np.array([[0.0, 0.0], [0.1, 0.3]]), stated)
    np.testing.assert_allclose(mapped, [[0.2, 0.8], [0.25, 0.75]])
    # Every class is certain above a half, and impossible below.
    given = rows(3).replace(probs=0.1 + 0.7 * np.eye(3), labels=np.arange(3))
    fitted = HistogramBinning(num_bins=2, bins="equal-width", smoothing=0).fit(given)
    probs = np.array([[0.4, 0.3, 0.3]])
    np.testing.assert_allclose(fitted.apply(rows(1).replace(probs=probs)).probs, probs)


@pytest.mark.parametrize("method", [BetaCalibration(), IsotonicRegression()])
def test_the_curve_of_a_class_never_falls(method):
    fitted = method.fit(rows(200, sharp=2))
    p = np.linspace(0, 1, 201)
    rising = np.column_stack([p, (1 - p) / 2, (1 - p) / 2])
    mapped = fitted.apply(rows(201).replace(probs=rising)).probs[:, 0]
    assert (np.diff(mapped) >= -1e-12).all()
