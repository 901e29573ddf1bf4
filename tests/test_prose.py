"""Tests of the English linter of the documentation (docs/prose.py)."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "docs" / "prose.py"


def lint(path):
    command = [sys.executable, str(SCRIPT), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [line.split(":")[1:3] for line in done.stdout.splitlines()]


def test_words_to_avoid_are_found_where_they_stand_but_not_in_code(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nIt is too sure.\n\n```\nIt is too sure.\n```\n\nSo is `too sure`.\n")
    status, places = lint(page)
    assert (status, [line for line, _ in places]) == (1, ["3"])
    page.write_text("# Page\n\nIt is overconfident.\n")
    assert lint(page) == (0, [])
