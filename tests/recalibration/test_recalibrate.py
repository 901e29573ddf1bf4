"""`recalibrate`: its result, and the separation of fit and evaluation rows."""

import numpy as np
import pytest
from faulty_rows import nll, rows
from refusal import refused

import bayeslora as bl
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.recalibrate import RECALIBRATORS


@pytest.mark.parametrize("method", RECALIBRATORS)
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


def test_temperature_is_the_default_and_unchanged():
    fit, apply = rows(100), rows(50, seed=1)
    result = bl.recalibrate(fit, apply)
    by_hand = bl.Temperature().fit(fit)
    assert result.recalibrator.temperature == by_hand.temperature
    np.testing.assert_array_equal(result.predictions.probs, by_hand.apply(apply).probs)


def test_files_are_read(tmp_path):
    fit, apply = rows(100, ids="v-"), rows(50, seed=1, ids="t-")
    fit.save(tmp_path / "v.parquet")
    apply.save(tmp_path / "t.parquet")
    result = bl.recalibrate(tmp_path / "v.parquet", str(tmp_path / "t.parquet"), "beta")
    expected = bl.recalibrate(fit, apply, "beta").predictions
    np.testing.assert_array_equal(result.predictions.probs, expected.probs)


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
    assert named == (method != "temperature")


def test_a_few_rows_in_both_are_said(caplog):
    fit, apply = rows(100), rows(200, seed=1)
    both = Predictions(
        np.concatenate([fit.probs[:20], apply.probs]),
        fit.classes,
        labels=np.concatenate([fit.labels[:20], apply.labels]),
    )
    bl.recalibrate(fit, apply)
    assert "same probabilities" not in caplog.text
    bl.recalibrate(fit, both)
    assert "9 % of the rows of apply have the same probabilities in fit" in caplog.text


def test_rows_of_all_or_nothing_are_equal_without_being_the_same(caplog):
    sure = np.eye(3)[np.arange(16) % 3]
    fit, apply = (
        Predictions(
            np.concatenate([sure, predictions.probs]),
            predictions.classes,
            labels=np.concatenate([np.arange(16) % 3, predictions.labels]),
        )
        for predictions in (rows(200), rows(200, seed=1))
    )
    bl.recalibrate(fit, apply)
    assert "same probabilities" not in caplog.text
