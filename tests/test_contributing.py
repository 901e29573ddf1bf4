"""CONTRIBUTING.md names files and commands that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BUILT = {"docs/_build/html"}
PATHS = {
    *re.findall(r"\]\(([^)#]+)[#)]", GUIDE),
    *re.findall(r"`((?:tests|bayeslora|docs)/[\w./]+)`", GUIDE),
} - BUILT


@pytest.mark.parametrize("path", sorted(PATHS))
def test_files_that_it_names_exist(path):
    assert (ROOT / path).exists()


def test_commands_that_it_names_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([\w-]+)", GUIDE)) <= targets
