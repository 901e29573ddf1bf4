"""The paired comparison as Markdown, LaTeX, CSV and JSON."""

import csv
import json

import pytest
from bayeslora.reporting.comparison import SUFFIXES, comparison_target, write_comparison
from refusal import refused

from bayeslora.metrics.compare import COMPARED, compare
from bayeslora.reporting.text import p_text


@pytest.fixture(scope="module")
def comparison(methods):
    return compare(methods, reference="temperature", num_resamples=30)


@pytest.fixture
def texts(comparison, tmp_path):
    files = [write_comparison(comparison, tmp_path / f"table{suffix}") for suffix in SUFFIXES]
    return [file.read_text(encoding="utf-8") for file in files]


def test_every_format_has_both_p_values_and_says_how_to_read_them(comparison, texts):
    markdown, latex, _, content = texts
    assert "| temperature (reference) |" in markdown
    assert r"\begin{tabular}{lrrrr}" in latex
    assert r"\usepackage{booktabs}" in latex
    assert json.loads(content) == json.loads(json.dumps(comparison.to_json()))
    for row in comparison.rows:
        for key in row.p:
            cell = f"p {p_text(row.p_holm[key])} ({p_text(row.p[key])})"
            assert cell in markdown
            assert cell in latex
    for part in (
        "on the same 240 labelled examples",
        "over examples, 30 resamples, seed 0; they are not corrected for multiplicity.",
        "1,999 permutations, seed 0; Holm-corrected over the 2 comparisons with",
        "each score a family of its own",
    ):
        assert part in markdown
        assert part in latex


def test_the_csv_has_every_number_to_the_last_digit(comparison, texts):
    lines = {(row["method"], row["score"]): row for row in csv.DictReader(texts[2].splitlines())}
    assert len(lines) == 3 * len(COMPARED)
    for row in comparison.rows:
        for key in COMPARED:
            line = lines[row.name, key]
            assert line["reference"] == "temperature"
            assert int(line["n"]) == comparison.n
            for name, score in (("value", row.scores), ("difference", row.differences)):
                assert float(line[name]) == score[key].value
            assert float(line["low"]) == row.scores[key].low
            assert float(line["difference_high"]) == row.differences[key].high
            if row.p:
                assert float(line["p"]) == row.p[key]
                assert float(line["p_holm"]) == row.p_holm[key]


def test_what_exists_is_kept_unless_it_may_be_replaced(comparison, tmp_path):
    target = tmp_path / "table.tex"
    target.write_text("mine")
    with refused("exists"):
        write_comparison(comparison, target)
    write_comparison(comparison, target, overwrite=True)
    assert "tabular" in target.read_text(encoding="utf-8")


def test_wrong_targets_are_named(tmp_path):
    for name in ("table.txt", "plain"):
        with refused("unknown", ".md", ".tex", ".csv", ".json"):
            comparison_target(tmp_path / name)
