"""Modules named in the docs exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("page", sorted(PAGES))
def test_modules_that_a_page_names_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = {*re.findall(r"`((?:\w+/)+\w+\.py)`", text)}
    theirs = {path for path in paths if path.startswith(("acme_methods/", "tests/test_"))}
    missing = [
        path
        for path in paths - theirs
        if not any((ROOT / room / path).exists() for room in ("", "bayeslora"))
    ]
    assert missing == []
    imports = set(re.findall(r"(?:from|import) (bayeslora(?:\.\w+)+)", text))
    assert [name for name in imports if not module_exists(name)] == []


def module_exists(name):
    place = ROOT.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").exists()
