"""Reliability diagrams: accuracy by confidence.

Each non-empty bin is a point at its mean confidence and its accuracy, with the 95 % Wilson interval
of that accuracy; empty bins are not drawn. The counts are shown below the diagram (Bröcker and
Smith, 2007, on why a diagram without intervals misleads). The same drawing serves, on
demand, one class against the rest, with its probability as the confidence and the
share of its rows as the accuracy. The top-label diagram shows only the most probable class: it can
hide miscalibration of a class that is rare, or often confused with another (Kull et al. 2019,
arXiv:1910.12656, class-wise calibration).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes

from bayeslora.errors import unknown_choice
from bayeslora.metrics.calibration import ece, reliability_bins, top_label
from bayeslora.plain_text import as_label, counted
from bayeslora.predictions.collection import Method
from bayeslora.reporting.assess import Assessed, Point, occupied
from bayeslora.reporting.figures import style
from bayeslora.reporting.figures.style import Panel
from bayeslora.reporting.text import number

HEIGHT = 4.12
"""Height of the figure, in inches."""

COUNTS = 0.62
"""Height of the counts below the diagram, in inches."""

NARROWEST_LABELLED = 0.04
"""Narrowest bar labelled with its count, in units of confidence."""


@dataclass(frozen=True)
class Words:
    """Texts of a kind of reliability diagram.

    The title has `{}` for the method's label. `across` and `up` are the predicted and the observed
    quantity on the axes, and `short` the latter in a word or two; `above` and `below` say what a
    point above or below the diagonal means.
    """

    title: str
    across: str
    up: str
    short: str
    above: str = "underconfident"
    below: str = "overconfident"


TOP_LABEL = Words("Reliability diagram of {}", "confidence", "accuracy in the bin", "accuracy")


def reliability_panel(
    name: str, label: str, points: Sequence[Point], note: str, *, words: Words = TOP_LABEL
) -> Panel:
    """Return the diagram of a method from its non-empty bins.

    `note` is the line below the label, the calibration error and its interval.
    """
    boxes = (1.14, 2.24), (0.4, COUNTS)
    figure, (main, counts) = style.figure_with_axes(HEIGHT, label, note, *boxes)
    legend = [(style.MEETS, "95 % interval meets the diagonal")]
    if any(point.off_diagonal for point in points):
        legend.append((style.MISSES, "misses it"))
    style.add_legend(figure, legend, top=0.5, columns=2)
    _draw_points(main, points)
    side: dict[str, Any] = {"fontsize": style.SMALL, "color": style.MUTED, "zorder": 0}
    main.text(0.03, 0.97, words.above, ha="left", va="top", **side)
    main.text(0.97, 0.03, words.below, ha="right", va="bottom", **side)
    main.set_ylabel(words.up)
    _draw_counts(counts, points)
    counts.set_xlabel(words.across)
    rows = [
        f"{words.across} {number(point.confidence, digits=2)}:"
        f" {words.short} {number(point.accuracy, digits=2)}"
        f" (95 % interval {number(point.accuracy_low, digits=2)} to"
        f" {number(point.accuracy_high, digits=2)}, {counted(point.count, 'row')})"
        for point in points
    ]
    description = f"{note}. Bins: {'; '.join(rows) or 'none'}."
    return Panel(name, figure, words.title.replace("{}", label), description)


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
            markersize=4.2,
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


MOST_CLASSES = 12
"""Most classes drawn by default: those with the largest error."""

ONE_CLASS = Words(
    "Reliability diagram of {}",
    "probability of the class",
    "share of examples of the class",
    "share of examples of the class",
    "probability too low",
    "probability too high",
)

PerClass = bool | Sequence[str]
"""Whether to draw one-vs-rest diagrams, or the names of the classes to draw."""


def check_classes(per_class: PerClass, methods: Sequence[Method]) -> None:
    """Raise InputError if a name is not the name of a class of any method."""
    if isinstance(per_class, bool):
        return
    known = {name for method in methods for name in method.predictions.classes}
    for name in [per_class] if isinstance(per_class, str) else per_class:
        if name not in known:
            raise unknown_choice("class in per_class", name, known)


def class_panels(index: int, fit: Assessed, per_class: PerClass) -> Iterator[Panel]:
    """Yield a diagram for each class to draw; `index` is the number of the fit."""
    if not per_class or not fit.scores.bins:
        return
    rows, classes, bins = fit.answers.rows, fit.method.predictions.classes, fit.scores.num_bins
    one_vs_rest = {
        name: top_label(rows.probs[:, place], rows.labels == place)
        for place, name in enumerate(classes)
    }
    errors = {name: ece(of_class, bins) for name, of_class in one_vs_rest.items()}
    if per_class is True:
        chosen = sorted(classes, key=lambda name: -errors[name])[:MOST_CLASSES]
    else:
        chosen = [per_class] if isinstance(per_class, str) else list(per_class)
    for place, name in enumerate(classes):
        if name in chosen:
            of_class, shown = one_vs_rest[name], as_label(name, 20)
            count, error = int(of_class.correct.sum()), number(errors[name])
            yield reliability_panel(
                f"reliability-{index}-class-{place + 1}",
                fit.label,
                occupied(reliability_bins(of_class, bins, clusters=fit.answers.clusters)),
                f"{shown}: {count:,} of {len(of_class):,} examples, error {error}",
                words=replace(ONE_CLASS, title=f"{ONE_CLASS.title} for the class {shown}"),
            )
