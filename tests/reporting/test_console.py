"""Tables for the terminal."""

import math

import pytest

from bayeslora.metrics.catalogue import SCORE_KEYS
from bayeslora.metrics.compare import compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.scores import Score
from bayeslora.plain_text import display_columns
from bayeslora.reporting.console import compare_table, scores_table, summary_line
from bayeslora.reporting.overview import labels_needed
from bayeslora.reporting.text import number


@pytest.fixture(scope="module")
def scores(methods, ood):
    return [evaluate(method, ood[method.name], num_resamples=20) for method in methods]


def test_one_method_is_a_list_of_its_scores(scores):
    text = scores_table(scores[2:])
    line = next(line for line in text.splitlines() if line.startswith("NLL"))
    nll = scores[2]["nll"]
    assert line.split() == [
        "NLL",
        "↓",
        number(nll.value),
        f"[{number(nll.low)},",
        f"{number(nll.high)}]",
    ]
    assert "AUROC ↑ far (120 rows), epistemic uncertainty" in text
    assert "n = 240 labelled examples, 15 bins" in text
    assert "20 resamples, seed 0" in text


def test_several_methods_stand_under_each_other(scores):
    text = scores_table(scores, width=200)
    first = text.split("\n\n")[0].splitlines()
    # value, interval, and the uncertainty used for detection
    assert [line.split()[0] for line in first[3::3]] == [item.name for item in scores]
    assert all(line.count("by ") == 2 for line in first[5::3])
    assert first[1].split() == ["near", "far"]
    assert "bayeslora compare" in text


def test_without_a_terminal_each_method_is_one_line_below_one_of_titles(scores, methods):
    table, notes = scores_table(scores, None).split("\n\n")
    head, *rows = table.splitlines()
    assert [row.split()[0] for row in rows] == [item.name for item in scores]
    nll = scores[0]["nll"]
    assert f"{number(nll.value)}" in rows[0]
    assert f"[{number(nll.low)}, {number(nll.high)}]" in rows[0]
    assert "NLL ↓" in head
    assert "near" in head
    comparison = compare(methods, num_resamples=50)
    parts = compare_table(comparison, None).split("\n\n")
    assert len(parts[0].splitlines()) == 1 + len(methods)
    for brief, full in [(notes, scores_table(scores)), (parts[1], compare_table(comparison))]:
        assert len(brief) < len(full.split("\n\n")[-1])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_notes_fit(scores, methods, make, width):
    few = evaluate(make("few", rows=6), num_resamples=20)
    comparison = compare(methods, num_resamples=50)
    for text in (scores_table([few, few], width), compare_table(comparison, width)):
        assert all(display_columns(line) <= width for line in text.splitlines())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_columns_that_do_not_fit_follow_below(scores, width):
    text = scores_table(scores, width)
    tables = text[: text.index("\n\n* ")]
    assert all(display_columns(line) <= width for line in tables.splitlines())
    for title in ("Accuracy", "NLL", "ECE", "Brier", "AURC", "near", "far"):
        assert text.count(f"{title} ") + text.count(f"{title}\n") >= 1


def test_mean_uncertainties_follow_one_method_or_every_score(scores):
    assert "total uncertainty  " in scores_table(scores[2:], width=200)
    assert "total uncertainty  " not in scores_table(scores, width=200)
    assert "total uncertainty  " in scores_table(scores, width=200, keys=SCORE_KEYS)


def test_columns_stand_in_the_order_asked_for(make):
    bare = make("x")
    scores = evaluate(bare.replace(sets=bare.probs > 0.2), num_resamples=5)
    keys = ("set_size", "nll", "coverage")
    head = scores_table([scores, scores], keys=keys).splitlines()[0]
    assert head.index("Set size") < head.index("NLL") < head.index("Coverage")
    rows = scores_table([scores], keys=keys).splitlines()[2:5]
    assert [row.split()[0] for row in rows] == ["Set", "NLL", "Coverage"]


def test_methods_without_labels(make):
    bare = evaluate(make("x", labelled=False), num_resamples=5)
    assert "Mean confidence" in scores_table([bare])
    assert "ECE ↓" not in scores_table([bare])
    assert "Method" in scores_table([bare, bare])


def test_comparison_shows_differences_and_their_reference(methods):
    comparison = compare(methods, reference="temperature", num_resamples=50)
    text = compare_table(comparison)
    row = next(row for row in comparison.rows if row.name == "mle")
    line = next(line for line in text.splitlines() if line.startswith("mle"))
    assert number(row.differences["nll"].value, signed=True) in line
    reference = next(line for line in text.splitlines() if line.startswith("temperature"))
    assert "(reference)" in reference
    words = " ".join(text.split())
    assert "on the same 240 labelled examples (method − temperature)" in words
    assert "Holm-corrected over the 2 comparisons with temperature" in words
    assert "they are not corrected for multiplicity" in words
    assert "50 resamples, seed 0" in text


def test_comparison_shows_distances_where_they_are_measured(methods):
    assert "TV" not in compare_table(compare(methods, num_resamples=20))
    comparison = compare(methods, distance_to="temperature", num_resamples=20)
    text = compare_table(comparison, width=200)
    for part in ("TV ↓", "Epistemic ratio →1", "to temperature"):
        assert part in text
    row = next(row for row in comparison.rows if row.name == "mle")
    line = next(line for line in text.splitlines() if line.startswith("mle"))
    assert number(row.distances["tv"].value) in line
    assert "mean total variation distance from the probabilities of temperature" in text


def test_the_last_line_names_the_miscalibrated(make):
    def line(*predictions):
        return summary_line([evaluate(method, num_resamples=60) for method in predictions])

    sharp, fine = make("sharp", sharpness=3.0, rows=1000), make("fine", rows=1000)
    text, warns = line(sharp)
    assert warns
    assert "verconfident" in text
    text, warns = line(sharp, fine)
    assert warns
    assert all(name in text for name in ("sharp", "fine"))
    assert not line(fine)[1]
    assert line(make("m", labelled=False)) == ("", False)


def test_the_last_line_says_how_many_examples_could_tell(make):
    scores = evaluate(make("few", rows=60), num_resamples=200)
    gap = scores["overconfidence"]
    [text, warns] = summary_line([scores])
    assert not warns
    assert "60 labelled examples" in text
    assert f"about {labels_needed(gap, 60):,} " in text


@pytest.mark.parametrize(
    ("gap", "needed"),
    [((0.0, -0.1, 0.1), 240), ((0.1, -0.1, 0.3), 240), ((0.03, -0.02, 0.08), 170)],
    ids=["until it is small", "until it excludes zero", "the earlier of both"],
)
def test_labels_needed_follow_the_width_of_the_interval(gap, needed):
    """60 (0.1 / 0.05)², 60 (0.2 / 0.1)², and 60 (0.05 / 0.03)² = 166.7, rounded up."""
    assert labels_needed(Score(*gap), 60) == needed
    assert labels_needed(Score(gap[0], math.nan, math.nan), 60) is None
