"""The tables of out-of-distribution detection: their content and omissions."""

import numpy as np
import pytest

from bayeslora.metrics.evaluate import evaluate
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.score_tables import detection_table, ood_tables
from bayeslora.reporting.tables import to_markdown

FEW = {"num_resamples": 20}


def table_of(inside, outside):
    """Return the rows of the table of one set by uncertainty, and the table."""
    scored = [evaluate(inside, {"far": outside}, **FEW)]
    [table] = ood_tables(scored, {"far": "far"})
    return {row.headings[1]: row.cells for row in table.rows}, table


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


def test_both_directions_of_the_aupr_are_shown(make):
    inside, outside = make("m"), make("m", rows=100, labelled=False, signal=0.3, seed=1)
    rows, table = table_of(inside, outside)
    scores = evaluate(inside, {"far": outside}, **FEW).ood["far"].by_score["total"]
    titles = [column.title for column in table.columns]
    cells = dict(zip(titles, rows["total uncertainty"], strict=True))
    assert cells["AUPR"].value == f"{scores['aupr'].value:.3f}"
    assert cells["AUPR, in-distribution"].value == f"{scores['aupr_in'].value:.3f}"
    assert "AUPR, in-distribution ↑" in to_markdown(table)
