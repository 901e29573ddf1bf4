"""Cases, their findings, and their parallel execution.

Models store absolute paths, so every case must see its directory at the same path. Each case
therefore runs in its own mount namespace; if the system does not allow that, cases run in sequence.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .process import die_with_parent

_PATIENCE_SECONDS = 300.0
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _MS_BIND = 0x20000, 0x4000, 1 << 18, 0x1000


@dataclass(frozen=True)
class Finding:
    """The result of a case.

    Attributes:
        problems: Broken promises, kind and detail; empty if all were kept.
        outcome: A single word for the tables, such as `refused`, `same` or `unseen`.
        command: How to reproduce a problem; empty without one.
    """

    problems: list[tuple[str, str]] = field(default_factory=list)
    outcome: str = ""
    command: str = ""


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        scenario: The part of the campaign that it belongs to.
        group: Its row in the part's table.
        name: Its unique name within the group.
        run: Called with an empty directory for this case alone.
    """

    scenario: str
    group: str
    name: str
    run: Callable[[Path], Finding]

    @property
    def key(self) -> str:
        """Name of the case in the results."""
        return f"{self.scenario}/{self.group}/{self.name}"


def can_isolate() -> bool:
    """Return whether this system allows mount namespaces."""
    pid = os.fork()
    if pid == 0:
        os._exit(ctypes.CDLL(None).unshare(_CLONE_NEWNS) and 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount a file system that only this process and its children see."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode() or None)
    if libc.mount(*arguments, flags, options.encode() or None):
        raise OSError(ctypes.get_errno(), f"mount {source} {target}")


class Rooms:
    """Runs functions in processes, each with an empty, private directory `room`."""

    def __init__(self, work: Path, jobs: int) -> None:
        self.room = work / "room"
        self.isolated = can_isolate()
        self.jobs = jobs if self.isolated else 1
        self.plans: dict[str, Any] = {}
        self._number = 0

    def run(self, function: Callable[[Path], Any]) -> Any:
        """Return the result of a function of a room.

        Raises:
            RuntimeError: The function failed; the message contains the traceback.
        """
        pipe, pid, place = self.start(function)
        good, value = _value(pipe, pid)
        shutil.rmtree(place)
        if not good:
            raise RuntimeError(value)
        return value

    def start(self, function: Callable[[Path], Any]) -> tuple[int, int, Path]:
        """Return the read end of a pipe for the value, the process id, and its directory."""
        self._number += 1
        place = self.room.with_name(f"room-{self._number}") if self.isolated else self.room
        place.mkdir(parents=True)
        self.room.mkdir(exist_ok=True)
        read, write = os.pipe()
        pid = os.fork()
        if pid:
            os.close(write)
            return read, pid, place
        os.close(read)
        try:
            os.setpgid(0, 0)
            die_with_parent()
            try:
                if self.isolated:
                    ctypes.CDLL(None).unshare(_CLONE_NEWNS)
                    mount("none", Path("/"), flags=_MS_REC | _MS_PRIVATE)
                    mount(str(place), self.room, flags=_MS_BIND)
                value = True, function(self.room)
            except BaseException:
                value = False, traceback.format_exc()[-2000:]
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(value, pipe)
        finally:
            os._exit(0)


def run_all(cases: Iterable[Case], rooms: Rooms) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Run each case in a separate process and directory, and yield the findings."""
    running: dict[int, tuple[Case, int, Path, float]] = {}
    waiting = iter(cases)
    case = next(waiting, None)
    while running or case is not None:
        while case is not None and len(running) < rooms.jobs:
            pipe, pid, place = rooms.start(case.run)
            running[pipe] = (case, pid, place, time.monotonic())
            case = next(waiting, None)
        for pipe in select.select(list(running), [], [], 1.0)[0]:
            ended, pid, place, begin = running.pop(pipe)
            good, value = _value(pipe, pid)
            finding = value if good else Finding([("harness", value)])
            yield ended, {**asdict(finding), "seconds": round(time.monotonic() - begin, 2)}
            shutil.rmtree(place, ignore_errors=True)
        for _, pid, _, begin in running.values():
            if time.monotonic() - begin > _PATIENCE_SECONDS:
                os.killpg(pid, signal.SIGKILL)


def _value(pipe: int, pid: int) -> tuple[bool, Any]:
    with os.fdopen(pipe, "rb") as file:
        content = file.read()
    os.waitpid(pid, 0)
    return pickle.loads(content) if content else (False, "the case was killed")


def store_line(case: Case, finding: dict[str, Any]) -> str:
    """Return a case's result as a line of JSON."""
    return json.dumps({"case": case.key, **finding}, ensure_ascii=True) + "\n"
