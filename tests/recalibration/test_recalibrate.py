"""`recalibrate`: its result, and the separation of fit and evaluation rows."""

import numpy as np
import pytest
from faulty_rows import nll, rows
from refusal import refused

import bayeslora as bl
from bayeslora.recalibration.recalibrate import RECALIBRATORS


# The prior shift changes no calibration.
@pytest.mark.parametrize("method", [name for name in RECALIBRATORS if name != "prior"])
def test_it_fits_applies_and_returns_both_sides(method):
    fit, apply = rows(300), rows(200, seed=1)
    result = bl.recalibrate(fit, apply, method)
    expected = result.recalibrator.apply(apply)
    np.testing.assert_array_equal(result.predictions.probs, expected.probs)
    np.testing.assert_array_equal(result.fit_after.probs, result.recalibrator.apply(fit).probs)
    assert result.before is apply
    assert result.fit_before is fit
    assert result.predictions.name == f"m+{method}"
    assert nll(result.predictions) < nll(result.before)


def test_options_may_be_text_a_mapping_or_an_object():
    fit, apply = rows(100), rows(50, seed=1)
    chosen = bl.HistogramBinning(num_bins=4)
    methods = ("histogram:num_bins=4", {"name": "histogram", "num_bins": 4}, chosen)
    results = [bl.recalibrate(fit, apply, method) for method in methods]
    for result in results[1:]:
        np.testing.assert_array_equal(result.predictions.probs, results[0].predictions.probs)
    assert chosen.values is None, "the object that was passed in was fitted"
    refitted = bl.recalibrate(fit, apply, results[0].recalibrator)
    assert refitted.recalibrator is not results[0].recalibrator


def test_the_method_is_checked_before_anything_is_read():
    with refused("unknown", "'platt'", "'vector'", "'beta'"):
        bl.recalibrate("nowhere.csv", "nowhere.csv", "platt")


def test_rows_that_were_fitted_to_are_refused():
    fit = rows(60)
    with pytest.raises(bl.InputError, match="same predictions"):
        bl.recalibrate(fit, fit)
    with refused("input", "100"):
        bl.recalibrate(fit, fit.take(np.arange(40)))


@pytest.mark.parametrize("method", RECALIBRATORS)
def test_a_class_without_rows_is_named_where_classes_are_changed_apart(method, caplog):
    fit = rows(300)
    without = fit.take(np.flatnonzero(fit.labels != 1))
    bl.recalibrate(without, rows(50, seed=1), method)
    named = f"has no labelled row of {fit.classes[1]!r}" in caplog.text
    assert named == ("temperature" not in method)
