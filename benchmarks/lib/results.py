"""Results of a study: a file of JSON lines, one row per cell, writable by several processes.

A cell is the unit of computation, such as the scores of one fit, and is computed once. Its row has
the columns that identify it, the key of the study, and the results. An appended row replaces an
earlier row of the same cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bayeslora.experiments.summary import sort_key
from bayeslora.io import atomic_file, lock

FILE = "results.jsonl"
_PATIENCE = 60.0  # seconds

Row = dict[str, Any]


class Results:
    """The rows of a study.

    Args:
        folder: Directory of the study's report.
        key: Columns that identify a cell, in sort order. A column may be missing, as in a study
            with several kinds of rows; its value is then None.
    """

    def __init__(self, folder: Path, key: Sequence[str]) -> None:
        self.path = Path(folder) / FILE
        self.key = tuple(key)

    def rows(self, **columns: Any) -> list[Row]:
        """Return the last row of every cell whose columns have these values, sorted by key.

        An incomplete last line, left by a killed process, is ignored.
        """
        cells = {self._cell(row): row for row in self._lines()}
        rows = [cells[cell] for cell in sorted(cells, key=lambda cell: [*map(sort_key, cell)])]
        return [row for row in rows if columns.items() <= {c: row.get(c) for c in columns}.items()]

    def get(self, **columns: Any) -> Row | None:
        """Return the row with these values, or None if there is none.

        Raises:
            ValueError: If several cells match.
        """
        rows = self.rows(**columns)
        if len(rows) > 1:
            raise ValueError(f"{self.path} has {len(rows)} rows of {columns}")
        return rows[0] if rows else None

    def append(self, row: Row) -> None:
        """Append a row, after rows appended by other processes.

        Raises:
            InputError: If another process has locked the file for a minute.
            ValueError: If a number is not finite.
        """
        line = (_dumped(self._ordered(row)) + "\n").encode("utf-8")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with lock(self.path, wait=_PATIENCE), self.path.open("ab") as file:
            # With the lock, an incomplete last line must come from a killed process.
            file.truncate(_end(self.path.read_bytes()))
            file.write(line)

    def sort(self) -> None:
        """Rewrite the file, sorted by key, without replaced rows."""
        if not self.path.is_file():
            return
        with lock(self.path, wait=_PATIENCE), atomic_file(self.path) as temporary:
            lines = (_dumped(self._ordered(row)) + "\n" for row in self.rows())
            temporary.write_text("".join(lines), encoding="utf-8")

    def _cell(self, row: Row) -> tuple[Any, ...]:
        return tuple(row.get(column) for column in self.key)

    def _ordered(self, row: Row) -> Row:
        return {column: row[column] for column in self.key if column in row} | row

    def _lines(self) -> Iterator[Row]:
        if not self.path.is_file():
            return
        data = self.path.read_bytes()
        lines = data[: _end(data)].decode("utf-8").split("\n")[:-1]
        yield from map(json.loads, lines)


def _dumped(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _end(data: bytes) -> int:
    """Return the number of bytes up to the end of the last complete line."""
    return data.rfind(b"\n") + 1
