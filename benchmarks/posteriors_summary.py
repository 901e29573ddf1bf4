"""Tables and figures of `posteriors.py`: scores with intervals, costs, and the Pareto front."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from posteriors_more_tables import Rows, detection_table, distance_table
from summarise import interval

from bayeslora.files import atomic_file, read_json

REFERENCE = "polar vbll"
SCORES = ("accuracy", "nll", "ece", "near max_probability", "far logit_variance")
COLORS = {"lora": "#D55E00", "polar": "#0072B2"}
MARKERS = {"lora": "s", "polar": "o"}
SAME_COST = 1.15


@dataclass(frozen=True)
class Point:
    """A method in the plane of cost and score.

    Attributes:
        name: Adapter and posterior.
        cost: Processor seconds of a prediction of the test rows, mean over seeds.
        nll: In nats, mean over seeds.
    """

    name: str
    cost: float
    nll: float


def write_summary(out: Path) -> None:
    """Write `summary.md` and a figure a data set from the scores that are there."""
    contents = [read_json(file) for file in sorted((out / "scores").glob("*/*/*.json"))]
    tasks = _by_method(contents)
    parts = [_preamble(tasks)]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for task, methods in sorted(tasks.items()):
        points = [_point(name, rows) for name, rows in methods.items()]
        front = pareto_front(points)
        figure = out / "figures" / f"{task}.svg"
        with atomic_file(figure) as aside:
            aside.write_bytes(_figure(task, points, front))
        parts += [f"## {task}", f"![NLL against the cost of a prediction](figures/{figure.name})"]
        parts.append(_table(methods, front))
        parts += detection_table(methods)
        parts += distance_table([content for content in contents if content["task"] == task])
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def pareto_front(points: Sequence[Point]) -> list[str]:
    """Return the names of the points that no other beats, cheapest first.

    A point is beaten by one of lower NLL that costs no more, up to `SAME_COST`: smaller differences
    of processor time are noise.
    """
    front = [
        point
        for point in points
        if not any(o.nll < point.nll and o.cost <= SAME_COST * point.cost for o in points)
    ]
    return [point.name for point in sorted(front, key=lambda one: one.cost)]


def _by_method(contents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Rows]]:
    tasks: dict[str, dict[str, Rows]] = defaultdict(lambda: defaultdict(dict))
    for content in contents:
        for row in content["rows"]:
            name = f"{content['adapter']} {row['method']}"
            tasks[content["task"]][name][content["seed"]] = row
    return tasks


def _point(name: str, rows: Rows) -> Point:
    values = list(rows.values())
    cost = fmean(row["predict_seconds"] for row in values)
    return Point(name, cost, fmean(row["nll"] for row in values))


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
    for name, rows in sorted(methods.items(), key=lambda item: _point(*item).nll):
        values = list(rows.values())
        cells = [
            interval([row[column] for row in values]) if column in values[0] else ""
            for column in SCORES
        ]
        shared = sorted(rows.keys() & base.keys()) if name != REFERENCE else []
        gaps = [rows[seed]["nll"] - base[seed]["nll"] for seed in shared]
        costs = [
            f"{values[0]['passes']}",
            f"{fmean(row['fit_seconds'] for row in values):.0f}",
            f"{fmean(row['predict_seconds'] for row in values):.1f}",
            f"{fmean(row['bytes'] for row in values) / 1e6:.1f}",
        ]
        star = " ★" if name in front else ""
        delta = interval(gaps) if gaps else ""
        row = [name + star, str(len(rows)), *cells, delta, *costs]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _figure(task: str, points: Sequence[Point], front: Sequence[str]) -> bytes:
    """Return an SVG of NLL against cost; points are numbered by NLL and named beside."""
    ranked = sorted(points, key=lambda one: one.nll)
    with rc_context({"svg.hashsalt": task, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(8.5, max(3.6, 0.6 + 0.17 * len(ranked))), layout="constrained")
        axes, names = figure.subplots(1, 2, width_ratios=(3, 2))
        for rank, point in enumerate(ranked, 1):
            adapter = point.name.split()[0]
            axes.plot(point.cost, point.nll, MARKERS[adapter], color=COLORS[adapter], markersize=5)
            axes.annotate(
                str(rank), (point.cost, point.nll), (4, 3), textcoords="offset points", fontsize=7
            )
            star = " ★" if point.name in front else ""
            names.text(
                0,
                1 - rank / (len(ranked) + 1),
                f"{rank}  {point.name}{star}",
                color=COLORS[adapter],
                fontsize=7,
                va="center",
            )
        line = sorted((point for point in points if point.name in front), key=lambda p: p.cost)
        axes.step(
            [p.cost for p in line], [p.nll for p in line], where="post", color="#8a8a8a", lw=0.8
        )
        axes.set(xscale="log", xlabel="processor seconds of a prediction", ylabel="NLL (nats)")
        axes.set_title(task, loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        names.set_axis_off()
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
