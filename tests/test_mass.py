"""How much there is to know about this package: limits that only fall.

`make mass` prints the table. A commit that earns a lower limit lowers it here; what adds names what
it replaces.
"""

import argparse
import ast
import inspect
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
import tomllib
from collections import Counter
from dataclasses import is_dataclass
from pathlib import Path

import bayeslora

ROOT = Path(__file__).parents[1]
LIMITS = {
    "code lines": 29347,
    "modules": 201,
    "per cent of code that imports": 11,
    "parameters of a public function": 12,
    "options of the command line": 203,
    "options of fit": 28,
    "modules that fit loads": 98,
    "modules that predict loads": 89,
    "functions that a row passes before the tokenizer": 19,
    "dependencies that nothing imports": 0,
    "words of the docs": 29747,
    "code lines of the tests": 26670,
    "code lines of the benchmarks": 2929,
}
ROOMS = {
    ".": 2432,
    "adapters": 1056,
    "backbones": 2143,
    "cli": 2091,
    "contrib": 1777,
    "data": 1688,
    "decisions": 887,
    "engine": 4048,
    "experiments": 1091,
    "metrics": 2282,
    "posteriors": 4177,
    "predictions": 1729,
    "recalibration": 792,
    "reporting": 2671,
    "testing": 483,
}
"""Code lines by folder; `.` for files outside of one."""

_NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}
_IMPORTED = {
    "annotated-types": "annotated_types",
    "pillow": "PIL",
    "pyro-ppl": "pyro",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
_COUNT_LOADED = """
import sys
from bayeslora.cli import main
code = main(sys.argv[1:])
print("\\n", sum(name.partition(".")[0] == "bayeslora" for name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


def measured(folder):
    """Return the figures of `LIMITS` and of `ROOMS`; `folder` takes a small model."""
    rooms, num_imports, names = Counter(), 0, set()
    paths = sorted((ROOT / "bayeslora").rglob("*.py"))
    for path in paths:
        code, imports, imported = _lines(path.read_text(encoding="utf-8"))
        room = path.relative_to(ROOT / "bayeslora").parts[0]
        rooms["." if room == path.name else room] += code
        num_imports += imports
        names |= imported
    options = _options()
    fit, predict = _loaded(folder)
    figures = {
        "code lines": rooms.total(),
        "modules": len(paths),
        "per cent of code that imports": round(100 * num_imports / rooms.total()),
        "parameters of a public function": max(map(_parameters, dir(bayeslora))),
        "options of the command line": sum(options.values()),
        "options of fit": options["fit"],
        "modules that fit loads": fit,
        "modules that predict loads": predict,
        "functions that a row passes before the tokenizer": _functions_passed(),
        "dependencies that nothing imports": len(_dependencies() - names),
        "words of the docs": _words(),
        "code lines of the tests": _lines_in("tests"),
        "code lines of the benchmarks": _lines_in("benchmarks"),
    }
    return figures, dict(sorted(rooms.items()))


def _lines_in(folder):
    paths = (ROOT / folder).rglob("*.py")
    return sum(_lines(path.read_text(encoding="utf-8"))[0] for path in paths)


def _lines(source):
    """Return the numbers of lines of code and of imports, and the packages imported.

    Docstrings, comments and blank lines are no code.
    """
    code, imports, names = set(), set(), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            code.difference_update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(range(node.lineno, node.end_lineno + 1))
            module = getattr(node, "module", None)
            names |= {module} if module else {name.name for name in node.names}
    return len(code), len(imports), {name.partition(".")[0] for name in names}


def _parameters(name):
    """Return the largest number of parameters of a public function, or of a class's methods."""
    value = getattr(bayeslora, name)
    functions = [value] if inspect.isfunction(value) else []
    if inspect.isclass(value):
        functions = [
            method
            for key, method in inspect.getmembers(value, inspect.isfunction)
            if not key.startswith("_") or (key == "__init__" and not is_dataclass(value))
        ]
    own = (each for each in functions if str(each.__module__).startswith("bayeslora"))
    return max((len(inspect.signature(each).parameters) for each in own), default=0)


def _options():
    """Return the number of each verb's own options, and of those that every verb has."""
    from bayeslora.cli import EVERYWHERE, build_parser

    (verbs,) = (
        action.choices
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    not_own = {"help", *EVERYWHERE}
    own = {
        name: sum(
            bool(action.option_strings) and action.dest not in not_own for action in verb._actions
        )
        for name, verb in verbs.items()
    }
    return {"every verb": len(EVERYWHERE), **own}


def _words():
    pages = [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
    return sum(len(page.read_text(encoding="utf-8").split()) for page in pages)


def _dependencies():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = (line.partition(">")[0] for line in content["project"]["dependencies"])
    return {_IMPORTED.get(name, name) for name in names}


def _loaded(folder):
    """Return the numbers of our modules after `fit` and after `predict`."""
    from tests.tiny import tiny_bert, toy_rows

    rows, model = folder / "rows.jsonl", folder / "model"
    rows.write_text("\n".join(map(json.dumps, toy_rows(24))))
    backbone = tiny_bert(folder / "backbone")
    for argv in (
        ("fit", rows, "--backbone", backbone, "--out", model, "--cv", "2", "--epochs", "1"),
        ("predict", model, rows, "--out", folder / "rows.parquet"),
    ):
        command = [sys.executable, "-c", _COUNT_LOADED, *map(str, argv)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        yield int(done.stderr.split()[-1])


def _functions_passed():
    """Return how many functions `benchmarks/row_path.py` counts."""
    command = [sys.executable, "-m", "benchmarks.row_path"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    return int(done.stdout.split()[-1])


def table(figures):
    return "\n".join(
        f"{value:>7} of {limit:>6}  {name}"
        for limits, values in zip((LIMITS, ROOMS), figures, strict=True)
        for name, value in values.items()
        for limit in [limits.get(name, 0)]
    )


def test_the_package_grows_no_heavier(tmp_path):
    figures = measured(tmp_path)
    print(table(figures))
    for limits, values in zip((LIMITS, ROOMS), figures, strict=True):
        assert values.keys() == limits.keys()
        assert {name: value for name, value in values.items() if value > limits[name]} == {}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(table(measured(Path(folder))))
