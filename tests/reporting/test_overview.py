"""The first screen: its verdict follows the tests of calibration, its numbers are the scores."""

import re

import numpy as np
import pytest

from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.collection import gather
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import assess, every_fit, pool
from bayeslora.reporting.overview import overview
from bayeslora.reporting.ranking import facts_of
from bayeslora.reporting.report import report
from bayeslora.reporting.score_tables import Named

MOST_WORDS = 60
"""That a reader passes before the first figure."""


def first_screen(*items, ood=None):
    methods = pool(
        assess(gather(list(items), ood), ood_score=None, num_bins=15, num_resamples=200, seed=0)
    )
    named = [Named(one.title, one.scores) for one in methods]
    sets = {name: name for name in {key for one in methods for key in one.scores.ood}}
    return overview(facts_of(methods, None, sets), every_fit(methods), named)


@pytest.mark.parametrize(
    ("options", "kind", "word"),
    [
        ({"sharpness": 3.0}, "warning", "Overconfident"),
        ({"sharpness": 0.3}, "warning", "Underconfident"),
        ({"rows": 4000}, "good", "Well calibrated"),
        ({"rows": 60}, "open", "60 labelled"),
    ],
)
def test_the_verdict_is_that_of_the_tests(make, options, kind, word):
    found = first_screen(make("x", **options))
    assert found.kind == kind
    assert word in found.verdict


def test_few_rows_that_cannot_be_judged_say_so():
    found = first_screen(Predictions([[0.7, 0.3]] * 3, ("a", "b"), [0, 0, 0], name="x"))
    assert found.kind == "open"
    assert "3 labelled" in found.verdict


def test_unlabelled_rows_have_no_first_screen(make):
    assert first_screen(make("x", labelled=False)) is None


def test_the_numbers_are_those_of_the_scores(make):
    predictions = make("x", sharpness=2.0)
    accuracy, confidence, gap, person = first_screen(predictions).tiles
    scores = evaluate(predictions, num_resamples=200)
    assert accuracy.value.startswith(f"{100 * scores['accuracy'].value:.1f}")
    assert confidence.value.startswith(f"{100 * scores['mean_confidence'].value:.1f}")
    assert gap.value == f"{100 * scores['overconfidence'].value:+.1f}".replace("-", "−")
    order = np.argsort(predictions.confidence)
    handed = order[: round(0.2 * len(order))]
    right = (predictions.prediction == predictions.labels)[handed].mean()
    assert "20.0" in person.value
    assert person.detail.startswith(f"{100 * right:.1f}")


def test_the_diagram_is_that_of_the_leader(make):
    worse, better = make("worse", sharpness=3.0), make("better")
    found = first_screen(worse, better)
    assert found.figure == "reliability-2"
    assert "better" in found.verdict
    assert len(found.methods.columns) == 4


def test_a_figure_comes_within_a_few_words(make, tmp_path):
    for name, items in (("one", [make("x")]), ("two", [make("x"), make("y", sharpness=3.0)])):
        page = report(items, out=tmp_path / name, num_resamples=60).read_text(encoding="utf-8")
        body = page[page.index("<body>") : page.index("<svg")]
        assert len(re.findall(r"\w+(?:[.,]\w+)*", re.sub(r"<[^>]*>", " ", body))) <= MOST_WORDS
        assert 'aria-label="At a glance"' in page
        assert page.count("What to do") == 1
