"""Try that each side method can be deleted: `python -m tests.contrib.deletable [METHOD…]`.

For each method, a copy of the checkout loses what belongs to it alone: its file or folder, its line
in the list that the registry reads, its page, its entries in the documentation, and its
tests. Generated parts of pages are written again, and what is left of `make test` runs: ruff,
mypy, the import contracts, the tests. A line per method says `ok`, or what failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
METHODS = ("amt", "attacks", "corda", "emtal", "ilora", "lisa", "s2ft")
NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv", "_build", "*.egg-info", "__pycache__", ".hypothesis"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache"),
)


def without(method: str, copy: Path) -> None:
    """Delete a method from a copy of the checkout."""
    contrib = copy / "bayeslora" / "contrib"
    for path in (
        contrib / method,
        contrib / f"{method}.py",
        copy / "docs" / "methods" / "adapters" / f"{method}.md",
        *(copy / "tests" / "contrib").glob(f"test_{method}*.py"),
    ):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    listed = contrib / "__init__.py"
    content = listed.read_text(encoding="utf-8")
    entry = re.search(rf' {{4}}"{method}": "[\w.]+:(\w+)",\n', content)
    if entry:
        listed.write_text(content.replace(entry[0], ""), encoding="utf-8")
        _edit(
            copy / "docs" / "api" / "adapters.md", rf"\.\. autoclass:: bayeslora\.{entry[1]}\n.*\n"
        )
    for page in [*copy.glob("*.md"), *(copy / "docs").rglob("*.md")]:
        _edit(page, rf"\[([^\]]*)\]\([^)]*\b{method}\.(?:md|py)[^)]*\)", r"\1")
        _edit(page, rf"(?m)^.*contrib[./]{method}\b.*\n")
    for name in ("slow.txt", "nightly.txt"):
        _edit(copy / "tests" / name, rf"(?m)^contrib/test_{method}.*\n")


def _edit(path: Path, pattern: str, new: str = "") -> None:
    content = path.read_text(encoding="utf-8")
    changed = re.sub(pattern, new, content)
    if changed != content:
        path.write_text(changed, encoding="utf-8")


def tried(method: str, arguments: list[str]) -> str:
    """Return `ok` with numbers, or the end of what failed without a method."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        without(method, copy)
        environment = os.environ | {"PYTHONPATH": str(copy)}
        pytest = ["-m", "pytest", "-p", "no:cacheprovider", "-m", "not nightly", *arguments]
        for words in (
            [sys.executable, "docs/tables.py"],
            [sys.executable, "tests/cli/test_cli_wording.py"],
            [sys.executable, "-m", "ruff", "check", "."],
            [sys.executable, "-m", "mypy"],
            [str(Path(sys.executable).with_name("lint-imports"))],
            [sys.executable, *pytest],
        ):
            done = subprocess.run(
                words, cwd=copy, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                return f"failed: {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    last = done.stdout.strip().splitlines()[-1].strip("= ")
    return f"ok ({last}, {time.perf_counter() - start:.0f} s)"


def main(words: list[str]) -> int:
    """Try the named methods, or all; what follows `--` is passed to pytest."""
    names, arguments = words, []
    if "--" in words:
        place = words.index("--")
        names, arguments = words[:place], words[place + 1 :]
    results = []
    for method in names or METHODS:
        results.append(tried(method, arguments))
        print(method, results[-1], flush=True)
    return 0 if all(result.startswith("ok") for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
