"""Reliability diagrams: accuracy by confidence.

Each non-empty bin is a point at its mean confidence and its accuracy, with the 95 % Wilson interval
of that accuracy; empty bins are not drawn. The counts are shown below the diagram (Bröcker and
Smith, 2007, on why a diagram without intervals misleads). The diagram shows only the most probable
class: it can hide miscalibration of a class that is rare, or often confused with another (Kull et
al. 2019, arXiv:1910.12656), which the scores of each class show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from bayeslora.plain_text import counted
from bayeslora.reporting.assess import Point
from bayeslora.reporting.figures import style
from bayeslora.reporting.figures.style import Panel
from bayeslora.reporting.text import number

NARROWEST_LABELLED = 0.04
"""Narrowest bar labelled with its count, in units of confidence."""


def reliability_panel(name: str, label: str, points: Sequence[Point], note: str) -> Panel:
    """Return the diagram of a method from its non-empty bins.

    `note` is the line below the label, the calibration error and its interval.
    """
    figure, (main, counts) = style.figure_with_axes(4.12, label, note, (1.14, 2.24), (0.4, 0.62))
    legend = [(style.MEETS, "95 % interval meets the diagonal")]
    if any(point.off_diagonal for point in points):
        legend.append((style.MISSES, "misses it"))
    style.add_legend(figure, legend, top=0.5, columns=2)
    _draw_points(main, points)
    side: dict[str, Any] = {"fontsize": style.SMALL, "color": style.MUTED, "zorder": 0}
    main.text(0.03, 0.97, "underconfident", ha="left", va="top", **side)
    main.text(0.97, 0.03, "overconfident", ha="right", va="bottom", **side)
    main.set_ylabel("accuracy in the bin")
    _draw_counts(counts, points)
    counts.set_xlabel("confidence")
    rows = [
        f"confidence {number(point.confidence, digits=2)}:"
        f" accuracy {number(point.accuracy, digits=2)}"
        f" (95 % interval {number(point.accuracy_low, digits=2)} to"
        f" {number(point.accuracy_high, digits=2)}, {counted(point.count, 'row')})"
        for point in points
    ]
    description = f"{note}. Bins: {'; '.join(rows) or 'none'}."
    return Panel(name, figure, f"Reliability diagram of {label}", description)


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    style.draw_diagonal(axes)
    for off, role in ((False, style.MEETS), (True, style.MISSES)):
        chosen = [point for point in points if point.off_diagonal is off]
        axes.errorbar(
            [point.confidence for point in chosen],
            [point.accuracy for point in chosen],
            yerr=[
                [max(0.0, point.accuracy - point.accuracy_low) for point in chosen],
                [max(0.0, point.accuracy_high - point.accuracy) for point in chosen],
            ],
            fmt=role.marker,
            color=role.color,
            elinewidth=1.1,
            capsize=2.2,
            zorder=3,
            clip_on=False,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.tick_params(labelbottom=False)
    axes.grid(color=style.GRID, linewidth=0.5)
    axes.set_axisbelow(True)


def _draw_counts(axes: Axes, points: Sequence[Point]) -> None:
    bars = axes.bar(
        [point.low for point in points],
        [point.count for point in points],
        width=[point.high - point.low for point in points],
        align="edge",
        color="#c9d6df",
        edgecolor=style.MUTED,
        linewidth=0.5,
    )
    # Upright, since numbers of many digits are wider than a bar.
    wide = [point.high - point.low >= NARROWEST_LABELLED for point in points]
    labels = [_short_count(p.count) if shown else "" for p, shown in zip(points, wide, strict=True)]
    axes.bar_label(bars, labels, padding=1.5, rotation=90, fontsize=7.0, color=style.INK)
    tallest = max((point.count for point in points), default=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.7 * tallest), ylabel="examples")
    axes.set_yticks([])


def _short_count(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:,.0f}k"
