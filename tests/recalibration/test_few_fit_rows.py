"""Recalibrators fitted to few rows, and their cross-validation."""

import json

import numpy as np
import pytest
from faulty_rows import rows

import bayeslora as bl
from bayeslora.cli import main
from bayeslora.recalibration.recalibrate import LEAST_ROWS, RECALIBRATORS, ROWS_PER_PARAMETER, build

CLASSES = len(rows(3).classes)


def nll(predictions, new):
    of_label = new[np.arange(len(new)), predictions.labels]
    return -np.log(np.maximum(of_label, 1e-12)).mean()


@pytest.mark.parametrize("method", RECALIBRATORS)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_rows_is_fitted_and_noted(caplog, method, count):
    result = bl.recalibrate(rows(count), rows(40, seed=1), method)
    assert (result.cross_validated is None) == (count == 1)
    notes = [
        record.getMessage() for record in caplog.records if "fitted to only" in record.getMessage()
    ]
    assert len(notes) == 1
    assert f" {count} labelled row" in notes[0]


@pytest.mark.parametrize("method", ["temperature", "vector", "beta"])
def test_enough_rows_are_not_noted(caplog, method):
    parameters = build(method).num_parameters(CLASSES)
    enough = max(LEAST_ROWS, ROWS_PER_PARAMETER * parameters)
    assert bl.recalibrate(rows(enough), rows(40, seed=1), method).cross_validated is None
    assert "fitted to only" not in caplog.text
    assert bl.recalibrate(rows(enough - 1), rows(40, seed=1), method).cross_validated is not None


@pytest.mark.parametrize(
    ("method", "learned"), [("temperature", "temperature"), ("beta", "parameters")]
)
def test_the_number_of_parameters_is_that_of_what_is_learned(method, learned):
    fitted = build(method).fit(rows(60))
    assert np.size(getattr(fitted, learned)) == fitted.num_parameters(CLASSES)


def test_four_rows_are_left_out_one_by_one():
    fit = rows(4)
    cross_validated = bl.recalibrate(fit, rows(40, seed=1)).cross_validated
    new = np.empty((4, CLASSES))
    for row in range(4):
        others = fit.take([other for other in range(4) if other != row])
        new[row] = bl.Temperature().fit(others).apply(fit.take([row])).probs[0]
    assert cross_validated.folds == 4
    assert cross_validated.before == pytest.approx(nll(fit, fit.probs))
    assert cross_validated.after == pytest.approx(nll(fit, new))


def test_a_fit_that_makes_things_worse_is_said_to(tmp_path, capsys):
    """For ten rows of a calibrated model, the fit is chance."""
    generator = np.random.default_rng(3)
    for name, count in (("fit", 10), ("apply", 200)):
        probs = generator.dirichlet(np.ones(3), count)
        labels = (probs.cumsum(1) > generator.random((count, 1))).argmax(1)
        bl.Predictions(probs, ("a", "b", "c"), labels).save(tmp_path / f"{name}.parquet")
    words = ["recalibrate", *(f"--{k}={tmp_path / k}.parquet" for k in ("fit", "apply"))]
    assert main([*words, "--method", "isotonic", "--out", str(tmp_path / "a.csv"), "--json"]) == 0
    cross_validated = json.loads(capsys.readouterr().out)["cross_validated"]
    assert cross_validated["after"] > cross_validated["before"]
    assert main([*words, "--method", "isotonic", "--out", str(tmp_path / "b.csv")]) == 0
    shown = capsys.readouterr()
    assert f"{cross_validated['before']:.3f} → {cross_validated['after']:.3f}" in shown.out
    assert "10 labelled rows" in shown.err
