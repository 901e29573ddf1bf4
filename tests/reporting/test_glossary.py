"""The glossary: a term for every score, formulas that are well formed."""

from xml.etree import ElementTree

import pytest

from bayeslora.metrics.subgroups import CLASS_KEYS
from bayeslora.reporting.formulas import absolute, bracketed, call, fraction, root, row, sub
from bayeslora.reporting.glossary import NEAR_AND_FAR, SPECTRUM, TERMS, UNFAMILIAR, terms_for
from bayeslora.reporting.score_tables import COLUMNS, OOD_COLUMNS

FORMULAS = [formula for term in TERMS for formula in term.formulas]


@pytest.mark.parametrize(
    "key",
    [
        *COLUMNS,
        *OOD_COLUMNS,
        *CLASS_KEYS,
        UNFAMILIAR,
        NEAR_AND_FAR,
        SPECTRUM,
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
    assert "AUROC" in [term.name for term in terms_for([UNFAMILIAR])]


@pytest.mark.parametrize("formula", FORMULAS, ids=[formula.text[:24] for formula in FORMULAS])
def test_formulas_are_mathml_with_the_right_number_of_parts(formula):
    counts = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2}
    for element in ElementTree.fromstring(formula.element).iter():
        if element.tag in counts:
            assert len(element) == counts[element.tag]
        if element.tag in {"mi", "mn", "mo", "mtext"}:
            assert element.text.strip()


def test_one_line_reads_as_the_layout_does():
    quotient = fraction(row("a +", sub("b", "i , j")), "n")
    assert quotient.text == "(a + b_{i, j})/n"
    assert absolute(quotient).text == "|(a + b_{i, j})/n|"
    assert row("x =", root("y"), bracketed("1 − z")).text == "x = √(y) (1 − z)"
    assert call("P", row("u < t")).text == "P(u < t)"
    assert "<mo>&lt;</mo>" in call("P", row("u < t")).mathml
