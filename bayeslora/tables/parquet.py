"""Parquet files in which damage is noticed: page checksums, and one hash over the whole file.

Page checksums (CRC-32) cover the pages alone, neither page headers nor the footer, which holds the
names, the types, the offsets and the metadata. A sealed file therefore also holds the SHA-256 of
all its bytes, as the entry

    bayeslora.sha256 = bayeslora-sha256:<64 hexadecimal digits>

of the footer's metadata; the hash is that of the file with these 64 digits as zeros. Arrow keeps
the metadata of a schema in a blob of its own (`ARROW:schema`), and carries along only what is there
when it reads a table and writes it again. The entry is not in the blob, so a file that another
program rewrote has our other metadata and no hash, and is not checked.

Name and value both say what the entry is: whichever of them a flipped bit hits, the other is still
there and asks for the hash.

`ParquetTable` gives rows as `pyarrow.RecordBatch`es, checked as they are read.
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
# The footer is Thrift in its compact form: 0x18 begins a string, then comes its length.
_SEAL = re.compile(
    re.escape(_KEY.encode() + b"\x18" + bytes([len(_VALUE) + 64]) + _VALUE.encode())
    + rb"([0-9a-f]{64})"
)
_TAIL = 8  # bytes after the footer: its length, and PAR1
_CHUNK = 1 << 20


def write_sealed(path: str | Path, schema: Any, tables: Iterable[Any]) -> None:
    """Write tables one after the other, with page checksums and the hash of the file.

    Args:
        path: Where to; not atomic.
        schema: A `pyarrow.Schema`, whose metadata the file carries.
        tables: `pyarrow.Table`s of this schema; each becomes a row group, or several of
            `ROW_GROUP` rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A dictionary of numbers that hardly repeat is larger than the numbers.
    texts = [field.name for field in schema if not pa.types.is_floating(field.type)]
    with pq.ParquetWriter(path, schema, use_dictionary=texts, write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table, ROW_GROUP)
        writer.add_key_value_metadata({_KEY: f"{_VALUE}{_UNSEALED}"})
    place = _seal_of(_footer(path))
    if place is None:
        raise RuntimeError(f"{path}: the footer does not hold the entry that was written to it")
    with Path(path).open("r+b") as file:
        digest = _hash(path, place)
        file.seek(place, os.SEEK_END)
        file.write(digest.encode())


def open_parquet(path: str | Path, *, check_whole: bool = True, **options: Any) -> Any:
    """Return a `pyarrow.parquet.ParquetFile` that checks the pages it reads.

    Args:
        path: A file.
        check_whole: Whether a sealed file is compared with its hash before it is opened.
        **options: Those of `ParquetFile`.

    Raises:
        InputError: The file is not what was written.
        ArrowException: It is not a Parquet file.
        OSError: It cannot be read.
    """
    import pyarrow.parquet as pq

    if check_whole and not is_intact(path):
        raise InputError(
            f"{path} is damaged: its content does not match the SHA-256 that was stored when it "
            "was written; restore it from a copy, or make it again",
            code="damaged",
        )
    return pq.ParquetFile(path, page_checksum_verification=True, **options)


def is_intact(path: str | Path) -> bool:
    """Return False where a file was sealed and has changed since; True where it never was.

    Raises:
        OSError: The file cannot be read.
    """
    footer = _footer(path)
    if not _TRACE.search(footer):
        return True
    place = _seal_of(footer)
    return place is not None and _hash(path, place) == _digits(footer, place)


def _footer(path: str | Path) -> bytes:
    """Return the footer with what follows it; no bytes where there is none."""
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < _TAIL:
            return b""
        file.seek(-_TAIL, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little") + _TAIL
        file.seek(-min(length, size), os.SEEK_END)
        return file.read()


def _seal_of(footer: bytes) -> int | None:
    """Return where the digits begin, counted from the end of the file, or None."""
    found = _SEAL.search(footer)
    return None if found is None else found.start(1) - len(footer)


def _digits(footer: bytes, place: int) -> str:
    return footer[place : place + len(_UNSEALED)].decode("ascii")


def _hash(path: str | Path, place: int) -> str:
    """Return the SHA-256 of a file with the digits at `place`, from its end, as zeros."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        left = file.seek(0, os.SEEK_END) + place
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
"""What the keys of our Parquet metadata start with."""

# Bytes of a column that are read at a time, where Arrow would take all of it.
_BUFFER = 1 << 20


class ParquetTable:
    """A Parquet file with its footer read.

    Attributes:
        names: Its columns in order.
        schema: Their types, a `pyarrow.Schema`.
        num_rows: The number of its rows, by the footer.
        metadata: Our notes in it, without `PREFIX`.
    """

    def __init__(self, source: Source) -> None:
        """Read the footer.

        Raises:
            InputError: The file is no Parquet file, is damaged, or has no rows.
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
            InputError: The file is damaged, or a text in it is not UTF-8.
        """
        count = 0
        with _readable(self._source), _opened(self._source, check_whole=False) as file:
            for batch in file.iter_batches(rows, columns=list(columns), use_threads=False):
                _check(self._source, batch, count)
                count += batch.num_rows
                yield batch
        if count != self.num_rows:
            raise InputError(
                f"{self._source} is damaged: {count} rows, but its footer says {self.num_rows}",
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
        raise InputError(f"values of type {array.type} cannot be read: {reason}") from None
    return values


def _opened(source: Source, *, check_whole: bool) -> Any:
    return open_parquet(source.path, check_whole=check_whole, buffer_size=_BUFFER, pre_buffer=False)


def _notes(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    decoded = ((key.decode(), value) for key, value in metadata.items())
    return {
        key.removeprefix(PREFIX): value.decode() for key, value in decoded if key.startswith(PREFIX)
    }


def _check(source: Source, batch: Any, before: int) -> None:
    """Raise InputError if lengths or texts are wrong, which reading alone lets through."""
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
    """Raise InputError for what Arrow raises when a file is not what it should be."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{source} cannot be read as Parquet: {reason}") from None
