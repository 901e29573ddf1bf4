"""Recalibrators fitted to few rows, and their cross-validation."""

import json

import numpy as np
import pytest
from faulty_rows import rows

import bayeslora as bl
from bayeslora.cli import main
from bayeslora.recalibration.recalibrate import RECALIBRATORS, build

CLASSES = len(rows(3).classes)


@pytest.mark.parametrize("method", RECALIBRATORS)
@pytest.mark.parametrize("count", [1, 7])
def test_any_number_of_rows_is_fitted_and_noted(caplog, method, count):
    result = bl.recalibrate(rows(count), rows(40, seed=1), method)
    assert (result.cross_validated is None) == (count == 1)
    notes = [
        record.getMessage() for record in caplog.records if "fitted to only" in record.getMessage()
    ]
    assert len(notes) == 1
    assert f" {count} labelled row" in notes[0]


@pytest.mark.parametrize(
    ("method", "learned"), [("temperature", "temperature"), ("beta", "parameters")]
)
def test_the_number_of_parameters_is_that_of_what_is_learned(method, learned):
    fitted = build(method).fit(rows(60))
    assert np.size(getattr(fitted, learned)) == fitted.num_parameters(CLASSES)


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
