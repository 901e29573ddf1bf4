"""Tables for the terminal."""

import pytest

from bayeslora.metrics.compare import compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.reporting.console import compare_table, comparison_line, scores_table, summary_line
from bayeslora.reporting.text import number


@pytest.fixture(scope="module")
def scores(methods, ood):
    return [evaluate(method, ood=ood[method.name], num_resamples=20) for method in methods]


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
    assert "n = 240 labelled examples, 4 classes, 15 bins" in text
    assert "20 resamples, seed 0" in " ".join(text.split())


def test_several_methods_stand_under_each_other(scores):
    text = scores_table(scores, width=200)
    first = text.split("\n\n")[0].splitlines()
    # value, interval, and the uncertainty used for detection
    assert [line.split()[0] for line in first[3::3]] == [item.name for item in scores]
    assert all(line.count("by ") == 2 for line in first[5::3])
    assert first[1].split() == ["near", "far"]


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
    assert "50 resamples, seed 0" in text
    assert comparison_line(comparison).startswith("Best NLL: temperature, ")
    assert comparison_line(comparison).endswith("clearly better than mle")


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
