"""Which functions a row passes on its way from a file to the tokenizer.

`python -m benchmarks.row_path` predicts a file of one row with a tiny model, and lists the
functions of `bayeslora` that are given the row or that return it, in the order of their calls. A
comprehension counts as part of its function.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import bayeslora
from bayeslora.classifier import BayesianClassifier
from tests.tiny import tiny_bert, toy_rows

MARK = "xylophone"
_PACKAGE = str(Path(bayeslora.__file__).parent)


def holds(value: Any) -> bool:
    """Return whether a value contains the row."""
    if isinstance(value, str | bytes):
        return (MARK.encode() if isinstance(value, bytes) else MARK) in value
    if is_dataclass(value) and not isinstance(value, type):
        return any(holds(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return any(map(holds, value.values()))
    if type(value).__module__.startswith("pyarrow"):
        return MARK in str(getattr(value, "to_pylist", lambda: "")())
    return isinstance(value, list | tuple | set | frozenset) and any(map(holds, value))


def functions_passed(folder: Path) -> list[str]:
    """Return the names of the functions that a row passes before the tokenizer, in order."""
    train, row = folder / "train.jsonl", folder / "one-row.csv"
    train.write_text("\n".join(map(json.dumps, toy_rows(24))))
    row.write_text(f"text,label\n{MARK} dog barks,animals\n")
    options: dict[str, Any] = {"adapter": "none", "posterior": "mle", "progress": False}
    classifier = BayesianClassifier(tiny_bert(folder / "backbone"), **options)
    classifier.fit(train)
    passed: dict[str, None] = {}

    def watch(frame: FrameType, event: str, returned: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == "__call__" and "tokenization" in code.co_filename:
            sys.setprofile(None)
        if event not in ("call", "return") or not code.co_filename.startswith(_PACKAGE):
            return
        if (event == "return" and holds(returned)) or (event == "call" and holds(frame.f_locals)):
            name = code.co_qualname.split(".<locals>.<")[0]
            passed[f"{Path(code.co_filename).relative_to(_PACKAGE)}: {name}"] = None

    sys.setprofile(watch)
    classifier.predict(row)
    sys.setprofile(None)
    return list(passed)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        names = functions_passed(Path(folder))
    print("\n".join(names), len(names), sep="\n")
