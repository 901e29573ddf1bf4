"""Files as streams of decompressed bytes and decoded text, with errors that name the file."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from bayeslora.errors import InputError
from bayeslora.io.files import shown_path
from bayeslora.tables.reading import PACKED, ROW_LIMIT, SUFFIXES, Kind, Reading, kind_of

_GZIP = b"\x1f\x8b"
_UNICODE_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# DEFLATE compresses at most 1032 to 1, reached only by constant bytes; text stays far below.
_MOST_PACKED = 500
_UNCHECKED = 2**24  # bytes; smaller files are harmless


@dataclass(frozen=True)
class Source:
    """A regular file that can be read repeatedly.

    Attributes:
        path: Path of the file.
        kind: Format of its rows.
        reading: Options of text formats.
        is_packed: Whether it is compressed by gzip.
    """

    path: Path
    kind: Kind
    reading: Reading
    is_packed: bool

    def __str__(self) -> str:
        return shown_path(self.path)

    @contextmanager
    def binary(self) -> Iterator[IO[bytes]]:
        """Open the file as decompressed bytes.

        Raises:
            InputError: Reading fails, also inside the block.
        """
        try:
            with self.path.open("rb") as raw:
                if self.is_packed:
                    with gzip.GzipFile(fileobj=raw) as packed:
                        yield io.BufferedReader(_Unpacked(self, raw, packed), 2**16)
                else:
                    yield raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{self} cannot be decompressed with gzip: {error}") from None
        except OSError as error:
            raise InputError(f"{self} cannot be read: {error.strerror or error}") from None

    @contextmanager
    def text(self, newline: str) -> Iterator[io.TextIOWrapper]:
        """Open the file as text, without a byte order mark.

        Args:
            newline: Line ending, as for `open`.

        Raises:
            InputError: Reading or decoding fails, also inside the block.
        """
        encoding = self.reading.encoding or "utf-8"
        if encoding.lower().replace("_", "-") in {"utf-8", "utf8"}:
            encoding = "utf-8-sig"
        try:
            with self.binary() as stream:
                yield io.TextIOWrapper(stream, encoding, newline=newline)
        except UnicodeError as error:
            raise self._undecodable(encoding, error) from None

    def lines(self, newline: str = "\n") -> Generator[str]:
        """Yield the lines of the text with their line endings.

        Raises:
            InputError: Reading or decoding fails, or a line is longer than `ROW_LIMIT`.
        """
        with self.text(newline) as text:
            for number, line in enumerate(iter(partial(text.readline, ROW_LIMIT), ""), 1):
                if len(line) >= ROW_LIMIT:
                    raise InputError(f"{self}, row {number}: {too_long()}")
                yield line

    def _undecodable(self, encoding: str, error: UnicodeError) -> InputError:
        if encoding != "utf-8-sig":
            reason = getattr(error, "reason", error)
            return InputError(f"{self} cannot be read with encoding {encoding!r}: {reason}")
        advice = "save the file as UTF-8, or set --encoding, such as latin-1"
        offset = 0
        with self.binary() as stream:
            for number, raw in enumerate(iter(partial(stream.readline, ROW_LIMIT), b""), 1):
                try:
                    raw.decode()
                except UnicodeDecodeError as bad:
                    return InputError(
                        f"{self}, row {number}: byte 0x{raw[bad.start]:02x} at offset "
                        f"{offset + bad.start} is not UTF-8; {advice}"
                    )
                offset += len(raw)
        return InputError(f"{self} is not UTF-8; {advice}")


def open_source(path: str | Path, reading: Reading) -> Source:
    """Open a file after checking its name, type and first bytes.

    Raises:
        InputError: The file does not exist, is not a regular file, is empty, or has an unsupported
            suffix or encoding; or an option does not apply to it.
    """
    file = Path(path)
    try:
        status = file.stat()
        problem = _problem(status)
        if problem:
            raise InputError(f"{file} {problem}")
        kind = kind_of(file)
        reading.check_for(file, kind)
        with file.open("rb") as stream:
            start = stream.read(4)
    except FileNotFoundError:
        raise InputError(f"{file} does not exist") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(file)[:200]} cannot be read: {reason or error}") from None
    if not start:
        raise InputError(f"{file} is empty; at least one row is needed")
    is_packed = start.startswith(_GZIP) and kind != "parquet"
    if file.suffix.lower() == PACKED and not is_packed:
        raise InputError(f"{file} is not gzip-compressed, despite its suffix")
    if kind != "parquet" and reading.encoding is None and start[:2] in _UNICODE_MARKS:
        raise InputError(
            f"{file} is UTF-16, not UTF-8; save the file as UTF-8, or set --encoding utf-16"
        )
    return Source(file, kind, reading, is_packed)


def too_long() -> str:
    """Return the problem of a row above the limit."""
    return f"the row is longer than {ROW_LIMIT:,} characters"


def _problem(status: os.stat_result) -> str:
    if stat.S_ISDIR(status.st_mode):
        return f"is a directory; pass a file ({', '.join(SUFFIXES)})"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file; pass one, or pipe the rows to standard input and pass '-'"
    return ""


class _Unpacked(io.RawIOBase):
    """Decompressed bytes; raises InputError if a small file decompresses to a huge one."""

    def __init__(self, source: Source, raw: IO[bytes], packed: gzip.GzipFile) -> None:
        self._source = source
        self._raw = raw
        self._packed = packed
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._packed.read(len(view))
        view[: len(data)] = data
        self._count += len(data)
        if self._count > max(_UNCHECKED, _MOST_PACKED * self._raw.tell()):
            raise InputError(
                f"{self._source} decompresses to more than {_MOST_PACKED} times its size, which "
                "is unusual for a table; if this is intended, decompress it yourself"
            )
        return len(data)
