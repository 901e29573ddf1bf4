"""How the cost of a fit, a prediction and a score grows with the size of the problem.

Each point is a process of its own with two threads, the median of three; imports and loading are
left out. The exponent is the slope of log seconds against log size over the upper half of the
sizes, so that fixed costs weigh little. Times mean something on an idle machine alone. Results are
kept, so that the same command goes on.

    python -m benchmarks.speed.growth
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from bayeslora.files import atomic_file
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.speed.measuring import KEY, largest, machine, measured
from benchmarks.speed.work import (
    MAX_LENGTH,
    ROWS,
    WHOLE,
    WORDS,
    Run,
    all_scores,
    clock,
    head_fit,
    texts,
)

REPEATS = 3


@dataclass(frozen=True)
class Sweep:
    """One size that grows while the others stay.

    Attributes:
        work: What is done.
        size: What grows.
        values: Its values.
        run: From a value to what returns the seconds.
        formula: How the documented cost grows with it, as an exponent.
    """

    work: str
    size: str
    values: tuple[int, ...]
    run: Callable[[int], Run]
    formula: str


def fit(rows: int = ROWS, words: int = WORDS, r: int = 8, layers: int = 6) -> Run:
    """Return a fit of one epoch whose backbone is loaded."""

    def run() -> float:
        from bayeslora import BayesianClassifier, PoLAR
        from bayeslora.backbones.load import load_backbone

        data, backbone = texts("train", rows, words), load_backbone("smollm2-135m")
        options = WHOLE | {"progress": False, "max_length": 2 * MAX_LENGTH}
        clf = BayesianClassifier(backbone, PoLAR(r=r, num_layers=layers), **options)
        return clock(lambda: clf.fit(data, epochs=1, cv=0))

    return run


def prediction(rows: int) -> Run:
    """Return the predictions of a short fit for so many rows."""

    def run() -> float:
        from bayeslora import BayesianClassifier

        clf = BayesianClassifier("smollm2-135m", progress=False, **WHOLE)
        clf.fit(texts("train", 64), epochs=1, cv=0)
        data = texts("train", rows)
        return clock(lambda: clf.predict(data))

    return run


def rounds(num_classes: int) -> int:
    """Return how many rounds the fit of a head takes, in all stages."""
    from bayeslora.posteriors.last_layer.vbll.ascent import Ascent

    count, improve = 0, Ascent.improve_prior

    def counting(self: Ascent, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return improve(self, *args, **options)

    with patch.object(Ascent, "improve_prior", counting):
        head_fit(num_classes)()
    return count


HEADS = ("dense", "eigenbasis")
SWEEPS = {
    "rows": Sweep("fit", "rows", (160, 320, 640, 1280, 2560), lambda n: fit(rows=n), "1"),
    "words": Sweep("fit", "words", (8, 16, 32, 64), lambda n: fit(words=n, rows=320), "1"),
    "rank": Sweep("fit", "rank r", (4, 8, 16, 32), lambda n: fit(r=n), "0"),
    "layers": Sweep("fit", "adapted layers", (3, 6, 12, 24), lambda n: fit(layers=n), "under 1"),
    "dense": Sweep("closed-form head, dense", "classes", (5, 10, 20, 40), head_fit, "1 a round"),
    "eigenbasis": Sweep(
        "closed-form head, eigenbasis", "classes", (120, 240, 480), head_fit, "1 a round"
    ),
    "prediction": Sweep("prediction", "rows", (320, 640, 1280, 2560), prediction, "1"),
    "scores": Sweep("scores with intervals", "rows", (1000, 10_000, 100_000), all_scores, "1"),
}


def main() -> None:
    """Measure what is not there yet, then write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("reports/speed"))
    parser.add_argument("--measure", nargs=2, metavar=("SWEEP", "VALUE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        name, value = args.measure
        found = {"seconds": SWEEPS[name].run(int(value))()}
        found["mib"] = largest()
        print(json.dumps(found))
        return
    results = Results(args.out, KEY)
    for name, sweep in SWEEPS.items():
        place = {"kind": "growth", "name": name}
        known = results.get(**place) or {**place, "machine": machine(), "runs": {}}
        for value in sweep.values:
            found = known["runs"].setdefault(str(value), [])
            while len(found) < REPEATS:
                found.append(measured("benchmarks.speed.growth", name, str(value)))
                print(name, value, found[-1], flush=True)
                results.append(known)
            if name in HEADS and str(value) not in known.setdefault("rounds", {}):
                known["rounds"][str(value)] = rounds(value)
                results.append(known)
    results.sort()
    write(args.out)


def exponent(points: list[tuple[float, float]]) -> float:
    """Return the slope of a line fitted in logs to the upper half of the points."""
    upper = np.log(points[(len(points) - 1) // 2 :])
    return float(np.polyfit(upper[:, 0], upper[:, 1], 1)[0])


def write(out: Path) -> None:
    """Write `growth.md` and `growth.svg`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = {row["name"]: row for row in Results(out, KEY).rows(kind="growth")}
    known = {name: row["runs"] for name, row in rows.items()}
    taken = [
        f"{', '.join(map(str, SWEEPS[name].values))} classes, {name}: "
        + ", ".join(str(rows[name]["rounds"][str(value)]) for value in SWEEPS[name].values)
        for name in HEADS
    ]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    lines = []
    for axes, (name, sweep) in zip(figure.subplots(2, 4).flat, SWEEPS.items(), strict=True):
        found = [known[name][str(value)] for value in sweep.values]
        seconds = [median(one["seconds"] for one in each) for each in found]
        memory = [median(one["mib"] for one in each) for each in found]
        slope = exponent(list(zip(sweep.values, seconds, strict=True)))
        lines.append(
            (
                sweep.work,
                sweep.size,
                ", ".join(map(str, sweep.values)),
                ", ".join(f"{one:.3g}" for one in seconds),
                f"{slope:.2f}",
                sweep.formula,
                ", ".join(f"{one:.0f}" for one in memory),
            )
        )
        axes.loglog(sweep.values, seconds, "o-", color="#2f5d8a", markersize=4)
        axes.set_title(f"{sweep.work}\nexponent {slope:.2f}", fontsize=8)
        axes.set_xlabel(sweep.size, fontsize=8)
        axes.set_ylabel("seconds", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.minorticks_off()
    # Without the date, and with names of its own, the same numbers give the same bytes.
    with rc_context({"svg.hashsalt": "growth"}), atomic_file(out / "growth.svg") as aside:
        figure.savefig(aside, format="svg", metadata={"Date": None})
    head = ("work", "size", "values", "median s", "exponent", "formula", "MiB")
    text = [
        "# Growth",
        "Exponents are of the upper half of the values.",
        f"Fits are of one epoch, {ROWS} texts of {WORDS} words where nothing else is said (320 "
        f"texts where words grow), loading left out. Heads are of {ROWS} rows. Made by "
        "`python -m benchmarks.speed.growth`.",
        table(head, lines),
        f"Rounds of the heads, at most 50 a stage: {'; '.join(taken)}.",
        "![Seconds against size](growth.svg)",
    ]
    with atomic_file(out / "growth.md") as aside:
        aside.write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
