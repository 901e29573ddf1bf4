"""Pareto front of NLL and prediction cost, and its figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.lib.tables import Rows

COLORS = {"lora": "#D55E00", "polar": "#0072B2"}
MARKERS = {"lora": "s", "polar": "o"}
SAME_COST = 1.15


@dataclass(frozen=True)
class Point:
    """A method in the plane of cost and score.

    Attributes:
        name: Adapter and posterior.
        cost: Processor seconds to predict the test rows, minimum over seeds.
        nll: Mean NLL over seeds, in nats.
    """

    name: str
    cost: float
    nll: float

    @classmethod
    def of(cls, name: str, rows: Rows) -> Point:
        """Create a point from the mean NLL and the minimum cost; other processes only add cost."""
        cost = min(row["predict_seconds"] for row in rows.values())
        return cls(name, cost, fmean(row["nll"] for row in rows.values()))


def mean_points(tasks: Mapping[str, Mapping[str, Rows]]) -> list[Point]:
    """Return the means over data sets with `common` methods and seeds."""
    points = []
    for name in next(iter(tasks.values()), {}):
        each = [Point.of(name, methods[name]) for methods in tasks.values()]
        points.append(
            Point(name, fmean(point.cost for point in each), fmean(point.nll for point in each))
        )
    return points


def common(tasks: Mapping[str, Mapping[str, Rows]]) -> dict[str, dict[str, Rows]]:
    """Return the methods of all data sets, restricted to the seeds of all methods.

    Means over different seeds would compare seeds, not methods.
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
    """Return the names of the non-dominated points, cheapest first.

    A point is dominated by a point with lower NLL and no higher cost, up to the factor `SAME_COST`:
    smaller differences in processor time are noise.
    """
    front = [
        point
        for point in points
        if not any(o.nll < point.nll and o.cost <= SAME_COST * point.cost for o in points)
    ]
    return [point.name for point in sorted(front, key=lambda point: point.cost)]


def figure_svg(task: str, points: Sequence[Point], front: Sequence[str], reference: str) -> bytes:
    """Return an SVG of NLL against cost, with labels for the front and the reference.

    Args:
        task: Title of the figure.
        points: Points to draw.
        front: Names of the points on the Pareto front.
        reference: Name of the reference point.
    """
    with rc_context({"svg.hashsalt": task, "svg.fonttype": "none", "font.size": 9}):
        sheet = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = sheet.subplots()
        for adapter, color in COLORS.items():
            own = [point for point in points if point.name.split()[0] == adapter]
            xy = [[point.cost for point in own], [point.nll for point in own]]
            axes.plot(*xy, MARKERS[adapter], color=color, markersize=5, alpha=0.7, label=adapter)
        for point in points:
            if point.name in {*front, reference}:
                star = " ★" if point.name in front else ""
                axes.annotate(
                    point.name + star,
                    (point.cost, point.nll),
                    (6, 5),
                    textcoords="offset points",
                    color=COLORS[point.name.split()[0]],
                    fontweight="bold",
                )
        best = sorted((point for point in points if point.name in front), key=lambda p: p.cost)
        axes.step(
            [p.cost for p in best],
            [p.nll for p in best],
            where="post",
            color="#8a8a8a",
            lw=0.8,
            label="Pareto front ★",
        )
        axes.set(xscale="log", xlabel="processor seconds to predict 500 rows", ylabel="NLL (nats)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(task, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right")
        stream = io.BytesIO()
        sheet.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
