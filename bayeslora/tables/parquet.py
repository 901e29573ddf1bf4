"""Rows of Parquet files as `pyarrow.RecordBatch`es, checked as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bayeslora.errors import InputError
from bayeslora.parquet import open_parquet
from bayeslora.tables.messages import listed, shown
from bayeslora.tables.source import Source

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
                f"{self._source} is damaged: {count} rows, but its footer says {self.num_rows}"
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
                        f"damaged or not UTF-8 ({reason})"
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
