"""Parquet files with detection of damage: page checksums, and a hash of the whole file.

Page checksums (CRC-32) cover only the pages, neither page headers nor the footer, which contains
names, types, offsets and metadata. A sealed file therefore also contains the SHA-256 of all its
bytes, as the entry

    bayeslora.sha256 = bayeslora-sha256:<64 hexadecimal digits>

of the footer's metadata; the hash is computed with these 64 digits set to zeros. Arrow stores the
metadata of a schema in a separate blob (`ARROW:schema`), and preserves only the blob when it reads
and rewrites a table. The entry is not in the blob, so a file rewritten by another program has our
other metadata but no hash, and is not checked.

Both name and value identify the entry: if a flipped bit corrupts one of them, the other still
triggers the check.

`ParquetTable` yields rows as `pyarrow.RecordBatch`es and checks them as they are read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.plain_text import listed, shown
from bayeslora.tables.source import Source

ROW_GROUP = 65_536  # rows; of 150 columns 80 MB

_KEY = "bayeslora.sha256"
_VALUE = "bayeslora-sha256:"
_UNSEALED = "0" * 64
_TRACE = re.compile(rb"bayeslora[.-]sha256")
# The footer is compact Thrift: 0x18 begins a string, followed by its length.
_SEAL = re.compile(
    re.escape(_KEY.encode() + b"\x18" + bytes([len(_VALUE) + 64]) + _VALUE.encode())
    + rb"([0-9a-f]{64})"
)
_TAIL = 8  # bytes after the footer: its length, and PAR1
_CHUNK = 1 << 20


def write_sealed(path: str | Path, schema: Any, tables: Iterable[Any]) -> None:
    """Write tables consecutively, with page checksums and the hash of the file.

    Args:
        path: Path of the file; the write is not atomic.
        schema: `pyarrow.Schema`, whose metadata are stored in the file.
        tables: `pyarrow.Table`s of this schema; each is written as one or several row groups of at
            most `ROW_GROUP` rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A dictionary of mostly distinct numbers is larger than the numbers.
    texts = [field.name for field in schema if not pa.types.is_floating(field.type)]
    with pq.ParquetWriter(path, schema, use_dictionary=texts, write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table, ROW_GROUP)
        writer.add_key_value_metadata({_KEY: f"{_VALUE}{_UNSEALED}"})
    offset = _seal_of(_footer(path))
    if offset is None:
        raise RuntimeError(f"{path}: the Parquet footer lacks an entry that was just written")
    with Path(path).open("r+b") as file:
        digest = _hash(path, offset)
        file.seek(offset, os.SEEK_END)
        file.write(digest.encode())


def open_parquet(path: str | Path, *, check_whole: bool = True, **options: Any) -> Any:
    """Return a `pyarrow.parquet.ParquetFile` that checks the pages it reads.

    Args:
        path: Path of the file.
        check_whole: Whether to verify the hash of a sealed file before opening it.
        **options: Options of `ParquetFile`.

    Raises:
        InputError: The file has changed since it was written.
        ArrowException: The file is not a Parquet file.
        OSError: The file cannot be read.
    """
    import pyarrow.parquet as pq

    if check_whole and not is_intact(path):
        raise InputError(
            f"{path} is damaged: its content does not match its stored SHA-256; restore it from "
            "a copy, or create it again",
            code="damaged",
        )
    return pq.ParquetFile(path, page_checksum_verification=True, **options)


def is_intact(path: str | Path) -> bool:
    """Return whether a file matches its hash; True for files that were not sealed.

    Raises:
        OSError: The file cannot be read.
    """
    footer = _footer(path)
    if not _TRACE.search(footer):
        return True
    offset = _seal_of(footer)
    return offset is not None and _hash(path, offset) == _digits(footer, offset)


def _footer(path: str | Path) -> bytes:
    """Return the footer with the bytes after it; empty if there is none."""
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < _TAIL:
            return b""
        file.seek(-_TAIL, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little") + _TAIL
        file.seek(-min(length, size), os.SEEK_END)
        return file.read()


def _seal_of(footer: bytes) -> int | None:
    """Return the offset of the digits from the end of the file, or None."""
    match = _SEAL.search(footer)
    return None if match is None else match.start(1) - len(footer)


def _digits(footer: bytes, offset: int) -> str:
    return footer[offset : offset + len(_UNSEALED)].decode("ascii")


def _hash(path: str | Path, offset: int) -> str:
    """Return the SHA-256 of a file with the digits at `offset`, from its end, set to zeros."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        left = file.seek(0, os.SEEK_END) + offset
        file.seek(0)
        while left and (chunk := file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        file.seek(len(_UNSEALED), os.SEEK_CUR)
        digest.update(_UNSEALED.encode())
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


PREFIX = "bayeslora."
"""Prefix of the keys of our Parquet metadata."""

# Bytes of a column read at a time; by default Arrow reads all of it.
_BUFFER = 1 << 20


class ParquetTable:
    """A Parquet file whose footer has been read.

    Attributes:
        names: Names of its columns in order.
        schema: Types of its columns, a `pyarrow.Schema`.
        num_rows: Number of its rows, according to the footer.
        metadata: Our metadata, with keys without `PREFIX`.
    """

    def __init__(self, source: Source) -> None:
        """Read the footer.

        Raises:
            InputError: The file is not a Parquet file, is damaged, or has no rows.
        """
        self._source = source
        with _readable(source), _opened(source, check_whole=True) as file:
            self.schema = file.schema_arrow
            self.names = tuple(self.schema.names)
            self.num_rows = int(file.metadata.num_rows)
            self.metadata = _notes(self.schema.metadata or {})
        if not self.num_rows:
            raise InputError(f"{source} has columns ({listed(self.names)}) but no rows")

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Any]:
        """Yield some columns of all rows, at most `rows` at a time.

        Raises:
            InputError: The file is damaged, or a text is not UTF-8.
        """
        count = 0
        with _readable(self._source), _opened(self._source, check_whole=False) as file:
            for batch in file.iter_batches(rows, columns=list(columns), use_threads=False):
                _check(self._source, batch, count)
                count += batch.num_rows
                yield batch
        if count != self.num_rows:
            raise InputError(
                f"{self._source} is damaged: it has {count} rows, but its footer says "
                f"{self.num_rows}",
                code="damaged",
            )


def python_values(array: Any, *, temporal_as_text: bool) -> list[Any]:
    """Return the values of a `pyarrow` array as Python values; see `plain_values`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if temporal_as_text and pa.types.is_temporal(array.type):
            array = pc.cast(array, pa.string())
        values: list[Any] = array.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"values of type {array.type} are not supported: {reason}") from None
    return values


def _opened(source: Source, *, check_whole: bool) -> Any:
    return open_parquet(source.path, check_whole=check_whole, buffer_size=_BUFFER, pre_buffer=False)


def _notes(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    decoded = ((key.decode(), value) for key, value in metadata.items())
    return {
        key.removeprefix(PREFIX): value.decode() for key, value in decoded if key.startswith(PREFIX)
    }


def _check(source: Source, batch: Any, before: int) -> None:
    """Raise InputError for wrong lengths or texts, which reading does not check."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for row in range(len(column)):
                try:
                    column.slice(row, 1).validate(full=True)
                except pa.ArrowInvalid:
                    reason = str(error).partition("\n")[0]
                    raise InputError(
                        f"{source}, row {before + row + 1}, column {shown(name)}: the value is "
                        f"damaged or not UTF-8 ({reason})",
                        code="damaged",
                    ) from None
        raise


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    """Convert Arrow's errors about invalid files to InputError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{source} cannot be read as Parquet: {reason}") from None
