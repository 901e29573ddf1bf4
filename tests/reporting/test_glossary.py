"""The glossary has a term for every score, and the table of sentences no idle entry."""

import re
from pathlib import Path

import pytest

import bayeslora.reporting
from bayeslora.metrics.subgroups import CLASS_KEYS
from bayeslora.reporting.document import terms_for
from bayeslora.reporting.score_tables import COLUMNS, OOD_COLUMNS
from bayeslora.reporting.text import words

OTHERS = ("ood", "ood_groups", "calibration_p", "ece_if_calibrated")


@pytest.mark.parametrize("key", [*COLUMNS, *OOD_COLUMNS, *CLASS_KEYS, *OTHERS])
def test_every_score_that_is_shown_has_a_term(key):
    assert any(key in term.keys for term in terms_for([key]))


def test_terms_are_those_of_the_scores_that_are_there():
    names = [term.name for term in terms_for(["accuracy", "nll", "mean_confidence"])]
    assert {"Accuracy", "Confidence", "Intervals"} <= set(names)
    assert not {"AUROC", "Brier"} & set(names)
    assert "AUROC" in [term.name for term in terms_for(["ood"])]


def test_every_sentence_is_said_somewhere():
    folder = Path(bayeslora.reporting.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    # Doubts about a detector are facts of their own.
    idle = {key for key in words()["say"] if not re.search(rf"[\"']{key}[\"']", code)}
    assert idle <= {"negligible", "noise"}
