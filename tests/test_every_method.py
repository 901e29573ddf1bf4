"""What every built-in method has: a public name, a page, cells in the matrix, laws, and a contract.

Their lists stand in other files, so that a new method that is missing in one is found here.
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
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*")  # not a part of a name, such as SST-2's


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
    found = json.loads((TESTS / "classifier" / "compatibility.json").read_text(encoding="utf-8"))
    pairs = {tuple(cell.split()[:2]) for cell in found}
    assert pairs == {(adapter, posterior) for adapter in ADAPTERS for posterior in POSTERIORS}


def test_a_posterior_keeps_the_laws_of_its_kind():
    tried = set()
    for path in (TESTS / "posteriors").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any("Laws" in ast.unparse(b) for b in node.bases):
                tried |= set(re.findall(r"\w+", ast.unparse(node)))
    names = [cls.__name__ for cls in POSTERIORS.values()]
    # A posterior over weights is tried by its module, `TFBWeights` for one.
    assert [name for name in names if not {name, f"{name}Weights"} & tried] == []
