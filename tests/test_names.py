"""Variables are named after what they are: no `found`, no `one`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = frozenset(
    {"one", "found", "told", "given", "asked", "said", "kept", "held", "wanted", "gone"}
)


def bound(source):
    """Return the forbidden names that a module binds, with their lines; fields are in files."""
    tree = ast.parse(source)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    fields = {
        part.target for node in classes for part in node.body if isinstance(part, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        if node in fields:
            continue
        is_stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        name = node.id if is_stored else getattr(node, "arg", None)
        if name in FORBIDDEN and not isinstance(node, ast.keyword):
            yield name, node.lineno


@pytest.mark.parametrize("folder", ["bayeslora", "benchmarks", "tests"])
def test_no_variable_is_called_so(folder):
    assert {
        str(file.relative_to(ROOT)): names
        for file in (ROOT / folder).rglob("*.py")
        if (names := [*bound(file.read_text(encoding="utf-8"))])
    } == {}


def test_the_check_finds_variables_arguments_and_targets():
    source = "def f(told, *, held=1):\n    found = [one for one in told]\n    g(asked=found)\n"
    assert [*bound(source)] == [("told", 1), ("held", 1), ("found", 2), ("one", 2)]
