"""What a file's name or its first bytes say of its format, and the options for what they do not."""

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
"""The names' ends that are read; the text formats also with `.gz` behind."""

PACKED = ".gz"

ROW_LIMIT = 2**24
"""Characters that a row of a text format may have, and a text of any format."""

_KINDS: dict[str, Kind] = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "delimited",
    ".tsv": "delimited",
    ".parquet": "parquet",
}
_NAMED = {"tab": "\t", "\\t": "\t"}
_TABLE = '[{"text": "a..b \\\\", "label": -10}];\t|\r\n'  # characters that tables are made of


@dataclass(frozen=True)
class Reading:
    """How to read a text file that is not as its name says.

    Attributes:
        delimiter: The character between the columns of a `.csv` or `.tsv` file, or `tab`; None
            takes a comma or a tab, as the suffix says.
        encoding: The encoding of a text file, by its Python name; None takes UTF-8.

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
                "encoding (--encoding) must be a text encoding that Python knows, such as "
                f"'latin-1', 'cp1252' or 'utf-16', got {shown(self.encoding)}"
            )

    def check_for(self, path: Path, kind: Kind) -> None:
        """Raise InputError if an option has no meaning for a file of this kind."""
        if self.delimiter is not None and kind != "delimited":
            raise InputError(f"{path}: --delimiter is for .csv and .tsv files")
        if self.encoding is not None and kind == "parquet":
            raise InputError(f"{path}: --encoding is for text files; Parquet is always UTF-8")

    def delimiter_of(self, path: Path) -> str:
        """Return the character between the columns of a file."""
        if self.delimiter is not None:
            return self.delimiter
        return "\t" if ".tsv" in suffixes_of(path) else ","


DEFAULT = Reading()


def suffixes_of(path: Path) -> list[str]:
    """Return the suffixes of a name in lower case: the format's, and `.gz` where there is one."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return suffixes if suffixes[-1:] == [PACKED] else suffixes[-1:]


def kind_of(path: Path) -> Kind:
    """Return the kind of a file by its name.

    Raises:
        InputError: The suffix is none that is read.
    """
    suffixes = suffixes_of(path)
    kind = _KINDS.get(suffixes[0]) if suffixes else None
    if kind is None or (kind == "parquet" and len(suffixes) > 1):
        found = f"extension {shown(''.join(suffixes))}" if suffixes else "no extension"
        raise InputError(
            f"{path} has {found}; choose from {', '.join(SUFFIXES)} "
            f"(text formats also with {PACKED})"
        )
    return kind


def _is_text_encoding(name: str) -> bool:
    """Return whether an encoding brings a table back, in whatever pieces its bytes are read.

    Python counts some codecs as text encodings that are for names of hosts: `idna`, `punycode`.
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
