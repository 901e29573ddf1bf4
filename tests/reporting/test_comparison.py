"""The paired comparison as Markdown and LaTeX."""

import pytest
from refusal import refused

from bayeslora.metrics.compare import compare
from bayeslora.reporting.page import write_comparison
from bayeslora.reporting.text import p_text


@pytest.fixture(scope="module")
def comparison(methods):
    return compare(methods, reference="temperature", num_resamples=30)


@pytest.mark.parametrize("suffix", [".md", ".tex"])
def test_every_format_has_both_p_values_and_says_how_to_read_them(comparison, tmp_path, suffix):
    text = write_comparison(comparison, tmp_path / f"table{suffix}").read_text(encoding="utf-8")
    layout = {".md": "| temperature (reference) |", ".tex": r"\begin{tabular}{lrrrr}"}
    assert layout[suffix] in text
    for row in comparison.rows:
        for key in row.p:
            assert f"p {p_text(row.p_holm[key])} ({p_text(row.p[key])})" in text
    for part in (
        "on the same 240 labelled examples",
        "30 resamples, seed 0. They are not corrected for multiplicity",
        "1,999 permutations, seed 0; Holm-corrected over 2 comparisons with",
        "each score a family of its own",
    ):
        assert part in text


def test_what_exists_stays_unless_it_may_be_replaced(comparison, tmp_path):
    target = tmp_path / "table.tex"
    target.write_text("mine")
    with refused("exists"):
        write_comparison(comparison, target)
    write_comparison(comparison, target, overwrite=True)
    assert "tabular" in target.read_text(encoding="utf-8")
    with refused("unknown", ".md", ".tex"):
        write_comparison(comparison, tmp_path / "table.txt")
