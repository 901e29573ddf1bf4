"""Claims of the paper on multiple choice, from results of the grids `multiple-choice*.yaml`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.lib.verdicts import Claim, claims_of_one
from benchmarks.multiple_choice.summary import REPLACED

Row = dict[str, Any]
Cells = dict[tuple[Any, ...], dict[str, dict[tuple[str, str], float]]]
"""By the key shared by a pair: scores of each method, by set and name of the score."""

FOLDER = "multiple-choice"
GRIDS = (
    *("multiple-choice-core", "multiple-choice-more"),
    *("multiple-choice", "multiple-choice-all-rows"),
)
OURS = "PoLAR VBLL"
RIVALS = ("LoRA MLE", "LoRA temperature", "Laplace-LoRA", "BLoB", "PoLAR Laplace", "LoRA VBLL")
SHIFTED_FROM = "openbookqa"
SMALL_SHIFTS = ("arc-challenge", "arc-easy")
LARGE_SHIFTS = ("mmlu-college-chemistry", "mmlu-college-physics")
SHIFT_RIVALS = ("LoRA MLE", "BLoB")
SCORES = {
    "accuracy": ("higher accuracy", "", -1),
    "nll": ("lower NLL", "nats", 1),
    "ece": ("lower ECE", "", 1),
}
REPORTED, SECONDS = "reported", ("cost", "seconds_predict_per_1000")
_KEY = ("protocol", "task", "backbone", "rows", "seed")


def section(reports: Path) -> list[str]:
    """Return the paragraphs of the section and the table of its claims."""
    rows = [*stored(reports / FOLDER)]
    commands = ", ".join(
        f"`bayeslora experiment benchmarks/grids/{name}.yaml --data-dir DIR --out runs/{name}`"
        for name in GRIDS
    )
    backbones = ", ".join(sorted({row["backbone"] for row in rows})) or "smollm2-135m"
    tasks = ", ".join(sorted({row["task"] for row in rows})) or "no task yet"
    fits = len({(*(row[key] for key in _KEY), row["method"]) for row in rows})
    done = f"{fits} cells are stored" if fits else "No cell is stored"
    return [
        "## Multiple choice",
        f"{backbones}, every option scored by one weight vector; {tasks}. {done}: the first grids "
        f"take hours of two cores, the others days. Commands: {commands}; "
        "then `python -m benchmarks.multiple_choice --add runs/NAME`. "
        "[question-formats](../reports/question-formats/summary.md) has the language model before "
        "any label.",
        claims_of_one([*claims(rows)]),
    ]


def stored(folder: Path) -> Iterator[Row]:
    """Yield the rows of every results file of `bayeslora experiment` in a folder."""
    for file in sorted(folder.glob("*.parquet")):
        yield from (row for row in pq.read_table(file).to_pylist() if not row.get(REPLACED))
    for file in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, file.read_text(encoding="utf-8").splitlines())


def claims(rows: Iterable[Row]) -> Iterator[Claim]:
    """Yield the claims on the reported rows, on shifted rows, and on the prediction time."""
    cells = _cells(rows)
    shifted = {key: methods for key, methods in cells.items() if key[1] == SHIFTED_FROM}
    for rival in RIVALS:
        yield from _better(cells, rival, REPORTED, "")
    for where in (*SMALL_SHIFTS, *LARGE_SHIFTS):
        for rival in SHIFT_RIVALS:
            yield from _better(shifted, rival, where, f" on {where}, fitted to {SHIFTED_FROM}")
    gains = _gains(cells, "BLoB", SECONDS, lambda ours, theirs: theirs / ours - 1)
    yield Claim(
        "PoLAR-VBLL",
        "predictions faster than ten passes of BLoB",
        "",
        gains,
        "pairs",
        notes="ratio of their times, less 1, beside other work; alone BLoB takes "
        "[2.7 passes](../reports/speed/summary.md)",
    )


def _better(cells: Cells, rival: str, where: str, on: str) -> Iterator[Claim]:
    """Yield the claims that each score of a set is better than a rival's."""
    for score, (words, unit, sign) in SCORES.items():
        gains = _gains(cells, rival, (where, score), lambda a, b, s=sign: s * (b - a))
        yield Claim("PoLAR-VBLL", f"{words} than {rival}{on}", unit, gains, "pairs")


def _cells(rows: Iterable[Row]) -> Cells:
    cells: Cells = {}
    for row in rows:
        if row["by"] is None:  # a score of predictions, not of detection
            where = REPORTED if row["set"] == row["split"] else row["set"]
            methods = cells.setdefault(tuple(row[key] for key in _KEY), {})
            methods.setdefault(row["method"], {})[where, row["score"]] = row["value"]
    return cells


def _gains(
    cells: Cells, rival: str, score: tuple[str, str], gain: Callable[..., float]
) -> tuple[float, ...]:
    """Return the gain of each pair of the same set, rows and seed for which both have the score."""
    pairs = [
        (methods.get(OURS, {}), methods.get(rival, {}))
        for _, methods in sorted(cells.items(), key=lambda item: json.dumps(item[0]))
    ]
    return tuple(gain(a[score], b[score]) for a, b in pairs if score in a and score in b)
