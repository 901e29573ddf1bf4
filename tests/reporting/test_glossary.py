"""The glossary: a term for every score, and well-formed formulas."""

import pytest

from bayeslora.metrics.subgroups import CLASS_KEYS
from bayeslora.reporting.glossary import (
    TERMS,
    Formula,
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


@pytest.mark.parametrize(
    ("source", "mathml"),
    [
        (
            "(a + b_{i, 2})/n",
            "<mfrac><mrow><mi>a</mi><mo>+</mo><msub><mrow><mi>b</mi></mrow>"
            "<mrow><mi>i</mi><mo>,</mo><mn>2</mn></mrow></msub></mrow>"
            "<mrow><mi>n</mi></mrow></mfrac>",
        ),
        (
            "√(y) (z)²",
            "<msqrt><mi>y</mi></msqrt><msup><mrow><mo>(</mo><mi>z</mi><mo>)</mo></mrow>"
            "<mn>2</mn></msup>",
        ),
        (
            "P(u < t)",
            "<mrow><mi>P</mi><mo>(</mo><mi>u</mi><mo>&lt;</mo><mi>t</mi><mo>)</mo></mrow>",
        ),
        ('"a word"', "<mtext>a word</mtext>"),
        (
            "1[|S| = 0.5]",
            "<mn>1</mn><mrow><mo>[</mo><mrow><mo>|</mo><mi>S</mi><mo>|</mo></mrow>"
            "<mo>=</mo><mn>0.5</mn><mo>]</mo></mrow>",
        ),
        (
            "max_c x",
            "<munder><mi>max</mi><mrow><mi>c</mi></mrow></munder>"
            '<mspace width="0.2em"></mspace><mi>x</mi>',
        ),
    ],
)
def test_a_line_is_laid_out_as_it_reads(source, mathml):
    element = Formula(source).element
    assert element == f'<math display="block"><mrow>{mathml}</mrow></math>'
    assert '"' not in Formula(source).text
