"""Every built-in method has a public name, a page, cells in the matrix, and laws.

These are in other files; a new method that is missing in one of them fails here.
"""

import ast
import json
import re
from pathlib import Path

import pytest

import bayeslora
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.posteriors.registry import POSTERIORS

TESTS = Path(__file__).parent
PAGES = TESTS.parent / "docs" / "methods"
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*")  # not part of a name such as SST-2


@pytest.mark.parametrize("cls", [*ADAPTERS.values(), *POSTERIORS.values()])
def test_its_options_have_a_public_name(cls):
    assert cls.__name__ in bayeslora.__all__


def test_it_has_a_page():
    for room, methods in (("adapters", ADAPTERS), ("posteriors", POSTERIORS)):
        assert {path.stem for path in (PAGES / room).glob("*.md")} == set(methods)


@pytest.mark.parametrize("cls", [*ADAPTERS.values(), *POSTERIORS.values()])
def test_it_says_when_to_use_it(cls):
    assert cls.use


@pytest.mark.parametrize("page", sorted(PAGES.glob("*/*.md")), ids=lambda page: page.stem)
def test_what_its_page_says_was_measured_stands_in_the_reports_that_it_links(page):
    _, _, rest = page.read_text(encoding="utf-8").partition("\n## Measured\n")
    section, _, _ = rest.partition("\n## ")
    reports = [page.parent / link for link in re.findall(r"\]\((\.\./[^)]*summary\.md)\)", section)]
    assert section.strip()
    measured = {
        number
        for report in reports
        for number in NUMBER.findall(report.read_text(encoding="utf-8"))
    }
    without_links = re.sub(r"\]\([^)]*\)", "]", section)
    assert set(NUMBER.findall(without_links)) - measured == set()


def test_it_has_cells_in_the_matrix():
    cells = json.loads((TESTS / "classifier" / "compatibility.json").read_text(encoding="utf-8"))[
        "cells"
    ]
    pairs = {tuple(cell.split()[:2]) for cell in cells}
    assert pairs >= {(adapter, posterior) for adapter in ADAPTERS for posterior in POSTERIORS}


def test_sites_keep_the_laws_of_adapters():
    """Posterior suites use the registry; an adapter's site needs a suitable host instead."""
    tried = set()
    for path in (
        path for room in ("adapters", "contrib") for path in (TESTS / room).glob("test_*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                tried |= set(re.findall(r"config = (\w+)\(", ast.unparse(node)))
    # The sites of ILoRA depend on a gate set by a row's context; AMT uses LoRA's sites.
    others = {"ILoRA", "AMT"}
    assert {cls.__name__ for cls in ADAPTERS.values() if cls().has_sites} <= tried | others
