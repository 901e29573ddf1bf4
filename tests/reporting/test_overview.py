"""The first screen: its verdict follows the calibration tests, its numbers are the scores."""

import numpy as np
import pytest

from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.collection import gather
from bayeslora.reporting.assess import assess, pair, pool
from bayeslora.reporting.blocks import Figure, Finding, Overview, Table
from bayeslora.reporting.document import compose
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.score_tables import detection_table
from bayeslora.reporting.sentences import overview
from bayeslora.reporting.text import number, words

pytestmark = pytest.mark.usefixtures("blank_figures")


def first_screen(*items):
    return overview(Facts(pool(assess(gather(list(items)), {"num_resamples": 200}))))


def document_of(items):
    """Return the facts of a report, and its whole document."""
    options = {"num_resamples": 100}
    methods = assess(gather(items), options)
    comparisons = pair(methods, options)
    drawings = dict.fromkeys(words()["figures"], Figure("", ()))
    analysis = Facts(methods, comparisons, fits=methods)
    return analysis, compose("t", analysis, drawings, provenance={}, column=None)


@pytest.mark.parametrize(
    ("options", "kind", "word"),
    [
        ({"sharpness": 3.0}, "warning", "Overconfident"),
        ({"sharpness": 0.3}, "warning", "Underconfident"),
        ({"rows": 4000}, "good", "Well calibrated"),
        ({"rows": 60}, "open", "60"),
    ],
)
def test_the_verdict_is_that_of_the_tests(make, options, kind, word):
    screen = first_screen(make("x", **options))
    assert screen.kind == kind
    assert word in screen.verdict


def test_the_numbers_are_those_of_the_scores(make):
    predictions = make("x", sharpness=2.0)
    accuracy, confidence, gap, person = first_screen(predictions).tiles
    scores = evaluate(predictions, num_resamples=200)
    assert accuracy.value.startswith(f"{100 * round(scores['accuracy'].value, 3):.1f}")
    assert confidence.value.startswith(f"{100 * round(scores['mean_confidence'].value, 3):.1f}")
    digits = scores.gap_digits
    value = 100 * round(scores["overconfidence"].value, digits)
    assert gap.value == f"{value:+.{digits - 2}f}".replace("-", "−")
    order = np.argsort(predictions.confidence)
    handed = order[: round(0.2 * len(order))]
    right = (predictions.prediction == predictions.labels)[handed].mean()
    assert "20" in person.title
    assert "person" in person.title
    assert person.value.startswith(f"{100 * round(right, 3):.1f}")


def test_the_diagram_is_that_of_the_leader(make):
    worse, better = make("worse", sharpness=3.0), make("better")
    screen = first_screen(worse, better)
    assert screen.figure == "reliability-2"
    assert "better" in screen.verdict


def test_marks_follow_the_paired_difference_where_intervals_overlap(make):
    """On the same rows, the paired difference is clear where the separate scores are not."""
    first = make("one", rows=300)
    second = make("other", rows=300, sharpness=1.7)
    facts, document = document_of([first, second])
    low, high = (method.scores["nll"] for method in facts.methods)
    assert low.high > high.low
    assert facts.standing("nll").tied == ()
    tables = {block.name: block for block in document.blocks if isinstance(block, Table)}
    for name in ("overview", "scores"):
        place = [column.title for column in tables[name].columns].index("NLL")
        assert [row.cells[place].best for row in tables[name].rows] == [True, False]
    [nll] = [row for row in tables["every"].rows if row.headings == ("NLL ↓",)]
    assert [cell.best for cell in nll.cells] == [True, False]


def test_marks_of_detection_follow_the_paired_difference_too(make):
    outside = make("first", rows=150, labelled=False, signal=1.2, seed=1)
    second = outside.replace(name="second", total=outside.total + 0.05)
    methods = gather(
        [make("first"), make("first").replace(name="second")],
        {"first": {"far": outside}, "second": {"far": second}},
    )
    facts = Facts(
        assess(methods, {"ood_score": "total", "num_resamples": 200}), sets={"far": "far"}
    )
    worse, better = (scores.ood["far"].auroc for scores in facts.scores)
    assert worse.high > better.low
    best, _ = facts.detectors["far"]
    assert (best.label, best.tied, best.paired) == ("second", (), "row by row")
    table = detection_table(facts.scores, facts.sets, facts)
    assert [row.cells[0].best for row in table.rows] == [False, True]
    assert [row.cells[0].value for row in table.rows] == [number(worse.value), number(better.value)]
    assert {row.cells[0].p for row in table.rows} == {"by total uncertainty"}


@pytest.fixture
def other_classes(make):
    """Return predictions of different classes with a better value of every score."""
    labels = np.tile([0, 1], 120)
    return make("bin").replace(
        probs=np.eye(2)[labels] * 0.9 + 0.05,
        labels=labels,
        classes=("no", "yes"),
        total=None,
        aleatoric=None,
        epistemic=None,
    )


def test_methods_of_different_classes_are_not_ranked(make, other_classes):
    facts, document = document_of([make("m"), other_classes])
    tables = {block.name: block for block in document.blocks if isinstance(block, Table)}
    findings = {block.key: block for block in document.blocks if isinstance(block, Finding)}
    assert facts.standing("nll") is None
    assert facts.leader.label == "m"
    assert findings["ranking"].kind == "warning"
    [first] = [block for block in document.blocks if isinstance(block, Overview)]
    assert "classes differ" in first.about
    cells = [cell for table in tables.values() for row in table.rows for cell in row.cells]
    assert not any(cell.best for cell in cells)
    assert "Bold" not in tables["overview"].caption
    assert not any("Prefer" in line for line in findings["advice"].sentences)
    assert "2 to 4 classes" in document.facts
