"""File formats by suffix or first bytes, and the reading options of text files."""

from __future__ import annotations

import codecs
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bayeslora.errors import InputError
from bayeslora.plain_text import shown

Kind = Literal["json", "delimited", "parquet"]

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Supported suffixes; text formats may also end in `.gz`."""

PACKED = ".gz"

ROW_LIMIT = 2**24
"""Maximum number of characters of a row in a text format, and of a text in any format."""

_KINDS: dict[str, Kind] = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "delimited",
    ".tsv": "delimited",
    ".parquet": "parquet",
}
_NAMED = {"tab": "\t", "\\t": "\t"}
# characters that occur in the syntax of tables
_TABLE = '[{"text": "a..b \\\\", "label": -10}];\t|\r\n'


@dataclass(frozen=True)
class Reading:
    """Options for text files that deviate from their suffix.

    Attributes:
        delimiter: Delimiter of a `.csv` or `.tsv` file, one character or `tab`; None uses a comma
            or a tab, depending on the suffix.
        encoding: Encoding of a text file, by its Python name; None uses UTF-8.

    Raises:
        InputError: The delimiter is not one character, or the encoding is unknown.
    """

    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            character = _NAMED.get(self.delimiter, self.delimiter)
            if len(character) != 1 or character in '"\r\n\0' or not character.isascii():
                raise InputError(
                    "delimiter (--delimiter) must be one ASCII character, such as ';', or 'tab', "
                    f"got {shown(self.delimiter)}"
                )
            object.__setattr__(self, "delimiter", character)
        if self.encoding is not None and not _is_text_encoding(self.encoding):
            raise InputError(
                "encoding (--encoding) must be a text encoding supported by Python, such as "
                f"'latin-1', 'cp1252' or 'utf-16', got {shown(self.encoding)}"
            )

    def check_for(self, path: Path, kind: Kind) -> None:
        """Raise InputError if an option does not apply to a file of this kind."""
        if self.delimiter is not None and kind != "delimited":
            raise InputError(f"{path}: --delimiter applies only to .csv and .tsv files")
        if self.encoding is not None and kind == "parquet":
            raise InputError(
                f"{path}: --encoding applies only to text files; Parquet is always UTF-8"
            )

    def delimiter_of(self, path: Path) -> str:
        """Return the delimiter of a file."""
        if self.delimiter is not None:
            return self.delimiter
        return "\t" if ".tsv" in suffixes_of(path) else ","


DEFAULT = Reading()


def suffixes_of(path: Path) -> list[str]:
    """Return the suffixes of a name in lower case: that of the format, and `.gz` if present."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return suffixes if suffixes[-1:] == [PACKED] else suffixes[-1:]


def kind_of(path: Path) -> Kind:
    """Return the kind of a file by its suffix.

    Raises:
        InputError: The suffix is not supported.
    """
    suffixes = suffixes_of(path)
    kind = _KINDS.get(suffixes[0]) if suffixes else None
    if kind is None or (kind == "parquet" and len(suffixes) > 1):
        extension = f"extension {shown(''.join(suffixes))}" if suffixes else "no extension"
        raise InputError(
            f"{path} has {extension}; choose from {', '.join(SUFFIXES)} (text formats also "
            f"with {PACKED})"
        )
    return kind


def _is_text_encoding(name: str) -> bool:
    """Return whether an encoding round-trips a table, with any chunking of its bytes.

    Python lists some codecs for host names as text encodings: `idna`, `punycode`.
    """
    try:
        if not codecs.lookup(name)._is_text_encoding:
            return False
        decoder = codecs.getincrementaldecoder(name)()
        data = _TABLE.encode(name)
        pieces = [decoder.decode(data[k : k + 1]) for k in range(len(data))]
        return "".join([*pieces, decoder.decode(b"", final=True)]) == _TABLE
    except (LookupError, UnicodeError, ValueError, TypeError):
        return False


_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"


def suffix_of(head: bytes, encoding: str | None = None) -> str:
    """Infer the suffix of a file from its first bytes.

    Parquet is detected by its first bytes and JSON by its first character; everything else is a
    comma-separated table, or tab-separated if its first line has a tab and no comma.

    Args:
        head: The first few thousand bytes, which may be compressed by gzip.
        encoding: Encoding of the text; None for UTF-8.

    Raises:
        InputError: The bytes are not the start of a table.
    """
    reading = Reading(encoding=encoding)
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, len(head) * 16)
        except zlib.error as error:
            raise InputError(f"<stdin> cannot be decompressed with gzip: {error}") from None
    if head.startswith(_PARQUET):
        return ".parquet"
    text = head.decode(reading.encoding or "utf-8-sig", errors="replace").lstrip()
    if text.startswith(("{", "[")):
        return ".json"
    if "\0" in text:
        raise InputError(f"<stdin> is not a table; it starts with {shown(text[:20])}")
    line = text.partition("\n")[0]
    return ".tsv" if "\t" in line and "," not in line else ".csv"
