"""Files that appear whole or not at all, and paths where nothing may be written."""

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
"""What standard input is called in messages and results."""

SPOOL = "bayeslora-stdin-"
"""How the name of a temporary directory begins that holds standard input while a command runs."""

_SPECIAL = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}

# Half a surrogate pair, or a whole one, as JSON escapes it.
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it to `path` when the block ends well.

    A reader never meets half a file, and a failed or killed writer leaves the old one in place; so
    does a power cut. Another process that is writing the same file is waited for.
    The parent directories are made. Where `path` is a link, what it leads to is written. A replaced
    file's mode is kept.

    Raises:
        InputError: As `refuse_special`.
        OSError: It cannot be written, as on a full disk.
    """
    target = real_path(path)
    refuse_special(target)
    with writing_to(target, wait=_PATIENCE), naming_full_disk(path):
        aside = temporary_file(target)
        try:
            yield aside
            aside.chmod(file_mode(target))
            replace_file(aside, target)
        finally:
            aside.unlink(missing_ok=True)


def refuse_existing(path: str | Path, *, overwrite: bool | None) -> None:
    """Raise InputError if `path` exists and may not be replaced; an empty directory may be filled.

    Raises:
        InputError: It exists, and `overwrite` is not true; or as `refuse_special`.
    """
    refuse_special(path)
    if Path(path).exists() and not overwrite and not is_empty_directory(path):
        raise InputError(
            f"{path} exists; choose another path or pass overwrite (--overwrite)", code="exists"
        )


def refuse_special(path: str | Path) -> None:
    """Raise InputError if an output is something that a renamed file would take the place of.

    Raises:
        InputError: It is a pipe, a socket or a device.
    """
    place = Path(path)
    if place.exists() and (what := special_kind(place.stat().st_mode)):
        raise InputError(f"{path} is {what}, which is never replaced; choose another path")


def special_kind(mode: int) -> str:
    """Return what a mode of `os.stat` is of; empty for a regular file or a directory."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return next((name for check, name in _SPECIAL.items() if check(mode)), "no file")


def shown_path(path: str | Path) -> str:
    """Return a path as results and messages show it: `<stdin>` where standard input is kept."""
    kept = Path(path).parent.name.startswith(SPOOL)
    return STDIN if kept else str(path)


def real_path(path: str | Path) -> Path:
    """Return an absolute path without links.

    Raises:
        InputError: Its links lead in a circle.
    """
    # Path.resolve fails on a circle before Python 3.13, and no longer since.
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise InputError(f"{path} is a link that leads back to itself")
    return found


def refuse_inputs(out: str | Path, *inputs: str | Path) -> None:
    """Raise InputError if an output would replace what it is made from, with `overwrite` as well.

    Raises:
        InputError: It is one of the inputs, or a directory that holds one.
    """
    target = real_path(out)
    for one in inputs:
        place = real_path(one)
        if place.is_relative_to(target) and place.exists():
            relation = "is" if place == target else f"holds {one},"
            raise InputError(f"{out} {relation} an input of this command; choose another path")


def check_writable(path: str | Path) -> None:
    """Raise InputError if nothing can be written at `path`, before anything is computed.

    Raises:
        InputError: The directory that it would be made in cannot be written to, or is a file.
    """
    place = real_path(path).parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{path} cannot be written: {place} is not a directory")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission to write to {place}")


def refuse_ground(path: str | Path) -> None:
    """Raise InputError if a directory cannot be replaced by another one.

    Raises:
        InputError: It is the working directory, or holds it, or is a mount point.
    """
    if Path.cwd().is_relative_to(real_path(path)):
        raise InputError(f"{path} is, or holds, the working directory; choose another path")
    if os.path.ismount(path):
        raise InputError(f"{path} is a mount point; choose a path within it")


def is_empty_directory(path: str | Path) -> bool:
    """Return whether `path` is a directory without entries."""
    folder = Path(path)
    return folder.is_dir() and not any(folder.iterdir())


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically; NaN and infinities are refused.

    Raises:
        ValueError: A number in `content` is not finite, which JSON cannot hold.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def check_readable(path: str | Path) -> None:
    """Refuse a file that cannot be read into memory as a whole; one that is missing passes.

    Raises:
        InputError: It is no regular file, or larger than 256 MiB.
    """
    place = Path(path)
    if not place.exists():
        return
    if not place.is_file():  # a pipe would be waited for
        raise InputError(f"{path} is not a regular file")
    if place.stat().st_size > _LARGEST_TEXT:
        raise InputError(f"{path} is larger than {_LARGEST_TEXT >> 20} MiB")


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: The file is missing, as `check_readable`, not UTF-8, or not JSON that Python
            reads.
    """
    check_readable(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text)
        if _HALF_PAIR.search(text):
            # A lone surrogate could be neither printed nor written again.
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
    """Return the mode of a file that is about to be replaced, or of a new one."""
    return path.stat().st_mode & 0o7777 if path.is_file() else 0o666 & ~umask()


def umask() -> int:
    """Return the process's file mode mask; the system has no way to ask without setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
