"""Malformed input to every verb: refused in a sentence, or read according to its content."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import generated, mutate, mutate_parquet, options, pages, silent, world
from .cases import Case, Finding, Rooms
from .rules import obeyed

SCENARIO = "malformed input"
Changed = tuple[str, bytes]
_OUT = ("--out", "out.parquet")
_FIT = ("fit", "{}", "--backbone", "bert", "--posterior", "map", "--epochs", 1, "--quiet")
_DATA_VERBS = (
    (("predict", "model", "{}", *_OUT, *world.PREDICT), silent.as_data(silent.predicted)),
    (("predict", "model", "{}", *_OUT, *world.PREDICT), silent.as_data(silent.predicted)),
    ((*_FIT, "--out", "out"), silent.as_data(silent.fitted)),
    (
        ("calibrate", "classifier", "{}", "--out", "out", "--quiet"),
        silent.as_data(silent.fitted),
    ),
)
_SCORED = silent.as_predictions(silent.taken)
_APPLIED = silent.as_predictions(silent.applied)
_PREDICTION_VERBS = (
    (("evaluate", "{}", "--json"), silent.as_predictions(silent.evaluated)),
    (("convert", "{}", *_OUT), silent.as_predictions(silent.converted)),
    (("recalibrate", "--fit", "valid.parquet", "--apply", "{}", *_OUT), _APPLIED),
    (("recalibrate", "--fit", "{}", "--apply", "valid.parquet", *_OUT), _SCORED),
    (("conformal", "--fit", "valid.parquet", "--apply", "{}", *_OUT), _APPLIED),
    (("compare", "{}", "other.parquet"), _SCORED),
    (("evaluate", "valid.parquet", "--ood", "odd={}", "--json"), _SCORED),
    (("report", "{}", "--out", "out"), _SCORED),
)
_MODEL_VERBS = (
    (("predict", "model", "test.jsonl", *_OUT, *world.PREDICT), silent.unchanged),
    (("predict", "model", "test.jsonl", *_OUT, *world.PREDICT), silent.unchanged),
    (("export", "model", "--out", "out"), None),
    (("info", "model"), None),
    (("info", "model", "--spectrum"), None),
    (("calibrate", "model", "train.jsonl", "--out", "out", "--quiet"), None),
)
_FOREIGN_VERBS = ((("calibrate", "{}", "train.jsonl", "--out", "out", "--quiet"), None),)


@dataclass(frozen=True)
class Door:
    """A kind of file, its changes, and the commands that read it.

    Attributes:
        group: Row of the table.
        source: File of the world that is changed.
        target: Name of the changed file.
        change: Writes the changed file; returns a description of the change.
        verbs: Command lines, with `{}` for `named`, and the check of an accepted file.
        count: Number of cases.
        named: The path in command lines; default: `target`.
    """

    group: str
    source: str
    target: str
    change: Callable[[Path, Path, random.Random], str]
    verbs: tuple[tuple[tuple[object, ...], silent.Check | None], ...]
    count: int
    named: str = ""


def _by_bytes(change: Callable[[bytes, random.Random], Changed]) -> Callable[..., str]:
    def write(source: Path, target: Path, chance: random.Random) -> str:
        how, content = change(source.read_bytes(), chance)
        target.write_bytes(content)
        return how

    return write


def _json_file(content: bytes, chance: random.Random) -> Changed:
    if chance.random() < 0.3:
        return mutate.bytes_of(content, chance)
    how, text = mutate.json_text(content.decode(), chance)
    return how, text.encode("utf-8", "surrogatepass")


def _json_list(content: bytes, chance: random.Random) -> Changed:
    rows = [json.loads(line) for line in content.decode().splitlines()]
    indent = chance.choice((None, 1))
    return _json_file(json.dumps(rows, indent=indent).encode(), chance)


def _tensors(content: bytes, chance: random.Random) -> Changed:
    """Change the header of a safetensors file, or its bytes."""
    size = int.from_bytes(content[:8], "little")
    if chance.random() < 0.4:
        return mutate.bytes_of(content, chance)
    how, text = mutate.json_text(content[8 : 8 + size].decode(), chance)
    header = text.encode("utf-8", "surrogatepass")
    length = len(header) if chance.random() < 0.8 else chance.choice((0, 1, 2**40, 2**63))
    return how, length.to_bytes(8, "little") + header + content[8 + size :]


_LINES, _TABLE = _by_bytes(mutate.json_lines), _by_bytes(mutate.csv_table)
_TABS = _by_bytes(partial(mutate.csv_table, delimiter="\t"))
_JSON, _LIST, _TENSORS = _by_bytes(_json_file), _by_bytes(_json_list), _by_bytes(_tensors)


def doors() -> list[Door]:
    """Return every kind of file with its number of cases."""
    data, scored = _DATA_VERBS, _PREDICTION_VERBS
    return [
        Door("data .jsonl", "test.jsonl", "bad.jsonl", _LINES, data, 240),
        Door("data .json", "test.jsonl", "bad.json", _LIST, data, 120),
        Door("data .csv", "test.csv", "bad.csv", _TABLE, data, 200),
        Door("data .tsv", "test.tsv", "bad.tsv", _TABS, data, 80),
        Door("data .parquet", "data.parquet", "bad.parquet", mutate_parquet.table, data, 160),
        Door("predictions .jsonl", "predictions.jsonl", "bad.jsonl", _LINES, scored, 240),
        Door("predictions .csv", "predictions.csv", "bad.csv", _TABLE, scored, 240),
        Door(
            "predictions .parquet", "test.parquet", "bad.parquet", mutate_parquet.table, scored, 200
        ),
        Door("sample log", world.LOG, world.LOG, _LINES, _unchecked(scored), 80),
        *_models(),
        *_foreign(),
    ]


def _unchecked(
    verbs: tuple[tuple[tuple[object, ...], silent.Check | None], ...],
) -> tuple[tuple[tuple[object, ...], None], ...]:
    return tuple((argv, None) for argv, _ in verbs)


def _models() -> list[Door]:
    files = {
        "bayeslora.json": (_JSON, 120),
        "adapter.safetensors": (_TENSORS, 40),
        "posterior.safetensors": (_TENSORS, 40),
        "tokenizer.json": (_JSON, 40),
        "tokenizer_config.json": (_JSON, 30),
    }
    sealed = [
        Door("model directory", f"model/{name}", f"model/{name}", change, _MODEL_VERBS, count // 4)
        for name, (change, count) in files.items()
    ]
    # An older model has no hashes: its files are read and may define a different model.
    older = [
        Door(
            "model directory without hashes",
            f"old-model/{name}",
            f"model/{name}",
            change,
            _unchecked(_MODEL_VERBS),
            count,
        )
        for name, (change, count) in files.items()
    ]
    return [*sealed, *older]


def _foreign() -> list[Door]:
    files = {
        "classifier/config.json": (_JSON, 80),
        "classifier/tokenizer.json": (_JSON, 40),
        "classifier/tokenizer_config.json": (_JSON, 30),
        "classifier/model.safetensors": (_TENSORS, 30),
        "lora/peft/adapter_config.json": (_JSON, 60),
        "lora/peft/adapter_model.safetensors": (_TENSORS, 40),
    }
    return [
        Door(
            "foreign classifier", name, name, change, _FOREIGN_VERBS, count, name.rpartition("/")[0]
        )
        for name, (change, count) in files.items()
    ]


def cases(source: Path, rooms: Rooms, *, sample: bool) -> Iterator[Case]:
    """Return a case for each malformed input."""
    every = 400 if sample else 1
    pool = [
        *_mutated(source),
        *generated.cases(source, SCENARIO),
        *options.cases(source, SCENARIO),
    ]
    pool += pages.cases(source, SCENARIO)
    yield from random.Random(1).sample(pool, len(pool) // every) if sample else pool


def _mutated(source: Path) -> Iterator[Case]:
    for door in doors():
        for number in range(door.count):
            argv, check = door.verbs[number % len(door.verbs)]
            name = f"{Path(door.source).name} {number:03d}"
            yield Case(
                SCENARIO, door.group, name, partial(_case, source, door, number, argv, check)
            )


def _case(
    source: Path,
    door: Door,
    number: int,
    argv: tuple[object, ...],
    check: silent.Check | None,
    room: Path,
) -> Finding:
    world.copy(source, room)
    if door.source.startswith("old-model"):
        world.forget_hashes(room / "model")
    original = (source / door.source, room / door.target)
    how = door.change(*original, random.Random(f"{door.source} {number}"))
    words = tuple(str(word).replace("{}", door.named or door.target) for word in argv)
    return judged(words, room, door.target, check, how)


def judged(
    words: tuple[str, ...], room: Path, file: str, check: silent.Check | None, how: str
) -> Finding:
    """Run a command on a bad file and return the problems of its reaction."""
    outcome, problems = obeyed(words, room, may_write=("out", "out.parquet"))
    if outcome.code == 0 and check is not None:
        try:
            wrong = check(room, file, outcome)
        except Exception as error:  # the check's own readers refuse the result
            wrong = f"unreadable result: {type(error).__name__}: {error}"
        if wrong:
            problems.append(("silent", wrong))
    ended = "refused" if outcome.code == 2 else "accepted" if outcome.code == 0 else "failed"
    command = " ".join(("bayeslora", *words))
    return Finding(problems, ended, f"[{how}] {command}" if problems else "")
