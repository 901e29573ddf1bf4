"""Disks that fill up at every size, and file-size limits."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .cases import Case, Finding, Rooms, mount
from .crash import Plan, Write, plan, sampled_writes, state_of, writes
from .process import Outcome
from .trees import changes, tree, without

SCENARIO = "full disk"
_PAGE = 4096
_ROOM_BYTES = 48 << 20
_STEPS = 16
_FILLER = "filler"


def cases(source: Path, rooms: Rooms, *, sample: bool) -> Iterator[Case]:
    """Return a case for each size at which the disk is full or a file reaches its limit."""
    chance = random.Random(2)
    for write in sampled_writes() if sample else writes():
        made = plan(write, source, rooms)
        pool = [*_sizes(made), *_limits(made)]
        yield from chance.sample(pool, 1) if sample else pool


def _sizes(made: Plan) -> list[Case]:
    need = made.pages
    steps = sorted({need * step // _STEPS for step in range(_STEPS + 1)}) if need else []
    return [
        Case(SCENARIO, made.write.name, f"{pages * 4} KiB free", partial(_full, made, pages))
        for pages in steps
    ]


def _limits(made: Plan) -> list[Case]:
    largest = made.largest
    sizes = sorted({max(1024, largest * step // 4 - step % 3) for step in range(5)})
    return [
        Case(SCENARIO, made.write.name, f"files of {size} bytes", partial(_limited, made, size))
        for size in sizes
    ]


def _fill(made: Plan, room: Path, pages: int) -> None:
    """Create the state before the command, with some pages free."""
    made.room(room)
    free = shutil.disk_usage(room).free // _PAGE
    with (room / _FILLER).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - pages) * _PAGE)


def _full(made: Plan, pages: int, room: Path) -> Finding:
    mount("tmpfs", room, "tmpfs", options=f"size={_ROOM_BYTES}")
    _fill(made, room, pages)
    return _judge(made, room, made.write.run(room), filled=True)


def _limited(made: Plan, size: int, room: Path) -> Finding:
    made.room(room)
    (room / _FILLER).touch()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return _judge(made, room, made.write.run(room, limit), filled=False)


def _names(message: str, target: str) -> bool:
    """Return whether a message reports a full disk and names the target."""
    return re.search(rf"no space left on the disk for .*{re.escape(target)}", message) is not None


def _judge(made: Plan, room: Path, outcome: Outcome, *, filled: bool) -> Finding:
    write: Write = made.write
    problems = []
    if outcome.code not in {0, 1, 2}:
        problems.append(("died", f"exit {outcome.code}: {outcome.err[-300:]}"))
    if "Traceback" in outcome.err or (outcome.code and "error: " not in outcome.err):
        problems.append(("no sentence", f"exit {outcome.code}: {outcome.err[-300:]}"))
    if outcome.code == 1 and filled and not _names(outcome.err, write.target):
        problems.append(("no name", outcome.err[-300:]))
    state = state_of(made, tree(room / write.target))
    if state == "lost" or (outcome.code == 0 and state != "new"):
        problems.append(("lost state", f"exit {outcome.code}, {state}"))
    left = changes(made.rest, without(tree(room), write.target, _FILLER))
    if left and not (write.unfinished and outcome.code):
        problems.append(("litter", f"{left[:5]}"))
    (room / _FILLER).unlink()
    if outcome.code:
        again = write.run(room)
        if again.code or tree(room / write.target) != made.new:
            problems.append(("not repeatable", f"exit {again.code}: {again.err[-300:]}"))
        elif left := changes(made.rest, without(tree(room), write.target)):
            problems.append(("litter", f"{left[:5]}"))
    command = " ".join(map(str, ("bayeslora", *write.argv)))
    return Finding(problems, "done" if outcome.code == 0 else "said", command if problems else "")
