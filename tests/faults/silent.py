"""Compare a command's result on a file with that of an independent strict reader."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from . import strict, world
from .process import Outcome, run

Check = Callable[[Path, str, Outcome], str]
"""Called with room, file and an outcome with exit code 0; returns the mistake, or ''."""


_Read = TypeVar("_Read")
_Reader = Callable[[Path, str, Outcome, _Read], str]


def _after(strictly: Callable[[Path], _Read]) -> Callable[[_Reader[_Read]], Check]:
    """Return a decorator for checks that first calls the strict reader."""

    def begun(reader: _Reader[_Read]) -> Check:
        def check(room: Path, file: str, outcome: Outcome) -> str:
            try:
                expected = strictly(room / file)
            except strict.Refused as reason:
                return f"accepted, though {reason}"
            return reader(room, file, outcome, expected)

        return check

    return begun


as_data = _after(strict.data)
as_predictions = _after(strict.predictions)


def predicted(room: Path, _: str, outcome: Outcome, data: strict.Data) -> str:
    """Compare ids, labels and probabilities with those from a clean copy of the strict rows."""
    numbers = list(map(str, range(len(data.texts))))
    rows = [
        {"id": name, "text": text, "label": label}
        for name, text, label in zip(data.ids or numbers, data.texts, data.labels, strict=True)
    ]
    clean = room / "clean.jsonl"
    clean.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    again = run(("predict", "model", "clean.jsonl", "--out", "clean.parquet", *world.PREDICT), room)
    if again.code:
        return f"a clean copy is refused: {again.err[-200:]}"
    ours, theirs = table(room / "out.parquet"), table(room / "clean.parquet")
    if data.ids is None:
        for row in (*ours, *theirs):
            del row["id"]
    return "" if ours == theirs else "other values than from a clean copy of the rows"


def fitted(room: Path, _: str, outcome: Outcome, data: strict.Data) -> str:
    """Compare the number of rows and the classes of a fitted model."""
    record = json.loads((room / "out" / "bayeslora.json").read_text(encoding="utf-8"))
    if record["num_train"] != len(data.texts):
        return f"fitted to {record['num_train']} of {len(data.texts)} rows"
    names, labels = record["classes"], set(map(str, data.labels))
    # Labels of a finished classifier may be its indices.
    if not labels <= {*names} and not labels <= {*map(str, range(len(names)))}:
        return f"classes {record['classes']} of labels {sorted(set(map(str, data.labels)))}"
    return ""


def evaluated(_: Path, __: str, outcome: Outcome, expected: strict.Table) -> str:
    """Compare accuracy and NLL with those of the strict rows."""
    scores = json.loads(outcome.out)
    scores = scores[0] if isinstance(scores, list) else scores
    pairs = [
        (row, label)
        for row, label in zip(expected.probs, expected.labels, strict=True)
        if label >= 0
    ]
    if scores["num_classes"] != len(expected.classes):
        return f"{scores['num_classes']} of {len(expected.classes)} classes"
    right = sum(row[label] == max(row) and row.index(max(row)) == label for row, label in pairs)
    nll = -sum(math.log(max(row[label] / math.fsum(row), 1e-12)) for row, label in pairs)
    for key, value in (("accuracy", right), ("nll", nll)):
        actual = scores["scores"][key]["value"]
        if not math.isclose(actual, value / len(pairs), rel_tol=1e-9, abs_tol=1e-12):
            return f"{key} {actual} in place of {value / len(pairs)}"
    return ""


def converted(room: Path, _: str, outcome: Outcome, expected: strict.Table) -> str:
    """Compare the written rows, value by value."""
    return _same_rows(table(room / "out.parquet"), expected, with_probs=True)


def applied(room: Path, _: str, outcome: Outcome, expected: strict.Table) -> str:
    """Compare ids and labels of the written rows."""
    return _same_rows(table(room / "out.parquet"), expected, with_probs=False)


def taken(room: Path, file: str, outcome: Outcome, expected: strict.Table) -> str:
    """Accept: the strict reader accepted the file too."""
    return ""


def unchanged(room: Path, _: str, outcome: Outcome) -> str:
    """Compare predictions of a changed model with those of the original model."""
    same = table(room / "out.parquet") == table(room / "test.parquet")
    return "" if same else "other predictions than before the change"


def table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file of ours."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        rows: list[dict[str, Any]] = file.read().to_pylist()
    return rows


def _same_rows(rows: list[dict[str, Any]], expected: strict.Table, *, with_probs: bool) -> str:
    if len(rows) != len(expected.probs):
        return f"{len(rows)} rows of {len(expected.probs)}"
    for number, (row, probs, label) in enumerate(
        zip(rows, expected.probs, expected.labels, strict=True)
    ):
        name = expected.classes[label] if label >= 0 else None
        if row.get("label") != name:
            return f"row {number + 1}: label {row.get('label')!r} in place of {name!r}"
        if expected.ids is not None and row["id"] != expected.ids[number]:
            return f"row {number + 1}: id {row['id']!r} in place of {expected.ids[number]!r}"
        total = math.fsum(probs)
        for class_name, value in zip(expected.classes, probs, strict=True):
            actual = row[f"prob_{class_name}"]
            if with_probs and not math.isclose(actual, value / total, rel_tol=1e-9, abs_tol=1e-300):
                return f"row {number + 1}: {actual} in place of {value / total}"
    return ""
