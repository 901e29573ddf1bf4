"""What survives a killed process and a power cut: syncing, exchanging, cleaning up.

A file or directory is written under a temporary name beside its target, `.NAME.xxxxxxxx.part`,
synced, and renamed. Whenever the process is killed, the target is the old or the new state.

A directory cannot be renamed onto one that holds files. Linux exchanges two names in one step
(`renameat2`). Where the system or file system cannot, the old directory is first renamed to
`.NAME.xxxxxxxx.old`; after a kill between the two renames the target is missing, and `sweep` brings
the old one back.

What was replaced is then at `.NAME.xxxxxxxx.gone`. Somebody may have put a file into it at the last
moment, so it is not deleted here; see `output`.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

PART, OLD, GONE = ".part", ".old", ".gone"

# From the kernel's headers.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# Some file systems cannot sync directories.
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES})
# What a rename onto a directory that holds files, or onto a file, fails with.
_OCCUPIED = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room: on the disk, in a quota, or within a limit on the size of a file."""
# Bytes; what torch could not write was larger, and a page or two may be left.
_NOTHING = 1 << 16
# Of the 255 bytes of a name, so that ours and the temporary names of libraries fit.
_LONGEST_STEM = 200


def hidden_name(target: Path, suffix: str) -> str:
    """Return the name of something beside `target` that belongs to it, such as `.NAME.lock`."""
    return f".{_stem(target)}{suffix}"


def temporary_file(target: Path) -> Path:
    """Make an empty file beside `target` and return it."""
    prefix = hidden_name(target, ".")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=PART)
    os.close(handle)
    return Path(name)


def temporary_directory(target: Path) -> Path:
    """Make an empty directory beside `target` and return it."""
    prefix = hidden_name(target, ".")
    return Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=PART))


def sync(path: Path) -> None:
    """Write a file's content, or a directory's entries, through to the disk.

    Raises:
        OSError: The content could not be written, as on a failing disk.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not stat.S_ISDIR(os.fstat(handle).st_mode) or error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def sync_tree(directory: Path) -> None:
    """Sync every file and directory below `directory`, and itself last; links are not followed.

    Raises:
        OSError: Something could not be written, or is gone.
    """
    for folder, _, files in os.walk(directory, topdown=False, onerror=_raise):
        for name in files:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                sync(path)
        sync(Path(folder))


def _raise(error: OSError) -> NoReturn:
    raise error


@contextmanager
def naming_full_disk(path: str | Path) -> Iterator[None]:
    """Add the name of `path` to an OSError for lack of space that the block raises.

    Python's own error has no name where a write fails, Arrow and safetensors have errors of their
    own, and torch's does not say what happened.

    Raises:
        OSError: `errno` is one of `FULL`.
    """
    try:
        yield
    except Exception as error:
        reason = _no_room(error, Path(path))
        if reason is None:
            raise
        raise OSError(reason, os.strerror(reason), str(path)) from error


def _no_room(error: Exception, path: Path) -> int | None:
    """Return why there is no room, one of `FULL`; None where an error is of something else."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in FULL else None
    named = [code for code in sorted(FULL) if os.strerror(code) in str(error)]
    if named:
        return named[0]
    place = next((folder for folder in path.parents if folder.is_dir()), None)
    is_full = place is not None and shutil.disk_usage(place).free < _NOTHING
    return errno.ENOSPC if is_full and isinstance(error, RuntimeError) else None


def replace_file(aside: Path, target: Path) -> None:
    """Rename a written file to `target`, so that it survives a power cut."""
    sync(aside)
    aside.replace(target)
    sync(target.parent)


def replace_directory(aside: Path, target: Path) -> Path | None:
    """Rename a written directory to `target`.

    If that fails, or the process is killed, the old state or the new one is at `target`, at the
    latest after `sweep`.

    Returns:
        The new name of what was at `target`, a `.gone`; None where nothing was there, or an empty
        directory.
    """
    sync_tree(aside)
    old = None
    try:
        aside.rename(target)
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        old = _swap(aside, target)
    sync(target.parent)
    return old


def _swap(aside: Path, target: Path) -> Path:
    """Give `aside` the name `target`; return the new name of what was there, a `.gone`."""
    gone = aside.with_suffix(GONE)
    # First, as `sweep` deletes a `.part` without looking into it.
    aside.rename(gone)
    if _exchange(gone, target):
        return gone
    gone.rename(aside)
    old = aside.with_suffix(OLD)
    target.rename(old)
    try:
        aside.rename(target)
    except BaseException:
        old.rename(target)
        raise
    return old.rename(gone)


def leftovers(target: Path) -> list[Path]:
    """Return the temporary files and directories beside `target`, of living writers too."""
    ours = re.compile(rf"\.{re.escape(_stem(target))}\.[a-z0-9_]{{8}}({PART}|{OLD}|{GONE})")
    try:
        return [Path(entry) for entry in os.scandir(target.parent) if ours.fullmatch(entry.name)]
    except OSError:
        return []


def sweep(target: Path) -> None:
    """Clean up after writers of `target` that were killed; no other process may be writing it.

    Unfinished files and directories are deleted. Where `target` is missing, what was there before
    is brought back.
    """
    with suppress(OSError):
        for path in leftovers(target):
            if path.suffix == PART:
                remove(path)
            elif path.suffix == OLD:
                path.rename(path.with_suffix(GONE) if os.path.lexists(target) else target)
                sync(target.parent)


def remove(path: Path) -> None:
    """Delete a file or directory of ours, as far as that is possible; it may be missing."""
    with suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        path.chmod(0o700)
        for folder, names, _ in os.walk(path):
            for inner in (Path(folder, name) for name in names):
                if not inner.is_symlink():
                    inner.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


def _stem(target: Path) -> str:
    name = target.name
    if len(os.fsencode(name)) <= _LONGEST_STEM:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; return whether that was possible."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system, or an old C library
        return False
    names = (os.fsencode(one), os.fsencode(other))
    code: int = call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return code == 0
