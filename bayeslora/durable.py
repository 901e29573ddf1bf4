"""Writes that survive a killed process and a power cut: syncing, exchanging, cleaning up.

A file or directory is written under a temporary name beside its target, `.NAME.xxxxxxxx.part`,
synced, and renamed. Whenever the process is killed, the target has its old or its new state.

A directory cannot be renamed onto a non-empty one. Linux exchanges two names in one step
(`renameat2`). If the system or file system cannot, the old directory is first renamed to
`.NAME.xxxxxxxx.old`; after a kill between the two renames the target is missing, and `sweep`
restores the old directory.

The replaced directory is then at `.NAME.xxxxxxxx.gone`. A file may have been added to it at the
last moment, so it is not deleted here; see `output`.
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
# Errors of renaming onto a non-empty directory or onto a file.
_OCCUPIED = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space: on the disk, in a quota, or within a limit on the size of a file."""
# Bytes. A failed write of torch was larger; a page or two may be left.
_NOTHING = 1 << 16
# Of the 255 bytes of a name; leaves space for suffixes of ours and of other libraries.
_LONGEST_STEM = 200


def hidden_name(target: Path, suffix: str) -> str:
    """Return the name of a hidden file beside `target`, such as `.NAME.lock`."""
    return f".{_stem(target)}{suffix}"


def temporary_file(target: Path) -> Path:
    """Create an empty file beside `target` and return its path."""
    prefix = hidden_name(target, ".")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=PART)
    os.close(handle)
    return Path(name)


def temporary_directory(target: Path) -> Path:
    """Create an empty directory beside `target` and return its path."""
    prefix = hidden_name(target, ".")
    return Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=PART))


def sync(path: Path) -> None:
    """Flush a file's content, or a directory's entries, to the disk.

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
    """Sync every file and directory below `directory`, then `directory`, without following links.

    Raises:
        OSError: A file or directory could not be written, or was deleted.
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
    """Turn out-of-space errors in the block into an OSError with the name of `path`.

    Python's own error of a failed write has no file name, Arrow and safetensors raise errors of
    their own, and torch's error does not state the reason.

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
    """Return the reason for missing space, one of `FULL`; None for any other error."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in FULL else None
    reasons = [code for code in sorted(FULL) if os.strerror(code) in str(error)]
    if reasons:
        return reasons[0]
    parent = next((folder for folder in path.parents if folder.is_dir()), None)
    is_full = parent is not None and shutil.disk_usage(parent).free < _NOTHING
    return errno.ENOSPC if is_full and isinstance(error, RuntimeError) else None


def replace_file(temporary: Path, target: Path) -> None:
    """Rename a written file to `target`, durably."""
    sync(temporary)
    temporary.replace(target)
    sync(target.parent)


def replace_directory(temporary: Path, target: Path) -> Path | None:
    """Rename a written directory to `target`.

    After a failure or a kill, `target` has its old or its new state, at the latest after `sweep`.

    Returns:
        The new path of the replaced directory, a `.gone`; None if `target` was missing or an empty
        directory.
    """
    sync_tree(temporary)
    old = None
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        old = _swap(temporary, target)
    sync(target.parent)
    return old


def _swap(temporary: Path, target: Path) -> Path:
    """Rename `temporary` to `target` and return the replaced directory's new path, a `.gone`."""
    replaced = temporary.with_suffix(GONE)
    # Renamed first, since `sweep` deletes a `.part` without looking into it.
    temporary.rename(replaced)
    if _exchange(replaced, target):
        return replaced
    replaced.rename(temporary)
    old = temporary.with_suffix(OLD)
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    return old.rename(replaced)


def leftovers(target: Path) -> list[Path]:
    """Return the temporary files and directories beside `target`, including those in use."""
    pattern = re.compile(rf"\.{re.escape(_stem(target))}\.[a-z0-9_]{{8}}({PART}|{OLD}|{GONE})")
    try:
        return [Path(entry) for entry in os.scandir(target.parent) if pattern.fullmatch(entry.name)]
    except OSError:
        return []


def sweep(target: Path) -> None:
    """Clean up after killed writers of `target`; no other process may be writing it.

    Unfinished files and directories are deleted. If `target` is missing, its previous state is
    restored.
    """
    with suppress(OSError):
        for path in leftovers(target):
            if path.suffix == PART:
                remove(path)
            elif path.suffix == OLD:
                path.rename(path.with_suffix(GONE) if os.path.lexists(target) else target)
                sync(target.parent)


def remove(path: Path) -> None:
    """Delete one of our files or directories as far as possible; it may be missing."""
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


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths atomically; return whether that was possible."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system, or an old C library
        return False
    names = (os.fsencode(first), os.fsencode(second))
    code: int = call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return code == 0
