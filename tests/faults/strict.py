"""Independent readers of the documented formats that accept nothing doubtful.

They share no code with the package. A file that a reader refuses and a command accepts is a
silent acceptance; if both accept it, the values must agree.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NOT_READ = {"prediction", "confidence"}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"(0|-?[1-9][0-9]*)(\.0)?", re.ASCII)


class Refused(ValueError):  # noqa: N818 - an answer, not a fault
    """A strict reader refuses the file."""


@dataclass(frozen=True)
class Data:
    """Rows of a data file: ids (None without that column), texts, labels (None if missing)."""

    ids: list[str] | None
    texts: list[str]
    labels: list[str | None]


@dataclass(frozen=True)
class Table:
    """Predictions: ids, class names, label indices (-1 if missing) and probabilities."""

    ids: list[str] | None
    classes: list[str]
    labels: list[int]
    probs: list[list[float]]


def records(path: Path) -> list[dict[str, Any]]:
    """Return the rows of any data or predictions file.

    Raises:
        Refused: The file is not well-formed.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return _parquet(path)
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
        if kind in {".csv", ".tsv"}:
            return _delimited(text, "\t" if kind == ".tsv" else ",")
        if kind == ".json" and text.lstrip().startswith("["):
            return _objects(_loads(text))
        return _lines(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise Refused(str(error)[:200]) from None


def _lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of JSON lines; in old files a lone carriage return ends a line."""
    try:
        return _objects([_loads(line) for line in text.split("\n") if line.strip()])
    except ValueError:
        return _objects([_loads(line) for line in text.splitlines() if line.strip()])


def data(path: Path) -> Data:
    """Return the rows of a data file with `text`, and `label` and `id` if they exist."""
    rows = records(path)
    texts = [row.get("text") for row in rows]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise Refused("a text is missing, blank or no string")
    labels = [row.get("label") for row in rows]
    for label in labels:
        whole = isinstance(label, int | float) and math.isfinite(label) and label == int(label)
        good = label is None or (isinstance(label, str) and label.strip()) or whole
        if isinstance(label, bool) or not good:
            raise Refused(f"label {label!r:.50}")
    named = [None if label is None else _label(label) for label in labels]
    ids = [row.get("id") for row in rows]
    if all(name is None for name in ids):
        _check_text([*texts, *filter(None, named)])
        return Data(None, texts, named)
    if any(isinstance(name, bool) or not isinstance(name, str | int) for name in ids):
        raise Refused("an id is missing or no string")
    names = [str(name) for name in ids]
    if len(set(names)) < len(names):
        raise Refused("ids repeat")
    _check_text([*names, *texts, *filter(None, named)])
    return Data(names, texts, named)


def predictions(path: Path) -> Table:
    """Return the rows of a predictions file with `prob_<class>` columns."""
    rows = records(path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    classes = [name.removeprefix("prob_") for name in names if name.startswith("prob_")]
    logits = [name for name in names if name.startswith("logit_")]
    if len(classes) < 2 or logits or "" in classes:
        raise Refused("no probabilities")
    probs = [[_number(row.get(f"prob_{name}")) for name in classes] for row in rows]
    for row in probs:
        if not all(0 <= value <= 1 + 1e-5 for value in row) or abs(math.fsum(row) - 1) > 1.01e-5:
            raise Refused("no probabilities")
    labels = _indices([row.get("label") for row in rows], classes)
    if "id" not in names:
        return Table(None, classes, labels, probs)
    ids = [_name(row.get("id")) for row in rows]
    if len(set(ids)) < len(ids):
        raise Refused("ids repeat")
    _check_text([*ids, *classes])
    return Table(ids, classes, labels, probs)


def _name(value: Any) -> str:
    """Return an id as text; 3.0 is 3, since programs write integers in a column with gaps so."""
    if not isinstance(value, str | int | float):
        raise Refused("an id is missing or no string")
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def _label(value: Any) -> str:
    return value if isinstance(value, str) else str(int(value))


def _indices(labels: Sequence[Any], classes: list[str]) -> list[int]:
    """Return label indices; labels are names if any of them is a class, otherwise indices."""
    texts = [None if label is None else _text_label(label) for label in labels]
    if any(text in classes for text in texts if text is not None):
        if any(text is not None and text not in classes for text in texts):
            raise Refused("a label is no class")
        return [-1 if text is None else classes.index(text) for text in texts]
    indices = []
    for text in texts:
        if text is not None and not _INTEGER.fullmatch(text):
            raise Refused(f"label {text!r:.50}")
        index = -1 if text is None else int(text.removesuffix(".0"))
        if text is not None and not 0 <= index < len(classes):
            raise Refused(f"label {text!r:.50}")
        indices.append(index)
    return indices


def _text_label(label: Any) -> str:
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        raise Refused(f"label {label!r:.50}")
    return label if isinstance(label, str) else repr(label)


def _number(value: Any) -> float:
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise Refused(f"number {value!r:.50}")
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(f"number {value!r:.50}")
    return float(value)


def _loads(text: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in items}) < len(items):
            raise Refused("a key twice")
        return dict(items)

    return json.loads(text, object_pairs_hook=pairs)


def _objects(rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise Refused("no rows, or a row is no object")
    return rows


def _delimited(text: str, delimiter: str) -> list[dict[str, Any]]:
    csv.field_size_limit(1 << 30)
    rows = [
        row
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        if row
    ]
    if len(rows) < 2 or len(set(rows[0])) < len(rows[0]):
        raise Refused("no rows, or a column twice")
    if any(len(row) != len(rows[0]) for row in rows):
        raise Refused("rows differ in length")
    return [dict(zip(rows[0], (cell or None for cell in row), strict=True)) for row in rows[1:]]


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise Refused("a column twice")
            # Redundant columns of predictions are written but not read.
            table = file.read([name for name in names if name not in _NOT_READ])
        table.validate(full=True)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise Refused(str(error)[:200]) from None
    return _objects(rows)


def _check_text(texts: Sequence[str]) -> None:
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise Refused("half a surrogate pair")
