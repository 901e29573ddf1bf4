"""Cells of CSV files run no formula."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslora.plain_text import clean
from bayeslora.reporting.report import report, write_rows

pytestmark = pytest.mark.usefixtures("blank_figures")

STARTS = ("=", "+", "-", "@", "＝")


def written(cells):
    stream = io.StringIO(newline="")
    write_rows(stream, [cells])
    return next(csv.reader(io.StringIO(stream.getvalue(), newline="")))


@given(st.lists(st.text() | st.builds(str.__add__, st.sampled_from(STARTS), st.text()), min_size=1))
def test_text_is_on_one_line_and_no_formula(cells):
    for cell, shown in zip(cells, written(cells), strict=True):
        assert shown.removeprefix("'") == (cell and clean(cell)).removeprefix("'")
        if shown.startswith(STARTS):
            float(shown)


def test_numbers_stay_numbers():
    cells = [-0.1, -1e-05, float("-inf"), 12, float("nan"), "-1", "+3"]
    assert written(cells) == ["-0.1", "-1e-05", "-inf", "12", "", "-1", "+3"]


def test_hostile_names_in_a_report(make, tmp_path):
    classes = ("=1+1", "@SUM(A1)", "-2+3", "plain")
    predictions = make("=cmd|' /C calc'!A0", classes=classes)
    page = report(predictions, out=tmp_path / "report", by_class=True, num_resamples=5)
    with (page.parent / "scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+")) or cell == "-2+3"]
    assert {row["name"] for row in rows} == {"'=cmd|' /C calc'!A0"}
    parts = {row["part"] for row in rows if row["by"] == "class"}
    assert parts == {"'=1+1", "'@SUM(A1)", "'-2+3", "plain"}
