"""Run a command in a forked child, under a watchdog.

The parent has imported everything once, so a command takes milliseconds and its CPU time is that
of its work alone. A hang is detected by CPU time and the process's state, never by wall time
alone: a busy machine does not make a case fail.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CRASHED = 99
"""Exit code of a child that ended at its crash point."""
ESCAPED = 70
"""Exit code of a child whose command raised an exception."""
HANG_SECONDS = 5
_GIVE_UP_SECONDS = 150.0
_MEMORY = 12 << 30
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command.

    Attributes:
        code: Its exit code; -N if signal N ended it.
        out: Its output to stdout.
        err: Its output to stderr.
        cpu: CPU seconds, user and system.
        hung: Whether it used more than `HANG_SECONDS` of CPU, or waited that long for something.
    """

    code: int
    out: str
    err: str
    cpu: float
    hung: bool


def run(
    argv: Sequence[object], room: Path, prepare: Callable[[], Any] | None = None, *, limit: int = 5
) -> Outcome:
    """Run a command line in a forked child and wait for its end.

    Args:
        argv: The arguments of `bayeslora`.
        room: The child's working directory; its temporary directory is the room's `tmp` if that
            exists.
        prepare: Called in the child before the command.
        limit: CPU seconds that it may use.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _child([str(word) for word in argv], room, prepare, out.fileno(), err.fileno(), limit)
        status, cpu, hung = _wait(pid, limit)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, *texts, cpu, hung or code == -signal.SIGXCPU)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _child(
    argv: list[str], room: Path, prepare: Callable[[], Any] | None, out: int, err: int, limit: int
) -> None:
    code = ESCAPED
    try:
        die_with_parent()
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((null, 0), (out, 1), (err, 2)):
            os.dup2(old, new)
        os.chdir(room)
        if (room / "tmp").is_dir():
            tempfile.tempdir = str(room / "tmp")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import torch

        from bayeslora.cli import main

        # After a fork, torch recreates its thread pool; threads that load a model concurrently
        # would race for it.
        torch.set_num_threads(1)
        if prepare is not None:
            prepare()
        code = main(argv)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(pid: int, limit: int) -> tuple[int, float, bool]:
    """Return exit status, CPU seconds, and whether the process hung and was killed."""
    begin, idle_since, last_cpu, pause = time.monotonic(), time.monotonic(), -1.0, 0.001
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage.ru_utime + usage.ru_stime, False
        now, (runs, cpu) = time.monotonic(), _activity(pid)
        if cpu != last_cpu or runs:
            idle_since, last_cpu = now, cpu
        if now - idle_since > limit or now - begin > _GIVE_UP_SECONDS:
            os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return status, usage.ru_utime + usage.ru_stime, True
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)


def _activity(pid: int) -> tuple[bool, float]:
    """Return whether a process or a descendant is runnable, and the CPU ticks that they used."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return False, 0.0
    children = [_activity(int(child)) for child in below]
    runs, used = words[0] in "RD", float(words[11]) + float(words[12])
    return runs or any(busy for busy, _ in children), used + sum(ticks for _, ticks in children)
