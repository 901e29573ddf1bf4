"""The format of rows that come without a file's name."""

from __future__ import annotations

import zlib

from bayeslora.errors import InputError
from bayeslora.tables.messages import shown
from bayeslora.tables.reading import Reading

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"


def suffix_of(head: bytes, encoding: str | None = None) -> str:
    """Return the suffix of the format that a file seems to have.

    Parquet is known by its first bytes and JSON by its first character; everything else is a table
    with commas, or with tabs where its first line has a tab and no comma.

    Args:
        head: The first bytes, some thousands; they may be compressed by gzip.
        encoding: The encoding of the text; None for UTF-8.

    Raises:
        InputError: They are no beginning of a table.
    """
    reading = Reading(encoding=encoding)
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, len(head) * 16)
        except zlib.error as error:
            raise InputError(f"<stdin> cannot be unpacked by gzip: {error}") from None
    if head.startswith(_PARQUET):
        return ".parquet"
    text = head.decode(reading.encoding or "utf-8-sig", errors="replace").lstrip()
    if text.startswith(("{", "[")):
        return ".json"
    if "\0" in text:
        raise InputError(f"<stdin> is no table; it begins with {shown(text[:20])}")
    line = text.partition("\n")[0]
    return ".tsv" if "\t" in line and "," not in line else ".csv"
