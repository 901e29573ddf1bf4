"""Examples in docstrings match the code; examples that need a model are skipped."""

import doctest
import importlib
from pathlib import Path

import pytest

import bayeslora

PACKAGE = Path(bayeslora.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert done.attempted > 0
    assert done.failed == 0


def test_examples_are_found():
    assert "bayeslora.links" in MODULES


def test_templates_in_docstrings_keep_their_line_breaks():
    """In single backticks the site would drop the backslash of `\\n`."""
    text = bayeslora.BayesianClassifier.__init__.__doc__
    assert text.count(r"\n") == text.count(r"{text}\n") == 2
    assert all(f'``"{word}: {{text}}\\n' in text for word in ("Text", "Review"))
