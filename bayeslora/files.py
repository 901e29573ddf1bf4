"""Atomic writes of files, and checks of output paths."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bayeslora.durable import naming_full_disk, replace_file, temporary_file
from bayeslora.errors import InputError
from bayeslora.locks import writing_to

_PATIENCE = 60.0  # seconds
_LARGEST_TEXT = 1 << 28  # bytes; more would fill the memory

STDIN = "<stdin>"
"""Name of standard input in messages and results."""

SPOOL = "bayeslora-stdin-"
"""Prefix of the temporary directory that holds standard input while a command runs."""

_SPECIAL = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}

# JSON escapes of surrogates, in pairs or alone.
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block succeeds.

    Readers never see a partial file, and after a failure, a kill or a power cut the old file is
    intact. Another process writing the same file is waited for. Parent directories are created. If
    `path` is a link, its target is written. A replaced file's mode is kept.

    Raises:
        InputError: As `refuse_special`.
        OSError: The file cannot be written, as on a full disk.
    """
    target = real_path(path)
    refuse_special(target)
    with writing_to(target, wait=_PATIENCE), naming_full_disk(path):
        temporary = temporary_file(target)
        try:
            yield temporary
            temporary.chmod(file_mode(target))
            replace_file(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def refuse_existing(path: str | Path, *, overwrite: bool | None) -> None:
    """Raise InputError if `path` exists and may not be replaced; an empty directory is allowed.

    Raises:
        InputError: It exists and `overwrite` is not true; or as `refuse_special`.
    """
    refuse_special(path)
    if Path(path).exists() and not overwrite and not is_empty_directory(path):
        raise InputError(
            f"{path} exists; choose another path or pass overwrite (--overwrite)", code="exists"
        )


def refuse_special(path: str | Path) -> None:
    """Raise InputError if an output is a special file, which a rename would replace.

    Raises:
        InputError: It is a pipe, a socket or a device.
    """
    target = Path(path)
    if target.exists() and (kind := special_kind(target.stat().st_mode)):
        raise InputError(f"{path} is {kind}, which is never replaced; choose another path")


def special_kind(mode: int) -> str:
    """Return the kind of special file of an `os.stat` mode; empty for a file or a directory."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return next((name for check, name in _SPECIAL.items() if check(mode)), "a special file")


def shown_path(path: str | Path) -> str:
    """Return a path for results and messages: `<stdin>` for the copy of standard input."""
    is_spooled = Path(path).parent.name.startswith(SPOOL)
    return STDIN if is_spooled else str(path)


def real_path(path: str | Path) -> Path:
    """Return an absolute path without links.

    Raises:
        InputError: Its links form a cycle.
    """
    # Path.resolve fails on cycles only before Python 3.13.
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise InputError(f"{path} is a symbolic link that points back to itself")
    return real


def refuse_inputs(out: str | Path, *inputs: str | Path) -> None:
    """Raise InputError if an output would replace one of its inputs, even with `overwrite`.

    Raises:
        InputError: It is one of the inputs, or a directory that contains one.
    """
    target = real_path(out)
    for path in inputs:
        source = real_path(path)
        if source.is_relative_to(target) and source.exists():
            relation = "is" if source == target else f"contains {path},"
            raise InputError(f"{out} {relation} an input of this command; choose another path")


def check_writable(path: str | Path) -> None:
    """Raise InputError if nothing can be written at `path`, before anything is computed.

    Raises:
        InputError: Its parent directory is not writable, or is a file.
    """
    parent = real_path(path).parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{path} cannot be written: {parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission to write to {parent}")


def refuse_ground(path: str | Path) -> None:
    """Raise InputError if a directory cannot be replaced by another one.

    Raises:
        InputError: It is or contains the working directory, or is a mount point.
    """
    if Path.cwd().is_relative_to(real_path(path)):
        raise InputError(f"{path} is or contains the working directory; choose another path")
    if os.path.ismount(path):
        raise InputError(f"{path} is a mount point; choose a path within it")


def is_empty_directory(path: str | Path) -> bool:
    """Return whether `path` is a directory without entries."""
    folder = Path(path)
    return folder.is_dir() and not any(folder.iterdir())


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically; NaN and infinities are refused.

    Raises:
        ValueError: A number in `content` is not finite.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def check_readable(path: str | Path) -> None:
    """Raise InputError if a file cannot be read into memory; a missing file passes.

    Raises:
        InputError: It is not a regular file, or larger than 256 MiB.
    """
    file = Path(path)
    if not file.exists():
        return
    if not file.is_file():  # reading a pipe would block
        raise InputError(f"{path} is not a regular file")
    if file.stat().st_size > _LARGEST_TEXT:
        raise InputError(f"{path} is larger than {_LARGEST_TEXT >> 20} MiB")


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: The file is missing, not UTF-8, or not JSON that Python can read; or as
            `check_readable`.
    """
    check_readable(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text)
        if _HALF_PAIR.search(text):
            # A lone surrogate could be neither printed nor written.
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except RecursionError:
        raise InputError(f"{path} cannot be read as JSON: it is nested too deeply") from None
    # ValueError: not UTF-8, not JSON, or an integer of more digits than Python converts.
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    return content


def file_mode(path: Path) -> int:
    """Return the mode of a file about to be replaced, or the default mode of a new file."""
    return path.stat().st_mode & 0o7777 if path.is_file() else 0o666 & ~umask()


def umask() -> int:
    """Return the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
