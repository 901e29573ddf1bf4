"""The tables of out-of-distribution detection: their content and omissions."""

import dataclasses

import numpy as np
import pytest

from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.collection import Method, Source
from bayeslora.reporting.assess import Evaluation, assess
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.score_tables import (
    BOLD,
    TIED_BY_INTERVALS,
    detection_table,
    ood_table,
)
from bayeslora.reporting.tables import to_markdown

FEW = {"num_resamples": 20}


def table_of(inside, outside):
    """Return the rows of the table of one set by uncertainty, and the table."""
    scored = [evaluate(inside, {"far": outside}, **FEW)]
    table = ood_table(scored, "far", "far")
    return {row.headings[1]: row.cells for row in table.rows}, table


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
    assessed = assess(methods, Evaluation(ood_score="total", num_resamples=200, **options))
    facts = Facts(assessed, sets={"far": "far"})
    scored = [method.scores for method in assessed]
    first, second = (scores.ood["far"].auroc for scores in scored)
    assert first.high > second.low  # overlap
    return facts.detectors["far"][0], detection_table(scored, facts.sets, facts)


def test_on_the_same_rows_paired_differences_decide_which_methods_are_tied(better):
    best, table = standing(*better)
    assert (best.label, best.tied, best.paired) == ("second", (), "row by row")
    assert [row.cells[0].best for row in table.rows] == [False, True]


def test_methods_alike_in_every_row_are_tied(better):
    inside, [outside, _] = better
    best, table = standing(inside, [outside, outside.replace(name="second")])
    assert best.tied == best.equal == ("second",)
    assert not any(row.cells[0].best for row in table.rows)


@pytest.mark.parametrize("part", [0, 1])
def test_on_other_rows_overlapping_intervals_are_tied(better, part):
    first, second = better[part]
    ids = tuple(f"other-{index}" for index in range(len(second)))
    better[part][:] = [first, second.replace(ids=ids)]
    best, _ = standing(*better)
    assert (best.tied, best.paired) == (("first",), "")


def test_related_rows_are_not_compared_one_by_one(better):
    for records in better:
        records[:] = [
            record.replace(columns={"author": tuple(str(i // 2) for i in range(len(record)))})
            for record in records
        ]
    best, _ = standing(*better, cluster_by="author")
    assert (best.tied, best.paired) == (("first",), "")


@pytest.fixture
def apart(make):
    """Return a factory of rows with epistemic uncertainty 0.1 to 0.2, and a set at `high`."""

    def made(high):
        inside, outside = make("m"), make("m", rows=100, labelled=False, seed=1)
        low = inside.replace(epistemic=np.linspace(0.1, 0.2, len(inside)))
        return low, outside.replace(epistemic=np.full(len(outside), high))

    return made


def test_detection_has_a_table_of_its_own(methods, ood):
    scored = [evaluate(method, ood[method.name], **FEW) for method in methods[1:]]
    alone = evaluate(methods[0].replace(name="alone"), **FEW)
    table = detection_table([alone, *scored], {"near": "near ones", "far": "far ones"})
    assert [column.detail for column in table.columns] == ["near ones", "far ones"]
    assert [row.headings for row in table.rows] == [
        ("temperature", score_words("max_probability")),
        ("polar-vbll", "epistemic uncertainty"),
    ]
    for row, scores in zip(table.rows, scored, strict=True):
        shown = [f"{scores.ood[name].auroc.value:.3f}" for name in ("near", "far")]
        assert [cell.value for cell in row.cells] == shown
    assert detection_table([alone], {}).rows == ()


# Wilson intervals of 100 of 100 and of 0 of 100
@pytest.mark.parametrize(
    ("high", "value", "ends"),
    [(0.9, "1.000", "[0.963, 1.000]"), (0.0, "0.000", "[0.000, 0.037]")],
)
def test_detection_without_an_error_or_without_a_hit_is_shown(apart, high, value, ends):
    rows, _ = table_of(*apart(high))
    auroc = rows["epistemic uncertainty"][0]
    assert (auroc.value, auroc.interval) == (value, ends)


def test_an_uncertainty_that_never_varies_is_left_out(make):
    rows, _ = table_of(make("m"), make("m", rows=100, labelled=False, seed=1))
    assert "epistemic uncertainty" not in rows
    assert "total uncertainty" in rows


@pytest.mark.parametrize("score", [None, "aleatoric"])
def test_a_table_of_one_uncertainty_compares_nothing(make, score):
    inside, outside = make("m"), make("m", rows=100, labelled=False, signal=0.3, seed=1)
    scores = evaluate(inside, {"far": outside}, **FEW)
    result = scores.ood["far"]
    names = {"max_probability", *filter(None, [score])}  # the aleatoric part is not listed
    listed = {name: each for name, each in result.by_score.items() if name in names}
    scores = dataclasses.replace(scores, ood={"far": dataclasses.replace(result, by_score=listed)})
    table = ood_table([scores], "far", "far")
    assert len(table.rows) == 1
    assert BOLD not in table.caption
    assert TIED_BY_INTERVALS not in table.notes


def test_both_directions_of_the_aupr_are_shown(make):
    inside, outside = make("m"), make("m", rows=100, labelled=False, signal=0.3, seed=1)
    rows, table = table_of(inside, outside)
    scores = evaluate(inside, {"far": outside}, **FEW).ood["far"].by_score["total"]
    titles = [column.title for column in table.columns]
    cells = dict(zip(titles, rows["total uncertainty"], strict=True))
    assert cells["AUPR"].value == f"{scores['aupr'].value:.3f}"
    assert cells["AUPR, in-distribution"].value == f"{scores['aupr_in'].value:.3f}"
    assert "AUPR, in-distribution ↑" in to_markdown(table)
