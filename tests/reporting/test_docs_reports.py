"""docs/reports.md lists every drawing."""

import re
from pathlib import Path

import pytest

from bayeslora.reporting.report import report

pytestmark = pytest.mark.usefixtures("blank_figures")

TEXT = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")


def table(section):
    """Return the body rows of the first table under a heading."""
    lines = TEXT.split(f"## {section}\n")[1].split("\n## ")[0].splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def stem(name):
    """Return the name of a drawing without numbers."""
    return re.sub(r"\d+", "1", name)


def test_every_drawing_is_listed_and_no_other(made, make, tmp_path):
    listed = {stem(name) for row in table("Drawings") for name in re.findall("`([^`]+)`", row[0])}
    worse = make("m", rows=30, metadata={"corruption": "typos", "severity": "1"})
    page = report(make("m", rows=30), shifted=worse, out=tmp_path / "out", num_resamples=2)
    folders = (made / "figures", page.parent / "figures")
    assert {stem(file.stem) for folder in folders for file in folder.iterdir()} == listed
