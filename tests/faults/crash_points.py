"""Count file operations, and end the process at a chosen one.

Python's audit events name every operation that changes a file system except `write`, which is
wrapped. Native code (safetensors, pyarrow) writes
between two such points; `crash.kills` covers it by SIGKILL at any time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .process import CRASHED

_ON_PATHS = {
    "os.rename": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.chmod": 1,
    "os.truncate": 1,
    "os.link": 2,
    "os.symlink": 2,
}
"""Number of paths of each audit event of an operation that changes a file system."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Recorder:
    """Counts operations below a directory, and ends the process before a chosen one.

    Attributes:
        seen: The operations so far.
    """

    def __init__(self, root: Path, stop: int = 0) -> None:
        self.root = os.path.realpath(root)
        self.stop = stop
        self.seen: list[str] = []
        self._busy = False

    def install(self) -> None:
        """Count operations in this process from now until its end."""
        sys.addaudithook(self._hook)
        for name in ("write", "posix_fallocate", "ftruncate"):
            setattr(os, name, self._wrapped(getattr(os, name), name))

    def _wrapped(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapper(handle: int, *args: Any) -> Any:
            self._meet(name, _of_handle(handle))
            return call(handle, *args)

        return wrapper

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self._busy:
            return
        if event == "open":
            path, mode, flags = args
            writes = flags & _WRITES if isinstance(flags, int) else set(mode or "") & set("wax+")
            if writes and not isinstance(path, int):
                self._meet("open", path)
        elif event in _ON_PATHS:
            for path in args[: _ON_PATHS[event]]:
                if self._inside(path, args):
                    self._meet(event.removeprefix("os."), path, args)
                    break

    def _inside(self, path: Any, args: tuple[Any, ...] = ()) -> bool:
        return f"{self._absolute(path, args)}/".startswith(f"{self.root}/")

    def _absolute(self, path: Any, args: tuple[Any, ...]) -> str:
        if isinstance(path, int):
            return _of_handle(path)
        name = os.fsdecode(path)
        handle = args[-1] if args and isinstance(args[-1], int) and args[-1] >= 0 else None
        if not os.path.isabs(name) and handle is not None and len(args) > 1:
            return os.path.join(_of_handle(handle), name)
        return os.path.abspath(name)

    def _meet(self, event: str, path: Any, args: tuple[Any, ...] = ()) -> None:
        if self._busy or not self._inside(path, args):
            return
        self._busy = True
        name = os.path.relpath(self._absolute(path, args), self.root)
        self.seen.append(f"{event} {name}")
        if len(self.seen) == self.stop:
            os._exit(CRASHED)
        self._busy = False


def _of_handle(handle: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""
