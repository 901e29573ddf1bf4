"""docs/reports.md lists every drawing."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")


def table(section):
    """Return the body rows of the first table under a heading."""
    lines = TEXT.split(f"## {section}\n")[1].split("\n## ")[0].splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def stem(name):
    """Return the name of a drawing without numbers."""
    return re.sub(r"\d+", "1", name)


def test_every_drawing_is_listed_and_no_other(made):
    listed = {stem(name) for row in table("Drawings") for name in re.findall("`([^`]+)`", row[0])}
    assert {stem(file.stem) for file in (made / "figures").iterdir()} == listed
