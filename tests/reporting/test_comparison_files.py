"""The paired comparison as Markdown, LaTeX and CSV."""

import csv

import pytest

from bayeslora.errors import InputError
from bayeslora.metrics.compare import COMPARED, compare
from bayeslora.reporting.comparison_files import comparison_files, write_comparison


@pytest.fixture(scope="module")
def comparison(methods):
    return compare(methods, reference="temperature", num_resamples=30)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_directory_gets_all_three(comparison, tmp_path):
    files = write_comparison(comparison, tmp_path / "tables")
    assert [file.name for file in files] == ["comparison.md", "comparison.tex", "comparison.csv"]
    markdown, latex, table = (file.read_text(encoding="utf-8") for file in files)
    assert "| temperature (reference) |" in markdown
    assert r"\begin{tabular}{lrrrr}" in latex
    assert r"\usepackage{booktabs}" in latex
    assert table.count("\n") == 1 + 3 * len(COMPARED)


def test_the_csv_has_every_number_to_the_last_digit(comparison, tmp_path):
    [file] = write_comparison(comparison, tmp_path / "out.csv")
    found = {(row["method"], row["score"]): row for row in rows_of(file)}
    for row in comparison.rows:
        for key in COMPARED:
            line = found[row.name, key]
            assert line["reference"] == "temperature"
            assert int(line["n"]) == comparison.n
            for name, score in (("value", row.scores), ("difference", row.differences)):
                assert float(line[name]) == score[key].value
            assert float(line["low"]) == row.scores[key].low
            assert float(line["difference_high"]) == row.differences[key].high


def test_distances_stand_in_the_csv(methods, tmp_path):
    found = compare(methods, distance_to="mle", num_resamples=5)
    [file] = write_comparison(found, tmp_path / "out.csv")
    lines = [row for row in rows_of(file) if row["score"] == "tv"]
    assert {row["reference"] for row in lines} == {"mle"}
    assert {row["difference"] for row in lines} == {""}
    assert any(float(row["value"]) > 0 for row in lines)


@pytest.mark.parametrize("suffix", [".md", ".tex", ".csv"])
def test_a_suffix_says_the_format(comparison, tmp_path, suffix):
    [file] = write_comparison(comparison, tmp_path / f"table{suffix}")
    assert file == tmp_path / f"table{suffix}"
    assert "temperature" in file.read_text(encoding="utf-8")


def test_names_stay_names(methods, tmp_path):
    hostile = [one.replace(name=f"a|b_{one.name}$\\x,") for one in methods]
    files = write_comparison(compare(hostile, num_resamples=5), tmp_path / "out")
    markdown, latex, _ = (file.read_text(encoding="utf-8") for file in files)
    assert "| a\\|b\\_mle\\$\\\\x, (reference) |" in markdown
    assert r"{a\textbar{}b\_mle\$\textbackslash{}x, (reference)}" in latex
    assert {row["method"] for row in rows_of(files[2])} == {one.name for one in hostile}


def test_what_exists_is_kept_unless_it_may_be_replaced(comparison, tmp_path):
    target = tmp_path / "comparison.tex"
    target.write_text("mine")
    for out in (target, tmp_path):
        with pytest.raises(InputError, match=r"comparison\.tex exists.*overwrite"):
            write_comparison(comparison, out)
    assert target.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]
    write_comparison(comparison, tmp_path, overwrite=True)
    assert "tabular" in target.read_text(encoding="utf-8")


def test_wrong_targets_are_named(tmp_path):
    with pytest.raises(InputError, match=r"suffix '\.txt'.*\.md, \.tex, \.csv"):
        comparison_files(tmp_path / "table.txt")
    (tmp_path / "plain").write_text("")
    with pytest.raises(InputError, match="plain is in the way"):
        comparison_files(tmp_path / "plain")
    (tmp_path / "comparison.md").mkdir()
    with pytest.raises(InputError, match=r"comparison\.md is in the way"):
        comparison_files(tmp_path, overwrite=True)
