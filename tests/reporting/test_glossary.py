"""The glossary: a term for every score, and well-formed formulas."""

import pytest

from bayeslora.metrics.subgroups import CLASS_KEYS
from bayeslora.reporting.glossary import (
    TERMS,
    terms_for,
)
from bayeslora.reporting.score_tables import COLUMNS, OOD_COLUMNS


@pytest.mark.parametrize(
    "key",
    [
        *COLUMNS,
        *OOD_COLUMNS,
        *CLASS_KEYS,
        "ood",
        "ood_groups",
        "spectra",
        "calibration_p",
        "ece_if_calibrated",
    ],
)
def test_every_score_that_is_shown_has_a_term(key):
    assert any(key in term.keys for term in TERMS)


def test_terms_are_those_of_the_scores_that_are_there():
    names = [term.name for term in terms_for(["accuracy", "nll", "mean_confidence"])]
    assert {"Accuracy", "Confidence", "Intervals"} <= set(names)
    assert not {"AUROC", "Brier score"} & set(names)
    assert names == [term.name for term in TERMS if term.name in names]
    assert "AUROC" in [term.name for term in terms_for(["ood"])]
