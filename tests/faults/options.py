"""Every option of every verb with values that it should refuse."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import nasty, world
from .cases import Case, Finding
from .rules import obeyed

_COUNT = 360
_COMMANDS: dict[str, tuple[object, ...]] = {
    "fit": (
        *("fit", "train.jsonl", "--backbone", "bert", "--posterior", "map", "--epochs", 1),
        *("--quiet", "--out", "out"),
    ),
    "predict": ("predict", "model", "test.jsonl", "--out", "out.parquet", *world.PREDICT),
    "evaluate": ("evaluate", "test.parquet", "--ood", "far=far.parquet"),
    "calibrate": ("calibrate", "classifier", "train.jsonl", "--out", "out", "--quiet"),
    "recalibrate": (
        *("recalibrate", "--fit", "valid.parquet", "--apply", "test.parquet"),
        *("--out", "out.parquet"),
    ),
    "conformal": (
        *("conformal", "--fit", "valid.parquet", "--apply", "test.parquet"),
        *("--out", "out.parquet"),
    ),
    "export": ("export", "model", "--out", "out"),
    "convert": ("convert", "test.parquet", "--out", "out.csv"),
    "compare": ("compare", "test.parquet", "other.parquet"),
    "report": ("report", "test.parquet", "--out", "out"),
    "info": ("info", "model"),
    "methods": ("methods",),
}
_VALUES = (
    *(text for text in nasty.TEXTS if "\x00" not in text),
    *(
        "-1",
        "0",
        "1e999",
        "nan",
        "inf",
        "-inf",
        "1_0",
        "0x10",
        "9" * 4301,
        str(10**12),
        "1.5",
        "2.0",
    ),
    *("a=b", "=", ":", ",", "a,,b", "a=b=c", "é" * 300, "n" * 300, "/dev/full", "/dev/zero", "."),
    *("meta", "cuda:99", "mps", "cpu:7", "..", "model", "test.parquet", "out.parquet/x"),
    *("polar:r=4,r=5", "polar:r=0", "polar:r=1e9", "polar:num_layers=7", "polar:lr=nan", "lora:"),
    *("vbll:prior_scale=-1", "vbll:prior_scale=inf", "ensemble:num_members=1000000000", "map:x=1"),
    *("laplace:prior_precision=1e400", "temperature:x=1", "lac:k=1", "vector:l2=nan", "best"),
)
_LONG = {"epochs", "num_samples", "bins", "max_length", "patience"}
"""Options whose large values mean long work, so only small values are mistakes."""


def cases(source: Path, scenario: str) -> Iterator[Case]:
    """Return a case for each of a sample of triples of verb, option and value."""
    from bayeslora.cli.parser import build_parser

    chance = random.Random(3)
    verbs = next(
        action.choices
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    options = [
        (verb, action.option_strings[-1], value)
        for verb in _COMMANDS
        for action in verbs[verb]._actions
        if action.option_strings and action.nargs != 0 and action.dest not in {"config", "template"}
        for value in _VALUES
        if not (action.dest in _LONG - {"num_samples"} and value.strip("0_").isdecimal())
    ]
    chance.shuffle(options)
    for number, (verb, option, value) in enumerate(options[:_COUNT]):
        name = f"{number:03d} {verb} {option} {value!r:.40}"
        yield Case(scenario, "options", name, partial(_case, source, verb, option, value))


def _case(source: Path, verb: str, option: str, value: str, room: Path) -> Finding:
    world.copy(source, room)
    argv = (*_COMMANDS[verb], f"{option}={value}")
    outcome, problems = obeyed(argv, room, may_write=("out", "out.parquet", "out.csv"))
    if option in {"--out", "--figure", "--model-card"}:
        problems = [problem for problem in problems if problem[0] != "stray"]
    ended = "refused" if outcome.code == 2 else "accepted" if outcome.code == 0 else "failed"
    command = " ".join(("bayeslora", *map(str, argv)))[:600]
    return Finding(problems, ended, command if problems else "")
