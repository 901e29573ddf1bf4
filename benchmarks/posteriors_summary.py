"""Tables and figures of `posteriors.py`: scores with intervals, costs, and the Pareto front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from posteriors_in_short import short_table
from posteriors_more_tables import Rows, detection_table, distance_table
from posteriors_pareto import SAME_COST, Point, common, figure_svg, mean_points, pareto_front
from summarise import difference, interval

from bayeslora.files import atomic_file, read_json

REFERENCE = "polar vbll"
SCORES = ("accuracy", "nll", "ece", "near max_probability", "far logit_variance")


def write_summary(out: Path) -> None:
    """Write `summary.md` and a figure a data set from the scores that are there."""
    contents = [read_json(file) for file in sorted((out / "scores").glob("*/*/*.json"))]
    tasks = _by_method(contents)
    parts = [_preamble(tasks)]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    shared = common(tasks)
    if means := mean_points(shared):
        front = pareto_front(means)
        parts += ["## In short", _drawn(out, "mean of the data sets", means, front)]
        parts.append(short_table(shared, means, front, REFERENCE))
    for task, methods in sorted(tasks.items()):
        points = [Point.of(name, rows) for name, rows in methods.items()]
        front = pareto_front(points)
        parts += [f"## {task}", _drawn(out, task, points, front), _table(methods, front)]
        parts += detection_table(methods)
        parts += distance_table([content for content in contents if content["task"] == task])
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _drawn(out: Path, title: str, points: Sequence[Point], front: Sequence[str]) -> str:
    """Draw the plane of cost and NLL; return the line of Markdown that shows it."""
    file = out / "figures" / f"{title.replace(' ', '-')}.svg"
    with atomic_file(file) as aside:
        aside.write_bytes(figure_svg(title, points, front))
    return f"![NLL against the cost of a prediction](figures/{file.name})"


def _by_method(contents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Rows]]:
    tasks: dict[str, dict[str, Rows]] = defaultdict(lambda: defaultdict(dict))
    for content in contents:
        for row in content["rows"]:
            name = f"{content['adapter']} {row['method']}"
            tasks[content["task"]][name][content["seed"]] = row
    return tasks


def _preamble(tasks: Mapping[str, Mapping[str, Rows]]) -> str:
    seeds = {seed for methods in tasks.values() for rows in methods.values() for seed in rows}
    return (
        "# Posteriors on LoRA and PoLAR\n\n"
        "SmolLM2-135M, r = 8 on the query and value projections of the last 6 of 30 layers, 640 "
        "training, 320 validation and 500 test rows, 250 rows of each out-of-distribution set, at "
        "most 32 tokens a text, at most 6 epochs, bfloat16; LoRA has a dropout of 0.1. "
        "Learning rate and, of posteriors over adapter weights, width (the better of two each, "
        "with the first seed) and epoch (but SWAG's, which keeps the last) are chosen by "
        "validation NLL, as are Laplace's prior precision where it is not `marglik`, gvbll's "
        "shrinkage and inflation, the temperature, and whether vbll refits its means. "
        f"Seeds: {', '.join(map(str, sorted(seeds))) or 'none yet'}. Values are means over seeds "
        "± half a 95 % t interval; Δ NLL is paired by seed (method − polar vbll). Seconds are "
        "processor time of one thread: of the fit with what was calibrated on it, without the pass "
        "of the frozen layers that serves all fits, and of a prediction of the test rows, the "
        "frozen layers included. MB are those of adapter and "
        "posterior on disk. A star marks the Pareto front: no method with a lower NLL takes at "
        f"most {SAME_COST - 1:.0%} more seconds to predict. Made by "
        "`python benchmarks/posteriors.py --data-dir DIR`."
    )


def _table(methods: Mapping[str, Rows], front: Sequence[str]) -> str:
    head = ["method", "seeds", *SCORES, "Δ NLL", "passes", "fit s", "predict s", "MB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    base = methods.get(REFERENCE, {})
    for name, rows in sorted(methods.items(), key=lambda item: Point.of(*item).nll):
        values = list(rows.values())
        cells = [
            interval([row[column] for row in values]) if column in values[0] else ""
            for column in SCORES
        ]
        costs = [
            f"{values[0]['passes']}",
            f"{fmean(row['fit_seconds'] for row in values):.0f}",
            f"{fmean(row['predict_seconds'] for row in values):.1f}",
            f"{fmean(row['bytes'] for row in values) / 1e6:.1f}",
        ]
        star = " ★" if name in front else ""
        row = [name + star, str(len(rows)), *cells, difference(rows, base, "nll"), *costs]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)
