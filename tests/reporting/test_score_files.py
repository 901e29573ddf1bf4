"""Cells of CSV files run no formula and are read back unchanged."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslora.reporting.report import report
from bayeslora.reporting.score_files import quoted, read_rows, unquoted, write_rows

pytestmark = pytest.mark.usefixtures("blank_figures")

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝")


@given(st.text() | st.builds(str.__add__, st.sampled_from([*STARTS, "'", "'="]), st.text()))
def test_text_is_quoted_and_read_back(cell):
    shown = quoted(cell)
    assert unquoted(shown) == cell
    if shown.startswith(STARTS):
        float(shown)


@pytest.mark.parametrize("number", ["-0.1", "-1e-05", "+3", "-inf", "0.25", "12"])
def test_numbers_stay_numbers(number):
    assert quoted(number) == number


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_a_written_row_is_read_by_any_reader(cells):
    stream = io.StringIO(newline="")
    write_rows(stream, [[*cells, 1, -0.5]])
    [row] = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    assert [unquoted(cell) for cell in row] == [*cells, "1", "-0.5"]


def test_hostile_names_in_a_report(make, tmp_path):
    classes = ("=1+1", "@SUM(A1)", "-2+3", "plain")
    predictions = make("=cmd|' /C calc'!A0", classes=classes)
    page = report(predictions, out=tmp_path / "report", by_class=True, num_resamples=5)
    path = page.parent / "scores.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+")) or cell == "-2+3"]
    rows = read_rows(path)
    assert {row["name"] for row in rows} == {"=cmd|' /C calc'!A0"}
    assert {row["part"] for row in rows if row["by"] == "class"} >= set(classes)
