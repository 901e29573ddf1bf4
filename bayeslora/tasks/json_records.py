"""JSON lines and JSON lists as tables, with the line on which each record begins."""

from __future__ import annotations

import json
import re
from typing import Any

from bayeslora.errors import InputError
from bayeslora.tasks.messages import shown
from bayeslora.tasks.tables import Table, table_from_records

_SPACE = re.compile(r"[ \t\r\n]*")


def json_lines(text: str, source: str) -> Table:
    """Return the table of one JSON object a line; blank lines are passed over.

    Args:
        text: The lines.
        source: What messages call them.

    Raises:
        InputError: A line is not JSON, or not an object.
    """
    numbered = [(row, line) for row, line in enumerate(text.split("\n"), 1) if line.strip()]
    records = []
    for row, line in numbered:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{source}, row {row}: broken JSON ({_reason(error)}) in {shown(line)}; "
                "one object a line is expected"
            ) from None
    return table_from_records(records, [row for row, _ in numbered], source)


def json_list(text: str, source: str) -> Table:
    """Return the table of a JSON list of objects.

    The objects are parsed one by one, to know the line on which each begins.

    Args:
        text: The whole list, from its opening bracket, with white space around it.
        source: What messages call it.

    Raises:
        InputError: The list is broken, or has something other than objects.
    """
    decoder = json.JSONDecoder()
    records: list[Any] = []
    rows: list[int] = []
    line, counted = 1, 0
    position = _skip(text, text.index("[") + 1)
    more = not text.startswith("]", position)
    while more:
        line, counted = line + text.count("\n", counted, position), position
        try:
            record, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}, row {line}: broken JSON ({_reason(error)})") from None
        records.append(record)
        rows.append(line)
        position = _skip(text, position)
        more = text.startswith(",", position)
        if more:
            position = _skip(text, position + 1)
        elif not text.startswith("]", position):
            raise InputError(f"{source}, row {line}: broken JSON (no ',' or ']' after this object)")
    if _skip(text, position + 1) < len(text):
        raise InputError(f"{source}: broken JSON (there is more text after the list)")
    return table_from_records(records, rows, source)


def _skip(text: str, position: int) -> int:
    """Return the place of the first character from `position` on that is not JSON white space."""
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
