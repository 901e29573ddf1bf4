"""How the cost of a fit, a prediction and a score grows with the size of the problem.

Each point is the median of three processes with two threads, without imports and loading. The
exponent is the slope of log seconds against log size over the upper half of the sizes, so that
fixed costs have little weight. Times are meaningful only on an idle machine. Results are stored, so
that the same command continues an interrupted run.

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

from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
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
    """Sweep over one size with the others fixed.

    Attributes:
        work: Description of the work.
        size: Name of the size.
        values: Values of the size.
        run: Creates the run for a value.
        formula: Documented growth of the cost, as an exponent.
    """

    work: str
    size: str
    values: tuple[int, ...]
    run: Callable[[int], Run]
    formula: str


def fit(rows: int = ROWS, words: int = WORDS, r: int = 8, layers: int = 6) -> Run:
    """Return a run of one epoch of training, without loading."""

    def run() -> float:
        from bayeslora import BayesianClassifier, PoLAR
        from bayeslora.backbones.load import load_backbone

        data, backbone = texts("train", rows, words), load_backbone("smollm2-135m")
        options = WHOLE | {"progress": False, "max_length": 2 * MAX_LENGTH}
        clf = BayesianClassifier(backbone, PoLAR(r=r, num_layers=layers), **options)
        return clock(lambda: clf.fit(data, epochs=1, cv=0))

    return run


def prediction(rows: int) -> Run:
    """Return a run of predictions for `rows` rows, by a short fit."""

    def run() -> float:
        from bayeslora import BayesianClassifier

        clf = BayesianClassifier("smollm2-135m", progress=False, **WHOLE)
        clf.fit(texts("train", 64), epochs=1, cv=0)
        data = texts("train", rows)
        return clock(lambda: clf.predict(data))

    return run


def rounds(num_classes: int) -> int:
    """Return the number of rounds in the fit of a head, over all stages."""
    from bayeslora.posteriors.last_layer.vbll.final import Ascent

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
    """Run the missing measurements, then write the table and the figure."""
    parser = study_parser(__doc__, "reports/speed", data_dir=False, threads=None)
    parser.add_argument("--measure", nargs=2, metavar=("SWEEP", "VALUE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        name, value = args.measure
        measurement = {"seconds": SWEEPS[name].run(int(value))()}
        measurement["mib"] = largest()
        print(json.dumps(measurement))
        return
    results = Results(args.out, KEY)
    for name, sweep in SWEEPS.items():
        place = {"kind": "growth", "name": name}
        known = results.get(**place) or {**place, "machine": machine(), "runs": {}}
        for value in sweep.values:
            runs = known["runs"].setdefault(str(value), [])
            while len(runs) < REPEATS:
                runs.append(measured("benchmarks.speed.growth", name, str(value)))
                print(name, value, runs[-1], flush=True)
                results.append(known)
            if name in HEADS and str(value) not in known.setdefault("rounds", {}):
                known["rounds"][str(value)] = rounds(value)
                results.append(known)
    results.sort()
    write(args.out)


def exponent(points: list[tuple[float, float]]) -> float:
    """Return the slope of a log-log line fitted to the upper half of the points."""
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
        runs = [known[name][str(value)] for value in sweep.values]
        seconds = [median(run["seconds"] for run in each) for each in runs]
        memory = [median(run["mib"] for run in each) for each in runs]
        slope = exponent(list(zip(sweep.values, seconds, strict=True)))
        lines.append(
            (
                sweep.work,
                sweep.size,
                ", ".join(map(str, sweep.values)),
                ", ".join(f"{value:.3g}" for value in seconds),
                f"{slope:.2f}",
                sweep.formula,
                ", ".join(f"{value:.0f}" for value in memory),
            )
        )
        axes.loglog(sweep.values, seconds, "o-", color="#2f5d8a", markersize=4)
        axes.set_title(f"{sweep.work}\nexponent {slope:.2f}", fontsize=8)
        axes.set_xlabel(sweep.size, fontsize=8)
        axes.set_ylabel("seconds", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.minorticks_off()
    # A fixed hash salt and no date make the file reproducible.
    with rc_context({"svg.hashsalt": "growth"}), atomic_file(out / "growth.svg") as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
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
    with atomic_file(out / "growth.md") as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
