"""The results of a study: a file of JSON lines, one row per cell, that several processes may write.

A cell is computed at once and never again, such as the scores of one fit. Its row has the columns
that identify it, the key of the study, and what was found. A row that is appended takes the place
of an earlier one of the same cell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.files import atomic_file, read_json
from bayeslora.locks import writing_to

FILE = "results.jsonl"
_PATIENCE = 60.0  # seconds

Row = dict[str, Any]


class Results:
    """The rows of a study.

    Args:
        folder: Of the study's report.
        key: Columns that identify a cell, in the order that rows are sorted by. A row that lacks
            one, as in a study with several kinds of rows, has None there.
    """

    def __init__(self, folder: Path, key: Sequence[str]) -> None:
        self.path = Path(folder) / FILE
        self.key = tuple(key)

    def rows(self, **columns: Any) -> list[Row]:
        """Return the last row of every cell whose columns have these values, sorted by key.

        A last line without an end, which a killed process left, is not there yet.

        Raises:
            InputError: A line is not a JSON object.
        """
        cells = {self._cell(row): row for row in self._lines()}
        rows = [cells[cell] for cell in sorted(cells, key=lambda cell: [*map(_order, cell)])]
        return [row for row in rows if columns.items() <= {c: row.get(c) for c in columns}.items()]

    def get(self, **columns: Any) -> Row | None:
        """Return the one row with these values, None where there is none.

        Raises:
            ValueError: Several cells have them.
        """
        found = self.rows(**columns)
        if len(found) > 1:
            raise ValueError(f"{self.path} has {len(found)} rows of {columns}")
        return found[0] if found else None

    def append(self, row: Row) -> None:
        """Add a row at once, after what other processes have added meanwhile.

        Raises:
            InputError: Another process has kept the file locked for a minute.
            ValueError: A number is not finite.
            OSError: The file cannot be written, as on a full disk; then it is as it was.
        """
        line = (_dumped(self._ordered(row)) + "\n").encode("utf-8")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing_to(self.path, wait=_PATIENCE) as is_locked:
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                # What follows the last whole line is a killed process's, if no other writes now.
                end = _end(self.path.read_bytes()) if is_locked else os.fstat(handle).st_size
                os.ftruncate(handle, end)
                if os.write(handle, line) < len(line):
                    os.ftruncate(handle, end)
                    raise OSError(f"{self.path} cannot be written: the disk is full")
            finally:
                os.close(handle)

    def sort(self) -> None:
        """Write the file anew, sorted by key, without rows that later ones took the place of."""
        if not self.path.is_file():
            return
        with writing_to(self.path, wait=_PATIENCE), atomic_file(self.path) as aside:
            lines = (_dumped(self._ordered(row)) + "\n" for row in self.rows())
            aside.write_text("".join(lines), encoding="utf-8")

    def _cell(self, row: Row) -> tuple[Any, ...]:
        return tuple(row.get(column) for column in self.key)

    def _ordered(self, row: Row) -> Row:
        return {column: row[column] for column in self.key if column in row} | row

    def _lines(self) -> Iterator[Row]:
        if not self.path.is_file():
            return
        data = self.path.read_bytes()
        lines = data[: _end(data)].decode("utf-8").split("\n")[:-1]
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise InputError(f"{self.path}, line {number}: not a JSON object")
            yield row


def import_cells(results: Results, folder: Path, levels: Sequence[str] = ()) -> dict[str, int]:
    """Append the cells of a folder with one JSON file each, and sort.

    A cell that is stored already gets the content of its file.

    Args:
        results: Where to.
        folder: With the files, in folders.
        levels: Columns that the names of nested folders are the values of, the outermost first; a
            column of the file itself goes before.

    Returns:
        How many cells were `new`, `changed` and `known`.

    Raises:
        InputError: There is no file, or a file lacks a column of the key.
    """
    counts = {"new": 0, "changed": 0, "known": 0}
    stored = {results._cell(row): row for row in results.rows()}
    files = sorted(Path(folder).rglob("*.json"))
    if not files:
        raise InputError(f"{folder} has no JSON files")
    rows = []
    for file in files:
        row = dict(zip(levels, file.relative_to(folder).parts[:-1], strict=False)) | read_json(file)
        if missing := [column for column in results.key if column not in row]:
            raise InputError(f"{file} has no {', '.join(missing)}")
        rows.append(row)
    for row in rows:
        known = stored.get(results._cell(row))
        kind = "new" if known is None else "known" if known == row else "changed"
        counts[kind] += 1
        if kind != "known":
            results.append(row)
    results.sort()
    return counts


def _order(value: Any) -> tuple[int, float, str]:
    """Return what sorts missing values before numbers, and numbers before text."""
    if value is None:
        return 0, 0.0, ""
    return (2, 0.0, value) if isinstance(value, str) else (1, value, "")


def _dumped(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _end(data: bytes) -> int:
    """Return the number of bytes up to the end of the last whole line."""
    return data.rfind(b"\n") + 1
