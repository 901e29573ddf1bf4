"""Crash points: any crash leaves the old or new state, and repeating the command finishes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bayeslora.io.files import OLD, hidden

from . import world
from .cases import Case, Finding, Rooms
from .crash_points import Recorder
from .process import CRASHED, Outcome, die_with_parent, run
from .trees import LITTER, Tree, changes, holds, tree, without

SCENARIO = "crash points"


@dataclass(frozen=True)
class Write:
    """A command that writes.

    Attributes:
        name: Its row in the table.
        argv: Its arguments.
        target: The path that it writes.
        before: Called in the room to create what is replaced; None if nothing is.
        prepare: Called in the child before the command.
        unfinished: Whether the target may hold an unfinished result to resume from.
    """

    name: str
    argv: tuple[object, ...]
    target: str
    before: Callable[[Path], object] | None = None
    unfinished: bool = False
    prepare: Callable[[], object] | None = None

    def run(self, room: Path, *prepare: Callable[[], object]) -> Outcome:
        """Run the command in a room, after calling `prepare` in its process."""

        def prepared() -> None:
            for step in (*([] if self.prepare is None else [self.prepare]), *prepare):
                step()

        return run(self.argv, room, prepared, limit=60)


def _in_pieces() -> None:
    """Predict four rows at a time, so that a few rows are several pieces."""
    from bayeslora.data import examples

    examples.PIECE = 4  # type: ignore[misc]


def _put(source: str, target: str, room: Path) -> None:
    """Copy another result of the same kind to the target."""
    if (room / source).is_dir():
        shutil.copytree(room / source, room / target)
    else:
        shutil.copy(room / source, room / target)


def writes() -> list[Write]:
    """Return every writing verb, onto nothing and onto an older result."""
    new = [
        Write("fit", (*world.FIT, "--out", "out"), "out", unfinished=True),
        Write(
            "predict",
            ("predict", "model", "test.jsonl", "--out", "out.parquet", *world.PREDICT),
            "out.parquet",
            unfinished=True,
            prepare=_in_pieces,
        ),
        Write(
            "calibrate",
            ("calibrate", "classifier", "train.jsonl", "--out", "out", "--quiet"),
            "out",
        ),
        Write("recalibrate", (*_applied("recalibrate"), "--out", "out.parquet"), "out.parquet"),
        Write("conformal", (*_applied("conformal"), "--out", "out.csv"), "out.csv"),
        Write("export peft", ("export", "model", "--out", "out"), "out"),
        Write("export merged", ("export", "decoder", "--out", "out", "--format", "merged"), "out"),
        Write(
            "export safetensors",
            ("export", "model", "--out", "out.safetensors", "--format", "safetensors"),
            "out.safetensors",
        ),
        Write("convert", ("convert", "test.parquet", "--out", "out.jsonl"), "out.jsonl"),
        Write("compare", ("compare", "test.parquet", "other.parquet", "--out", "out"), "out"),
        Write("report", ("report", "test.parquet", "--out", "out", "--spectrum", "model"), "out"),
        Write("info", ("info", "model", "--spectrum", "--figure", "out.svg"), "out.svg"),
    ]
    older = {
        "fit": "model",
        "predict": "valid.parquet",
        "calibrate": "model",
        "recalibrate": "valid.parquet",
        "conformal": "predictions.csv",
        "export merged": "merged",
        "convert": "predictions.jsonl",
        "compare": "table",
        "report": "report",
    }
    return new + [
        Write(
            f"{write.name} over an older one",
            (*write.argv, "--overwrite"),
            write.target,
            partial(_put, older[write.name], write.target),
            write.unfinished,
            write.prepare,
        )
        for write in new
        if write.name in older
    ]


def sampled_writes() -> list[Write]:
    """Return the writes of a file, a directory and a fit, each over an older one."""
    names = {"convert over an older one", "calibrate over an older one", "fit over an older one"}
    return [write for write in writes() if write.name in names]


def _applied(verb: str) -> tuple[object, ...]:
    return (verb, "--fit", "valid.parquet", "--apply", "test.parquet")


@dataclass(frozen=True)
class Plan:
    """A command with the states before and after a run without faults.

    Attributes:
        write: The command.
        world: Directory that its room is copied from.
        old: The target before.
        new: The target afterwards.
        rest: Everything else in the room.
        points: Its file operations, in order.
        seconds: Its duration.
    """

    write: Write
    world: Path
    old: Tree
    new: Tree
    rest: Tree
    points: list[str]
    seconds: float

    def room(self, room: Path) -> Path:
        """Create the state before the command in an empty directory."""
        world.copy(self.world, room)
        if self.write.before is not None:
            self.write.before(room)
        return room


def plan(write: Write, source: Path, rooms: Rooms) -> Plan:
    """Run a command once without a fault, and count its file operations."""
    if write.name not in rooms.plans:
        rooms.plans[write.name] = rooms.run(partial(_planned, write, source))
    made: Plan = rooms.plans[write.name]
    return made


def _planned(write: Write, source: Path, room: Path) -> Plan:
    Plan(write, source, {}, {}, {}, [], 0.0).room(room)
    old, rest = tree(room / write.target), without(tree(room), write.target)
    counted = Path(tempfile.mkdtemp()) / "points.json"

    def count() -> None:
        recorder = Recorder(room)
        recorder.install()
        leave = os._exit

        def left(code: int) -> None:
            counted.write_text(json.dumps(recorder.seen), encoding="utf-8")
            leave(code)

        os._exit = left  # type: ignore[assignment]

    begin = time.monotonic()
    result = write.run(room, count)
    seconds = time.monotonic() - begin
    if result.code:
        raise RuntimeError(f"{write.argv}: {result.err}")
    points = json.loads(counted.read_text(encoding="utf-8"))
    shutil.rmtree(counted.parent)
    return Plan(write, source, old, tree(room / write.target), rest, points, seconds)


def cases(source: Path, rooms: Rooms, *, sample: bool) -> Iterator[Case]:
    """Return cases for each way to crash at each file operation, and for kills at any time."""
    chance = random.Random(0)
    for write in sampled_writes() if sample else writes():
        made = plan(write, source, rooms)
        points = list(range(1, len(made.points) + 1))
        moments = [chance.random() for _ in range(10)]
        if sample:
            points, moments = chance.sample(points, min(2, len(points))), moments[:1]
        for point in points:
            name = f"{point:03d} killed before {made.points[point - 1]}"
            yield Case(SCENARIO, write.name, name, _crashed(made, point))
        for moment in moments:
            yield Case(SCENARIO, write.name, f"SIGKILL at {moment:.3f}", _killed(made, moment))


def _crashed(made: Plan, point: int) -> Callable[[Path], Finding]:
    def case(room: Path) -> Finding:
        made.room(room)
        first = made.write.run(room, Recorder(room, point).install)
        if first.code not in {CRASHED, 0}:
            return Finding([("failed", f"exit {first.code}: {first.err[-300:]}")])
        return _judge(made, room, first)

    return case


def _killed(made: Plan, moment: float) -> Callable[[Path], Finding]:
    def case(room: Path) -> Finding:
        made.room(room)

        def bomb() -> None:
            target = os.getpid()
            if os.fork() == 0:
                die_with_parent()
                time.sleep(moment * made.seconds)
                os.kill(target, signal.SIGKILL)
                os._exit(0)

        return _judge(made, room, made.write.run(room, bomb))

    return case


def _judge(made: Plan, room: Path, first: Outcome) -> Finding:
    """Return the problems after a crash, and after repeating the command."""
    write, problems = made.write, []
    place = room / write.target
    aside = hidden(place, OLD)  # between two renames; the next writer restores it
    state = state_of(made, tree(place if place.exists() or not aside.exists() else aside))
    if state == "lost":
        missing = changes(made.old, tree(room / write.target))
        problems.append(("lost state", f"{write.target}: {missing[:6]}"))
    again = write.run(room)
    final = tree(room / write.target)
    refused = again.code == 2 and state == "new" and write.before is None
    if refused:  # it had finished
        left = changes(made.rest, without(tree(room), write.target))
        if left:
            problems.append(("litter", f"after exit 2: {left[:6]}"))
        _remove(room / write.target)
        again, final = write.run(room), tree(room / write.target)
    if again.code != 0:
        problems.append(("not repeatable", f"exit {again.code}: {again.err[-300:]}"))
    elif final != made.new:
        problems.append(("another result", f"{changes(made.new, final)[:6]}"))
    left = changes(made.rest, without(tree(room), write.target))
    if left:
        kind = "litter" if all(_is_litter(name) for name in left) else "stray"
        problems.append((kind, f"{left[:6]}"))
    command = " ".join(map(str, ("bayeslora", *write.argv)))
    ended = "finished first" if first.code == 0 else state
    return Finding(problems, ended, command if problems else "")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def state_of(made: Plan, now: Tree) -> str:
    """Return the state of a target: `old`, `new`, `begun` if that is allowed, or `lost`."""
    if now == made.new:
        return "new"
    if now == made.old:
        return "old"
    whole = "bayeslora.json" in now or not made.write.target.startswith("out")
    if made.write.unfinished and (holds(now, made.old) if made.old else not whole):
        return "begun"
    return "lost"


def _is_litter(name: str) -> bool:
    return name.startswith("+") and (
        any(suffix in name for suffix in LITTER) or "/." in name or name.startswith(("+.", "+tmp/"))
    )
