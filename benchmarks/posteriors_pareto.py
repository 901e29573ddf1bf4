"""The plane of NLL and prediction cost: who is on the front, and the figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib import rc_context
from matplotlib.figure import Figure
from posteriors_more_tables import Rows

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

    @classmethod
    def of(cls, name: str, rows: Rows) -> Point:
        """Return the means over seeds."""
        values = list(rows.values())
        cost = fmean(row["predict_seconds"] for row in values)
        return cls(name, cost, fmean(row["nll"] for row in values))


def mean_points(tasks: Mapping[str, Mapping[str, Rows]]) -> list[Point]:
    """Return means over data sets, of methods and seeds that are `common` to them."""
    found = []
    for name in next(iter(tasks.values()), {}):
        each = [Point.of(name, methods[name]) for methods in tasks.values()]
        found.append(Point(name, fmean(one.cost for one in each), fmean(one.nll for one in each)))
    return found


def common(tasks: Mapping[str, Mapping[str, Rows]]) -> dict[str, dict[str, Rows]]:
    """Return the methods that all data sets have, with the seeds that all of these have.

    Means over different seeds would compare data splits, not methods.
    """
    names = set.intersection(*(set(methods) for methods in tasks.values())) if tasks else set()
    if not names:
        return {}
    each = [set(methods[name]) for methods in tasks.values() for name in names]
    seeds = sorted(set.intersection(*each))
    return {
        task: {name: {seed: methods[name][seed] for seed in seeds} for name in sorted(names)}
        for task, methods in tasks.items()
        if seeds
    }


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


def figure_svg(task: str, points: Sequence[Point], front: Sequence[str]) -> bytes:
    """Return an SVG of NLL against cost; points are numbered by NLL and named beside."""
    ranked = sorted(points, key=lambda one: one.nll)
    with rc_context({"svg.hashsalt": task, "svg.fonttype": "none", "font.size": 8}):
        sheet = Figure(figsize=(8.5, max(3.6, 0.6 + 0.17 * len(ranked))), layout="constrained")
        axes, names = sheet.subplots(1, 2, width_ratios=(3, 2))
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
        sheet.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
