"""CSV that people open in a spreadsheet: no cell of it runs as a formula.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, also after a tab or
a line break, and a class or a method can be called `=HYPERLINK(…)`. Such text gets an apostrophe in
front, which spreadsheets read as "this is text"; numbers stay numbers. `read_rows` takes it away.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

# Apostrophes count too, so that a name that has them itself is read back unchanged.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_SPECIAL = re.compile(r'[,"\r\n]')


def write_rows(stream: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """Write rows of text and numbers; the stream is opened with `newline=""`."""
    for row in rows:
        # Not csv.writer: with line feeds between rows it leaves a carriage return unquoted.
        stream.write(",".join(_escaped(quoted(str(cell))) for cell in row) + "\n")


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a `scores.csv` or `comparison.csv` as text by column."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return [
            {name: unquoted(cell) for name, cell in row.items()} for row in csv.DictReader(stream)
        ]


def quoted(cell: str) -> str:
    """Return a cell with an apostrophe in front where a spreadsheet would take it for a formula."""
    return f"'{cell}" if _FORMULA.match(cell) and not _is_number(cell) else cell


def unquoted(cell: str) -> str:
    """Return what `quoted` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _escaped(cell: str) -> str:
    return '"{}"'.format(cell.replace('"', '""')) if _SPECIAL.search(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
