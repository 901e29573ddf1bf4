"""The paired comparison as Markdown, LaTeX and CSV."""

import csv
import json
import shutil

import pytest
from crashes import survivors
from refusal import refused

from bayeslora.io.files import lock
from bayeslora.metrics.compare import COMPARED, compare
from bayeslora.reporting.comparison import comparison_files, write_comparison
from bayeslora.reporting.text import p_text


@pytest.fixture(scope="module")
def comparison(methods):
    return compare(methods, reference="temperature", num_resamples=30)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_directory_gets_all_formats(comparison, tmp_path):
    files = write_comparison(comparison, tmp_path / "tables")
    assert [file.name for file in files] == ["comparison.md", "comparison.tex", "comparison.csv"]
    assert len(texts(tmp_path / "tables")) == 4
    markdown, latex, table = (file.read_text(encoding="utf-8") for file in files)
    content = (tmp_path / "tables" / "comparison.json").read_text(encoding="ascii")
    assert "| temperature (reference) |" in markdown
    assert r"\begin{tabular}{lrrrr}" in latex
    assert r"\usepackage{booktabs}" in latex
    assert table.count("\n") == 1 + 3 * len(COMPARED)
    assert json.loads(content)["reference"] == "temperature"


def texts(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("replaced", [False, True])
def test_a_killed_writer_leaves_the_old_files_or_the_new_ones(methods, tmp_path, replaced):
    old, new = (compare(methods, num_resamples=count, num_permutations=9) for count in (5, 6))
    out = tmp_path / "out"
    write_comparison(new, tmp_path / "new")
    if replaced:
        write_comparison(old, out)
    states = [texts(out) if replaced else None, texts(tmp_path / "new")]
    for number in survivors(lambda: write_comparison(new, out, overwrite=True)):
        with lock(out):  # as the next writer does
            assert (texts(out) if out.exists() else None) in states, number
        shutil.rmtree(out, ignore_errors=True)
        if replaced:
            write_comparison(old, out, overwrite=True)
    assert texts(out) == states[1]


def test_the_csv_has_every_number_to_the_last_digit(comparison, tmp_path):
    [file] = write_comparison(comparison, tmp_path / "out.csv")
    lines = {(row["method"], row["score"]): row for row in rows_of(file)}
    for row in comparison.rows:
        for key in COMPARED:
            line = lines[row.name, key]
            assert line["reference"] == "temperature"
            assert int(line["n"]) == comparison.n
            for name, score in (("value", row.scores), ("difference", row.differences)):
                assert float(line[name]) == score[key].value
            assert float(line["low"]) == row.scores[key].low
            assert float(line["difference_high"]) == row.differences[key].high


def test_every_format_has_both_p_values_and_says_how_to_read_them(comparison, tmp_path):
    files = write_comparison(comparison, tmp_path / "out")
    markdown, latex, _ = (file.read_text(encoding="utf-8") for file in files)
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
    for line in rows_of(files[2]):
        [row] = [row for row in comparison.rows if row.name == line["method"]]
        if row.p:
            assert float(line["p"]) == row.p[line["score"]]
            assert float(line["p_holm"]) == row.p_holm[line["score"]]
        how = ("seeds", "reference_seeds", "clusters", "resamples", "permutations", "seed")
        assert [line[name] for name in how] == ["1", "1", "", "30", "1999", "0"]
        assert line["holm_family"] == "2"
        kind = "reflected" if line["score"] == "ece" else "percentile"
        assert line["intervals"] == f"{kind} bootstrap over rows"


def test_what_exists_is_kept_unless_it_may_be_replaced(comparison, tmp_path):
    target = tmp_path / "table.tex"
    target.write_text("mine")
    write_comparison(comparison, tmp_path / "out")
    for out in (target, tmp_path / "out"):
        with refused("exists"):
            write_comparison(comparison, out)
        write_comparison(comparison, out, overwrite=True)
    assert "tabular" in target.read_text(encoding="utf-8")
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    for place, foreign in ((tmp_path, "comparison.json"), (tmp_path / "out", "thesis.tex")):
        with refused("exists", foreign):
            write_comparison(comparison, place, overwrite=True)


def test_wrong_targets_are_named(tmp_path):
    with refused("input", "'.txt'", ".md", ".tex", ".csv"):
        comparison_files(tmp_path / "table.txt")
    (tmp_path / "plain").write_text("")
    with refused("input", "plain"):
        comparison_files(tmp_path / "plain")
