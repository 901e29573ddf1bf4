"""One writer at a time to each output, over processes and, on a shared file system, over machines.

The lock is a file beside the output, `.NAME.lock`, that the operating system releases when the
process ends in whatever way. A lock file that is there and not held was left by a killed process.

The library filelock would replace `_acquire` and what it calls, about fifty lines, by thirty: it
leaves the file in place, fails on a lock file that another user's killed process left, and fails or
leaves a marker (which outlives a kill) where a file system has no locks. So it is not used.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bayeslora.durable import hidden_name, leftovers, sweep
from bayeslora.errors import InputError

if sys.platform != "win32":
    import fcntl

SUFFIX = ".lock"
_PAUSE = 0.05  # seconds
_TRIES = 100
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_UNUSABLE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
)


@dataclass
class _Held:
    file: Path
    handle: int | None
    made: list[Path]
    times: int = 1


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


@contextmanager
def writing_to(path: str | Path, *, wait: float = 0.0) -> Iterator[bool]:
    """Keep other processes from writing to `path` while the context lasts.

    What killed writers left beside it is cleaned up first. The parent directories are made, and
    removed again at the end if they are still empty. Contexts of one process may be nested. Where
    the file system has no locks, or a lock file may not be made, nothing is kept out and nothing is
    cleaned up.

    Args:
        path: The output, a file or a directory, which need not exist.
        wait: Seconds to wait for another process.

    Yields:
        Whether other processes are kept out.

    Raises:
        InputError: Another process writes to it, or nothing can be written there.
    """
    target = Path(os.path.realpath(path))
    if not target.name:
        raise InputError(f"{path} is the root directory; choose another path")
    deadline = time.monotonic() + wait
    while not _enter(target):
        if time.monotonic() >= deadline:
            raise InputError(
                f"another process is writing to {target}; wait for it, or choose another path",
                code="busy",
            )
        time.sleep(_PAUSE)
    try:
        yield _held[target].handle is not None
    finally:
        _leave(target)


def recover(path: str | Path) -> None:
    """Bring back a directory that a killed writer left between two renames; see `durable`.

    Nothing happens if the path is there, or if the writer is alive.
    """
    target = Path(os.path.realpath(path))
    if not target.exists() and leftovers(target):
        with suppress(InputError, OSError), writing_to(target):
            pass


def _enter(target: Path) -> bool:
    """Begin to write to `target`; return whether no other process does."""
    with _guard:
        if target in _held:
            _held[target].times += 1
            return True
        made = [folder for folder in target.parents if not folder.exists()]
        file = target.with_name(hidden_name(target, SUFFIX))
        try:
            handle = _acquire(file)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _UNUSABLE:
                reason = _obstacle(target) or error.strerror
                raise InputError(f"{target} cannot be written: {reason}") from None
            if error.errno not in _FORBIDDEN:
                raise
            # Files may still be written into a directory whose parent is somebody else's.
            handle = None
        if handle is not None:
            sweep(target)
        _held[target] = _Held(file, handle, made)
        return True


def _acquire(file: Path) -> int | None:
    """Return the descriptor of a lock file that is locked; None if its file system has no locks.

    Raises:
        BlockingIOError: Another process has locked it.
        OSError: It cannot be made.
    """
    tries = 0
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = _open(file)
        except FileNotFoundError:
            # Another process has removed the parent, which was empty; or, as in /proc, the parent
            # takes no files.
            tries += 1
            if tries == _TRIES:
                raise
            continue
        try:
            has_locks = _lock(handle)
        except BlockingIOError:
            os.close(handle)
            raise
        if has_locks and _is_at(handle, file):
            return handle
        os.close(handle)
        if not has_locks:
            file.unlink(missing_ok=True)
            return None
        # Else its holder has removed it in the meantime.


def _obstacle(target: Path) -> str:
    """Return which file stands where a directory would have to be made; empty if none does."""
    place = next((folder for folder in target.parents if os.path.lexists(folder)), None)
    return "" if place is None or place.is_dir() else f"{place} is not a directory"


def _leave(target: Path) -> None:
    with _guard:
        held = _held[target]
        held.times -= 1
        if held.times:
            return
        del _held[target]
    with suppress(OSError):
        if held.handle is not None:
            # Unlinked first: once released, the file may be another process's lock.
            held.file.unlink(missing_ok=True)
            os.close(held.handle)
        for folder in held.made:
            folder.rmdir()


def _open(file: Path) -> int:
    follow = getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | follow, 0o666)
    except PermissionError:
        if not file.exists():  # nothing may be made here
            raise
        # The lock of another user; to read is enough to wait for it.
        return os.open(file, os.O_RDONLY | follow)


def _lock(handle: int) -> bool:
    """Lock an open file; return whether its file system has locks.

    Raises:
        BlockingIOError: Another process has locked it.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is_at(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
