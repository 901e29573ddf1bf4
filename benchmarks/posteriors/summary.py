"""Tables and figures of `posteriors`: scores with intervals, costs, and the Pareto front.

    python -m benchmarks.posteriors.summary DIR

rewrites them from the scores in DIR.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bayeslora.io.files import atomic_file
from benchmarks.lib.fits import EPOCHS, SCORES
from benchmarks.lib.results import Results
from benchmarks.lib.tables import Rows, difference, is_blind, shown, table
from benchmarks.posteriors.choices import KEY, choice_tables
from benchmarks.posteriors.in_short import short_table
from benchmarks.posteriors.more_tables import detection_table, distance_table
from benchmarks.posteriors.pareto import (
    SAME_COST,
    Point,
    common,
    figure_svg,
    mean_points,
    pareto_front,
)

REFERENCE = "polar vbll"
COSTS = ("passes", "fit s", "predict s", "MB")


def write_summary(out: Path) -> None:
    """Write `summary.md` and one figure per data set from the stored scores."""
    contents = Results(out, KEY).rows(kind="fit")
    tasks = _by_method(contents)
    parts = [_preamble(tasks)]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    shared = common(tasks)
    if means := mean_points(shared):
        front = pareto_front(means)
        parts += ["## In short", _drawn(out, "mean of the data sets", means, front)]
        parts.append(short_table(shared, means, front, REFERENCE))
    parts += choice_tables(out, tasks, EPOCHS)
    for task, methods in sorted(tasks.items()):
        of_task = common({task: methods})[task]
        points = [Point.of(name, rows) for name, rows in of_task.items()]
        front = pareto_front(points)
        parts += [f"## {task}", _drawn(out, task, points, front), _table(of_task, front)]
        parts += detection_table(methods)
        parts += distance_table([content for content in contents if content["task"] == task])
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _drawn(out: Path, title: str, points: Sequence[Point], front: Sequence[str]) -> str:
    """Draw NLL against cost; return the Markdown of the figure."""
    file = out / "figures" / f"{title.replace(' ', '-')}.svg"
    with atomic_file(file) as temporary:
        temporary.write_bytes(figure_svg(title, points, front, REFERENCE))
    return f"![NLL against the cost of a prediction: {title}](figures/{file.name})"


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
        "training, 320 validation and 500 test rows, 250 rows of each out-of-distribution set "
        "(near: newsgroups that are no class; far: Reuters for newsgroups, AG news for SST-2, "
        f"SST-2 for AG news), at most 32 tokens a text, at most {EPOCHS} epochs, bfloat16; LoRA "
        f"has a dropout of 0.1. Seeds: {', '.join(map(str, sorted(seeds))) or 'none yet'}.\n\n"
        "**Choices** are made by validation NLL: learning rate and, of posteriors over adapter "
        "weights, width (the better of two each, once), and the epoch (but SWAG's, which keeps the "
        "last). What is calibrated on a fit (temperature, gvbll, laplace, nuts, laplace_lora, "
        "variants of vbll) inherits its rate and epoch, chosen under mle, map or vbll. Posteriors "
        "over adapter weights choose the epoch by their mean weights, rate and width by draws. "
        "Beyond that laplace chooses its prior precision (not with `marglik`), gvbll shrinkage "
        "and inflation, temperature its temperature, and vbll whether it refits its means; vbll's "
        "prior is by empirical Bayes, and nuts chooses nothing: its prior scale is the default, "
        "2.\n\n"
        "**Values** are means over seeds ± half a 95 % t interval; Δ NLL is paired by seed "
        "(method − polar vbll). The rows are the same for every seed, so the intervals reflect "
        "training, not the choice of rows. Overconfidence is mean confidence − accuracy. Near "
        "and far are AUROCs of out-of-distribution rows against test rows.\n\n"
        "**Costs**: seconds are processor time of one thread. Those of a fit hold what was "
        "calibrated on it with its validation scores, not the search for rates and widths, nor the "
        "pass of the frozen layers that serves all fits. Those of a prediction are the least over "
        "seeds, frozen layers included; what else ran on the machine adds up to a third to one "
        "measurement. Passes are of the six adapted layers (with `laplace_lora` one forward pass "
        "and one backward a class). MB are those of adapter and posterior on disk. A star marks "
        "the Pareto front: no method with a lower mean NLL takes at most "
        f"{SAME_COST - 1:.0%} more seconds to predict. Made by "
        "`python -m benchmarks.posteriors --data-dir DIR`."
    )


def _table(methods: Mapping[str, Rows], front: Sequence[str]) -> str:
    present = [key for key in SCORES if any(not is_blind(rows, key) for rows in methods.values())]
    lines = []
    base = methods.get(REFERENCE, {})
    for name, rows in sorted(methods.items(), key=lambda item: Point.of(*item).nll):
        values = list(rows.values())
        cells = [
            "" if is_blind(rows, column) else shown([row[column] for row in values])
            for column in present
        ]
        costs = [
            f"{values[0]['passes']}",
            f"{fmean(row['fit_seconds'] for row in values):.0f}",
            f"{Point.of(name, rows).cost:.1f}",
            f"{fmean(row['bytes'] for row in values) / 1e6:.1f}",
        ]
        star = " ★" if name in front else ""
        row = [name + star, str(len(rows)), *cells, difference(rows, base, "nll"), *costs]
        lines.append(row)
    return table(["method", "seeds", *present, "Δ NLL", *COSTS], lines)


if __name__ == "__main__":
    write_summary(Path(sys.argv[1]))
