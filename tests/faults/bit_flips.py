"""Flipped bits in every kind of input file: refused, or without any effect.

A text format without a checksum, or a file from another tool, cannot show that a value has
changed. Such changes are counted as `unseen`.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import world
from .cases import Case, Finding, Rooms
from .crash import Plan, plan, writes
from .crash_points import Recorder
from .process import Outcome, run
from .rules import broken
from .silent import table
from .trees import tree

SCENARIO = "flipped bits"
_NEAR = 0.01
_PREDICT = ("--out", "out.parquet", *world.PREDICT)


@dataclass(frozen=True)
class Read:
    """Files, and a command that reads them.

    Attributes:
        group: Row of the table.
        files: Files of the world, or directories that stand for all their files.
        argv: The command.
        result: Returns the result of the command.
        sealed: Whether a change must be noticed.
        near: Largest unnoticed change of a number: fingerprints of backbones round to bfloat16.
        flips: Number of flipped bits per file.
        source: Directory of the files; default: the world.
    """

    group: str
    files: tuple[str, ...]
    argv: tuple[object, ...]
    result: Callable[[Path, Outcome], Any]
    sealed: bool
    near: float = 0.0
    flips: int = 16
    source: Path | None = None


def _rows(room: Path, _: Outcome) -> Any:
    return table(room / "out.parquet")


def _tree(room: Path, _: Outcome) -> Any:
    return tree(room / "out")


def _reads() -> list[Read]:
    def predict(model: str) -> tuple[object, ...]:
        return ("predict", model, "test.jsonl", *_PREDICT)

    def calibrate(model: str) -> tuple[object, ...]:
        return ("calibrate", model, "train.jsonl", "--out", "out", "--quiet")

    def convert(file: str) -> tuple[object, ...]:
        return ("convert", file, "--out", "out.parquet")

    def read(file: str) -> tuple[object, ...]:
        return ("predict", "model", file, *_PREDICT)

    ours = [
        Read(
            "predictions .parquet",
            ("test.parquet",),
            convert("test.parquet"),
            _rows,
            False,  # pages have checksums, the footer has none
            flips=160,
        ),
        Read("our model", ("model",), predict("model"), _rows, True),
        Read("the backbone of our model", ("bert",), predict("model"), _rows, True, _NEAR, 12),
        Read(
            "our posterior of a classifier", ("laplace",), predict("laplace"), _rows, True, flips=12
        ),
        Read(
            "the classifier of our posterior",
            ("classifier",),
            predict("laplace"),
            _rows,
            True,
            _NEAR,
            30,
        ),
        Read(
            "our posterior of a PEFT checkpoint",
            ("adapted",),
            predict("adapted"),
            _rows,
            True,
            flips=12,
        ),
        Read(
            "the PEFT checkpoint of our posterior",
            ("lora/peft", "lora/base"),
            predict("adapted"),
            _rows,
            True,
            _NEAR,
            12,
        ),
    ]
    others = [
        Read(f"{what} {Path(file).suffix}", (file,), argv(file), _rows, False, flips=40)
        for what, argv, files in (
            ("predictions", convert, ("predictions.csv", "predictions.jsonl", world.LOG)),
            ("data", read, ("test.jsonl", "test.csv", "test.tsv", "data.parquet")),
        )
        for file in files
    ]
    foreign = [
        Read(
            "a classifier, first read",
            ("classifier",),
            calibrate("classifier"),
            _tree,
            False,
            flips=12,
        ),
        Read(
            "a PEFT checkpoint, first read",
            ("lora/peft",),
            calibrate("lora/peft"),
            _tree,
            False,
            flips=25,
        ),
        Read(
            "a merged export, first read", ("merged",), calibrate("merged"), _tree, False, flips=8
        ),
    ]
    return [*ours, *others, *foreign]


def cases(source: Path, rooms: Rooms, *, sample: bool) -> Iterator[Case]:
    """Return a case for each kind of damage to each file."""
    chance = random.Random(5)
    reads = [*_reads(), *_interrupted(source, rooms)]
    for read in reads[::8] if sample else reads:
        damages = list(_damages(read, source, rooms))
        yield from chance.sample(damages, 2) if sample else damages


def _damages(read: Read, source: Path, rooms: Rooms) -> Iterator[Case]:
    expected = rooms.run(partial(_undamaged, read, source))
    place = read.source or source
    files = sorted(
        path
        for name in read.files
        for path in ((place / name).rglob("*") if (place / name).is_dir() else [place / name])
        if path.is_file()
    )
    for path in files:
        name = str(path.relative_to(place))
        chance = random.Random(f"{read.group} {name}")
        for how, content in _damaged(path.read_bytes(), chance, read.flips):
            run_it = partial(_case, read, source, name, content, expected)
            yield Case(SCENARIO, read.group, f"{name} {how}", run_it)


def _damaged(content: bytes, chance: random.Random, flips: int) -> Iterator[tuple[str, bytes]]:
    if not content:
        return
    for _ in range(flips):
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        yield f"bit {bit} of byte {place}", bytes(flipped)
    for _ in range(max(2, flips // 10)):
        cut = chance.randrange(len(content))
        yield f"cut at {cut}", content[:cut]
        hole = content[:cut] + bytes(min(16, len(content) - cut)) + content[cut + 16 :]
        if hole != content:
            yield f"zeros at {cut}", hole


def _ready(read: Read, source: Path, room: Path) -> None:
    world.copy(source, room)
    if read.source is not None:
        for name in read.files:
            shutil.copytree(read.source / name, room / name)


def _undamaged(read: Read, source: Path, room: Path) -> Any:
    _ready(read, source, room)
    outcome = run(read.argv, room)
    if outcome.code:
        raise RuntimeError(f"{read.argv}: {outcome.err}")
    return read.result(room, outcome)


def _case(
    read: Read, source: Path, name: str, content: bytes, expected: Any, room: Path
) -> Finding:
    _ready(read, source, room)
    (room / name).write_bytes(content)
    outcome = run(read.argv, room)
    problems = broken(outcome)
    ended = "refused" if outcome.code == 2 else "failed"
    if outcome.code == 0:
        result = read.result(room, outcome)
        ended = "same" if result == expected else "unseen"
        if ended == "unseen" and read.near and _moved(result, expected) <= read.near:
            ended = "rounded"
        if ended == "unseen" and read.sealed:
            problems.append(("silent", "another result"))
    command = " ".join(map(str, ("bayeslora", *read.argv)))
    return Finding(problems, ended, command if problems else "")


def _moved(actual: list[dict[str, Any]], expected: list[dict[str, Any]]) -> float:
    """Return the largest difference between numbers; infinity if anything else differs."""
    most = 0.0
    if len(actual) != len(expected):
        return math.inf
    for row, known_row in zip(actual, expected, strict=True):
        for name in row.keys() | known_row.keys():
            value, known = row.get(name), known_row.get(name)
            if isinstance(value, float) and isinstance(known, float):
                most = max(most, abs(value - known))
            elif value != known and name != "prediction":
                return math.inf
    return most


def _interrupted(source: Path, rooms: Rooms) -> list[Read]:
    """Return the read of an interrupted fit by the fit that resumes it."""
    fit = next(write for write in writes() if write.name == "fit")
    made = plan(fit, source, rooms)
    last = next(n for n, point in enumerate(made.points, 1) if "bayeslora.json" in point)
    interrupted = source.with_name("interrupted")
    if not interrupted.exists():
        rooms.run(partial(_interrupt, made, last, interrupted))
    argv = fit.argv
    return [
        Read("an interrupted fit", (fit.target,), argv, _tree, False, flips=8, source=interrupted)
    ]


def _interrupt(made: Plan, point: int, out: Path, room: Path) -> None:
    made.room(room)
    made.write.run(room, Recorder(room, point).install)
    out.mkdir()
    shutil.copytree(room / made.write.target, out / made.write.target)
