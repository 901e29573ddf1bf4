"""The tables of out-of-distribution detection: their content and omissions."""

import pytest

from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.collection import Method, Source
from bayeslora.reporting.assess import assess
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.score_tables import (
    detection_table,
)
from bayeslora.reporting.text import score_words

FEW = {"num_resamples": 20}


@pytest.fixture
def better(make):
    """Return rows and a set with their uncertainties by two methods, the second a little better."""
    inside, outside = make("first"), make("first", rows=150, labelled=False, signal=1.2, seed=1)
    second = outside.replace(name="second", total=outside.total + 0.05)
    return [inside, inside.replace(name="second")], [outside, second]


def standing(inside, outside, **options):
    """Return the standing of methods by their detection of a set, and its table."""
    methods = [
        Method(record.name, record.name, Source(record), {"far": Source(other)})
        for record, other in zip(inside, outside, strict=True)
    ]
    assessed = assess(methods, {"ood_score": "total", "num_resamples": 200, **options})
    facts = Facts(assessed, sets={"far": "far"})
    scored = [method.scores for method in assessed]
    first, second = (scores.ood["far"].auroc for scores in scored)
    assert first.high > second.low  # overlap
    return facts.detectors["far"][0], detection_table(scored, facts.sets, facts)


def test_on_the_same_rows_paired_differences_decide_which_methods_are_tied(better):
    best, table = standing(*better)
    assert (best.label, best.tied, best.paired) == ("second", (), "row by row")
    assert [row.cells[0].best for row in table.rows] == [False, True]


def test_detection_has_a_table_of_its_own(methods, ood):
    scored = [evaluate(method, ood[method.name], **FEW) for method in methods[1:]]
    alone = evaluate(methods[0].replace(name="alone"), **FEW)
    table = detection_table([alone, *scored], {"near": "near ones", "far": "far ones"})
    assert [column.detail for column in table.columns] == ["near ones", "far ones"]
    assert [row.headings[0] for row in table.rows] == ["alone", "temperature", "polar-vbll"]
    for row, scores in zip(table.rows[1:], scored, strict=True):
        for cell, name in zip(row.cells, ("near", "far"), strict=True):
            assert cell.value == f"{scores.ood[name].auroc.value:.3f}"
            assert cell.p == f"by {score_words(scores.ood[name].score)}"
