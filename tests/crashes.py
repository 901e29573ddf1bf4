"""Kill a writer at each of its file operations."""

import io
import os
from collections.abc import Callable, Iterator

_OPERATIONS = ("open", "mkdir", "rmdir", "unlink", "rename", "replace", "chmod", "fsync", "link")
_DEAD = 99


def survivors(write: Callable[[], object], *, most: int = 300) -> Iterator[int]:
    """Run `write` in a child that dies just before its first, second, … file operation.

    Yields the number of each child that died; ends with the first child that survives.
    """
    for number in range(1, most):
        if not killed(write, number):
            return
        yield number
    raise AssertionError(f"the writer has more than {most} file operations")


def killed(write: Callable[[], object], number: int) -> bool:
    """Run `write` in a child that dies just before a file operation; return whether it died."""
    child = os.fork()
    if child == 0:
        os._exit(_run(write, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, _DEAD}, "the writer failed"
    return code == _DEAD


def _run(write: Callable[[], object], number: int) -> int:
    count = 0

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == number:
                os._exit(_DEAD)
            return call(*args, **options)

        return counted

    for name in _OPERATIONS:
        setattr(os, name, dying(getattr(os, name)))
    io.open = dying(io.open)  # type: ignore[assignment]
    try:
        write()
    except BaseException:
        return 1
    return 0
