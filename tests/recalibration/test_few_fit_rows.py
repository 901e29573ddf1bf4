"""Recalibrators fitted to few rows."""

import numpy as np
import pytest
from faulty_rows import rows

import bayeslora as bl
from bayeslora.recalibration.recalibrate import RECALIBRATORS, build

CLASSES = len(rows(3).classes)


@pytest.mark.parametrize("method", RECALIBRATORS)
@pytest.mark.parametrize("count", [1, 7])
def test_any_number_of_rows_is_fitted_and_noted(caplog, method, count):
    bl.recalibrate(rows(count), rows(40, seed=1), method)
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
