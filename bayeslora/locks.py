"""Locks for one writer per output, across processes and, on a shared file system, machines.

The lock is a file beside the output, `.NAME.lock`, that the operating system releases when the
process ends in any way. An unlocked lock file was left by a killed process.

The library filelock would replace `_acquire` and its helpers, about fifty lines, by thirty. It is
not used, since it leaves the file in place, fails on a lock file left by another user's killed
process, and fails or leaves a marker (which outlives a kill) on a file system without locks.
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


_locks: dict[Path, _Held] = {}
_guard = threading.Lock()


@contextmanager
def writing_to(path: str | Path, *, wait: float = 0.0) -> Iterator[bool]:
    """Keep other processes from writing to `path` while the context lasts.

    Leftovers of killed writers beside it are cleaned up first. Parent directories are created, and
    removed at the end if they are still empty. Contexts of one process may be nested. If the file
    system has no locks, or a lock file cannot be created, there is no lock and no clean-up.

    Args:
        path: The output, a file or a directory, which need not exist.
        wait: Seconds to wait for another process.

    Yields:
        Whether other processes are locked out.

    Raises:
        InputError: Another process is writing to it, or it cannot be written.
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
        yield _locks[target].handle is not None
    finally:
        _leave(target)


def recover(path: str | Path) -> None:
    """Restore a directory after a writer was killed between two renames; see `durable`.

    Nothing happens if the path exists, or if the writer is alive.
    """
    target = Path(os.path.realpath(path))
    if not target.exists() and leftovers(target):
        with suppress(InputError, OSError), writing_to(target):
            pass


def _enter(target: Path) -> bool:
    """Lock `target`; return False if another process has locked it."""
    with _guard:
        if target in _locks:
            _locks[target].times += 1
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
            # A directory may be writable although its parent is not.
            handle = None
        if handle is not None:
            sweep(target)
        _locks[target] = _Held(file, handle, made)
        return True


def _acquire(file: Path) -> int | None:
    """Lock a lock file and return its descriptor; None if the file system has no locks.

    Raises:
        BlockingIOError: Another process has locked it.
        OSError: It cannot be created.
    """
    tries = 0
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = _open(file)
        except FileNotFoundError:
            # Another process removed the empty parent; or the parent takes no files, as in /proc.
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
        # Otherwise its holder removed it in the meantime.


def _obstacle(target: Path) -> str:
    """Return the problem if a file is in the place of a parent directory; empty if none is."""
    parent = next((folder for folder in target.parents if os.path.lexists(folder)), None)
    return "" if parent is None or parent.is_dir() else f"{parent} is not a directory"


def _leave(target: Path) -> None:
    with _guard:
        lock = _locks[target]
        lock.times -= 1
        if lock.times:
            return
        del _locks[target]
    with suppress(OSError):
        if lock.handle is not None:
            # Unlinked first: after the release, it may be the lock of another process.
            lock.file.unlink(missing_ok=True)
            os.close(lock.handle)
        for folder in lock.made:
            folder.rmdir()


def _open(file: Path) -> int:
    follow = getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | follow, 0o666)
    except PermissionError:
        if not file.exists():  # no file can be created here
            raise
        # Another user's lock; read access is enough to wait for it.
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
