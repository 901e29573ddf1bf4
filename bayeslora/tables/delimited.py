"""Rows of CSV and TSV files, with the line on which each row begins.

Regular files are read fast: Arrow parses blocks whose structure has been checked. Arrow is twenty
times faster than the csv module, but treats broken quotation marks as text and does not report line
numbers. Here NumPy finds the ends of records and checks all quotation marks of a block; blocks that
are not regular in the sense of RFC 4180 are parsed by the csv module, whose errors explain the
problem.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.plain_text import listed
from bayeslora.tables.reading import ROW_LIMIT
from bayeslora.tables.source import Source, too_long

Rows = tuple[list[int], list[list[str]]]


def header_of(source: Source) -> tuple[str, ...]:
    """Return the names of the columns.

    Raises:
        InputError: The file has no rows, or the first row is broken.
    """
    for _, (fields,) in _records(source, 1):
        return tuple(fields)
    raise InputError(f"{source} is empty; at least one row is needed")


def delimited_records(source: Source, names: Sequence[str], size: int) -> Iterator[Rows]:
    """Yield line numbers and fields of the rows below the header, `size` at a time.

    Blank lines are skipped.

    Raises:
        InputError: A row is broken, too long, or has more or fewer fields than the header.
    """
    is_first = True
    for rows, records in _records(source, size):
        if is_first:
            del rows[0], records[0]
            is_first = False
        for row, fields in zip(rows, records, strict=True):
            if len(fields) != len(names):
                delimiter = source.reading.delimiter_of(source.path)
                raise InputError(
                    f"{source}, row {row}: {len(fields)} fields, but the header has {len(names)} "
                    f"({listed(names)}); quote fields that contain {delimiter!r} or a line break"
                )
        if rows:
            yield rows, records


def _records(source: Source, size: int) -> Iterator[Rows]:
    """Yield all rows that are not blank, including the header."""
    # A traceback may hold this frame, which must not keep the file open.
    with closing(source.lines(newline="")) as lines:
        delimiter = source.reading.delimiter_of(source.path)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        more = True
        while more:
            rows: list[int] = []
            records: list[list[str]] = []
            with _long_fields():
                while more and len(rows) < size:
                    row = reader.line_num + 1
                    try:
                        fields = next(reader)
                    except StopIteration:
                        more = False
                        continue
                    except csv.Error as error:
                        raise _broken(source, row, error) from None
                    if fields:
                        rows.append(row)
                        records.append(fields)
            if rows:
                yield rows, records


def _broken(source: Source, row: int, error: csv.Error) -> InputError:
    if "field limit" in str(error):
        return InputError(
            f"{source}, row {row}: {too_long()}; check for an unclosed quotation mark"
        )
    return InputError(
        f"{source}, row {row}: {error}; close every quoted field, and double quotation marks "
        "inside it"
    )


@contextmanager
def _long_fields() -> Iterator[None]:
    """Temporarily raise the csv module's limit on the length of a field."""
    limit = csv.field_size_limit(ROW_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


_QUOTE, _NEWLINE, _RETURN = b'"\n\r'
_BLOCK = 2**20  # minimum bytes; smaller blocks take longer per byte
_BYTES = 64  # bytes per requested row: few rows at a time should take little memory
_MARK = b"\xef\xbb\xbf"

Ints = NDArray[np.int64]


class IrregularError(Exception):
    """A block is not regular, or Arrow cannot parse it."""


@dataclass(frozen=True)
class _Block:
    """A block of whole records.

    Attributes:
        data: Bytes of the records.
        rows: Line on which each non-blank record begins, from 1.
        lines: Number of lines.
    """

    data: bytes
    rows: Ints
    lines: int


def arrow_records(
    source: Source, names: Sequence[str], columns: Sequence[str], size: int
) -> Iterator[tuple[list[int], Any]]:
    """Yield line numbers of the rows below the header, and a `pyarrow.RecordBatch` of texts.

    Args:
        source: UTF-8 file.
        names: Header.
        columns: Columns to read.
        size: Maximum number of rows at a time.

    Raises:
        IrregularError: The rest of the file needs the csv module.
    """
    if source.reading.encoding is not None:
        raise IrregularError
    delimiter = source.reading.delimiter_of(source.path)
    is_first = True
    with source.binary() as stream:
        for block in _blocks(stream, ord(delimiter), min(max(_BLOCK, _BYTES * size), ROW_LIMIT)):
            table = _parsed(block, names, columns, delimiter)
            if table.num_rows != len(block.rows):
                raise IrregularError
            start = int(is_first)
            is_first = False
            for offset in range(start, table.num_rows, size):
                part = table.slice(offset, size).combine_chunks().to_batches()
                if part:
                    yield block.rows[offset : offset + size].tolist(), part[0]


def _parsed(block: _Block, names: Sequence[str], columns: Sequence[str], delimiter: str) -> Any:
    import pyarrow as pa
    import pyarrow.csv

    try:
        return pa.csv.read_csv(
            pa.BufferReader(block.data),
            read_options=pa.csv.ReadOptions(
                use_threads=False, column_names=list(names), block_size=len(block.data) + 1
            ),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=list(columns),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowException as error:
        raise IrregularError from error


def _blocks(stream: IO[bytes], delimiter: int, size: int) -> Iterator[_Block]:
    """Yield blocks of whole records, of about `size` bytes each."""
    data = stream.read(size).removeprefix(_MARK)
    line, step = 1, size
    while data:
        more = stream.read(step)
        if not more and not data.endswith(b"\n"):
            data += b"\n"
        block, rest = _cut(data, delimiter, line)
        # Data without a whole record are scanned again, so they should not grow in small steps.
        step = size if block is not None else 2 * step
        if block is not None:
            yield block
            line += block.lines
        elif not more or len(data) > ROW_LIMIT:
            raise IrregularError
        data = rest + more


def _cut(data: bytes, delimiter: int, line: int) -> tuple[_Block | None, bytes]:
    """Return the whole records at the start of the data, if any, and the rest."""
    codes = np.frombuffer(data, np.uint8)
    quotes, newlines = np.flatnonzero(codes == _QUOTE), np.flatnonzero(codes == _NEWLINE)
    ends = newlines[np.searchsorted(quotes, newlines) % 2 == 0] if len(quotes) else newlines
    if not len(ends):
        return None, data
    stop = int(ends[-1]) + 1
    if data.count(b"\r", 0, stop) != data.count(b"\r\n", 0, stop):
        raise IrregularError
    _check_quotes(codes, quotes[: np.searchsorted(quotes, stop)], delimiter)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts
    is_blank = (lengths == 0) | ((lengths == 1) & (codes[starts] == _RETURN))
    rows = line + np.searchsorted(newlines, starts[~is_blank])
    lines = int(np.searchsorted(newlines, stop))
    return _Block(data[:stop], rows, lines), data[stop:]


def _check_quotes(codes: NDArray[np.uint8], quotes: Ints, delimiter: int) -> None:
    """Raise IrregularError unless each quotation mark begins or ends a field, or is doubled."""
    opening, closing = quotes[::2], quotes[1::2]
    preceding = codes[np.maximum(opening - 1, 0)]
    begins = (opening == 0) | (preceding == delimiter) | (preceding == _NEWLINE)
    doubled = np.zeros(len(opening), dtype=bool)
    doubled[1:] = opening[1:] == closing[: len(opening) - 1] + 1
    following = codes[closing + 1]
    ends = (
        (following == delimiter)
        | (following == _NEWLINE)
        | (following == _RETURN)
        | (following == _QUOTE)
    )
    if not ((begins | doubled).all() and ends.all()):
        raise IrregularError
