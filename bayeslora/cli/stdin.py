"""`-` instead of a file: standard input, in a temporary file while the command runs."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bayeslora.errors import InputError
from bayeslora.io.files import SPOOL, shown_path
from bayeslora.processes import current

_STDIN = "-"
_HEAD = 2**16  # bytes

_FILES = ("train", "validation", "data", "file", "files", "fit", "apply", "ood")
"""Arguments that name files to read, or `NAME=FILE`, one or several."""


@contextmanager
def stdin_as_file(args: argparse.Namespace) -> Iterator[None]:
    """Replace `-` in arguments by the path of a file with the content of standard input.

    Commands read their files more than once. The file is deleted when the block ends; errors name
    `<stdin>` instead.

    Raises:
        InputError: Standard input is empty, is closed, or has an endless first line.
    """
    if not any(map(_names_stdin, _values(args))):
        yield
        return
    if current().size > 1:
        raise InputError(
            "several processes cannot share standard input; pass a file instead of '-'"
        )
    with tempfile.TemporaryDirectory(prefix=SPOOL) as folder:
        path = str(_spooled(Path(folder), getattr(args, "encoding", None)))
        for name in _FILES:
            value = getattr(args, name, None)
            if isinstance(value, list):
                setattr(args, name, [_replaced(argument, path) for argument in value])
            elif isinstance(value, str):
                setattr(args, name, _replaced(value, path))
        try:
            yield
        except InputError as error:
            raise InputError(str(error).replace(path, shown_path(path))) from None


def _values(args: argparse.Namespace) -> Iterator[object]:
    for name in _FILES:
        value = getattr(args, name, None)
        yield from value if isinstance(value, list) else [value]


def _names_stdin(value: object) -> bool:
    return isinstance(value, str) and (value == _STDIN or value.endswith(f"={_STDIN}"))


def _replaced(value: str, path: str) -> str:
    return f"{value.removesuffix(_STDIN)}{path}" if _names_stdin(value) else value


def _spooled(folder: Path, encoding: str | None) -> Path:
    """Copy standard input to a file with the suffix of the format that its beginning suggests."""
    from bayeslora.data.formats import suffix_of

    if sys.stdin is None:
        raise InputError("standard input is closed, so '-' cannot be read")
    stream = sys.stdin.buffer
    head = stream.read(_HEAD)
    path = folder / f"stdin{suffix_of(head, encoding)}"
    with path.open("wb") as out:
        out.write(head)
        shutil.copyfileobj(stream, out)
    return path
