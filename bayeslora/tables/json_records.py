"""Iterate over records of JSON lines and JSON lists, with the line on which each begins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from bayeslora.errors import InputError
from bayeslora.plain_text import shown
from bayeslora.tables.reading import ROW_LIMIT
from bayeslora.tables.source import Source, too_long

Record = dict[str, Any]

_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_PART = 2**18  # characters


def json_records(source: Source, rows: list[int]) -> Iterator[Record]:
    """Yield each object, and append the line on which it begins to `rows`.

    A file whose first character is `[` is a list; other files have one object per line, and blank
    lines are skipped.

    Raises:
        InputError: The file is not UTF-8, JSON or a sequence of objects; an object has a repeated
            key or half a surrogate pair, or is longer than `ROW_LIMIT`. The message names the row.
    """
    return _from_list(source, rows) if _is_list(source) else _from_lines(source, rows)


def _is_list(source: Source) -> bool:
    with source.text("\n") as stream:
        text = _Window(stream)
        text.skip_space()
        return text.peek() == "["


def _from_lines(source: Source, rows: list[int]) -> Iterator[Record]:
    parse = _Parser()
    for row, line in enumerate(source.lines(), 1):
        text = line.strip(" \t\r\n")
        if not text:
            continue
        try:
            record = parse(text)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{source}, row {row}: invalid JSON ({_reason(error)}) in {shown(text)}; "
                "expected one object per line"
            ) from None
        if type(record) is not dict or "\\u" in text:
            _check(source, row, record, text)
        rows.append(row)
        yield record


def _from_list(source: Source, rows: list[int]) -> Iterator[Record]:
    """Parse objects one at a time, to limit memory and to know the line of each."""
    with source.text("\n") as stream:
        text = _Window(stream)
        row = 1 + text.skip_space()
        text.take("[")
        row += text.skip_space()
        more = not text.take("]")
        while more:
            try:
                record, end = text.decode()
            except (ValueError, RecursionError) as error:
                raise InputError(f"{source}, row {row}: invalid JSON ({_reason(error)})") from None
            raw = text.advance(end)
            _check(source, row, record, raw)
            rows.append(row)
            yield record
            lines = raw.count("\n") + text.skip_space()
            more = text.take(",")
            if more:
                row += lines + text.skip_space()
            elif not text.take("]"):
                raise InputError(
                    f"{source}, row {row}: invalid JSON (no ',' or ']' after this object)"
                )
        text.skip_space()
        if text.peek():
            raise InputError(f"{source}: invalid JSON (text after the end of the list)")


class _Window:
    """The part of a text that has been read but not yet consumed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._text = ""
        self._position = 0

    def peek(self) -> str:
        """Return the next character, or an empty string at the end."""
        if self._position == len(self._text):
            self._text, self._position = self._stream.read(_PART), 0
        return self._text[self._position : self._position + 1]

    def take(self, character: str) -> bool:
        """Consume a character if it is the next one, and return whether it was."""
        is_next = self.peek() == character
        self._position += is_next
        return is_next

    def skip_space(self) -> int:
        """Consume white space and return its number of line breaks."""
        lines = 0
        while self.peek():
            match = _SPACE.match(self._text, self._position)
            end = self._position if match is None else match.end()
            lines += self._text.count("\n", self._position, end)
            self._position = end
            if end < len(self._text):
                break
        return lines

    def decode(self) -> tuple[Any, int]:
        """Return the next value and its end; read more while it may be truncated."""
        self.peek()
        while True:
            try:
                return _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError:
                length = len(self._text) - self._position
                part = self._stream.read(max(length, _PART)) if length <= ROW_LIMIT else ""
                if not part:
                    if length > ROW_LIMIT:
                        raise ValueError(too_long()) from None
                    raise
                self._text, self._position = self._text[self._position :] + part, 0

    def advance(self, end: int) -> str:
        """Consume and return the text before `end`."""
        raw, self._position = self._text[self._position : end], end
        return raw


def _distinct(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for index, name in enumerate(names) if name in names[:index])
        raise _RepeatedKeyError(f"duplicate key {shown(repeated)}")
    return record


class _RepeatedKeyError(ValueError):
    """An object has a repeated key, of which parsers silently use the last."""


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)
_SCAN: Any = vars(json.JSONDecoder())["scan_once"]


class _Parser:
    """A parser of one object per line that rejects repeated keys.

    Checking each key takes a third of the time. A flat object has as many colons as keys unless a
    text contains colons, so keys are checked only if the numbers differ.
    """

    def __init__(self) -> None:
        self._is_plain = True

    def __call__(self, text: str) -> Any:
        if self._is_plain:
            try:
                record, end = _SCAN(text, 0)
            except StopIteration:
                end = -1
            if end == len(text) and isinstance(record, dict) and len(record) == text.count(":"):
                return record
            self._is_plain = False
        return _DECODER.decode(text)


def _check(source: Source, row: int, record: Any, raw: str) -> None:
    if not isinstance(record, dict):
        raise InputError(
            f'{source}, row {row}: expected an object with columns such as {{"text": …, '
            f'"label": …}}, got {shown(record)}'
        )
    if _SURROGATE.search(raw):
        _check_surrogates(source, row, record)


def _check_surrogates(source: Source, row: int, record: Record) -> None:
    for name, value in record.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{source}, row {row}, column {shown(name)}: {shown(value)} contains an unpaired "
                "surrogate, which is not valid Unicode"
            ) from None
        except RecursionError as error:
            raise InputError(f"{source}, row {row}: invalid JSON ({_reason(error)})") from None


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error).partition(";")[0]
