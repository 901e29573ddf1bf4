"""Reliability diagrams: accuracy by confidence.

Each non-empty bin is a point at its mean confidence and its accuracy, with the 95 % Wilson interval
of that accuracy; empty bins are not drawn. The counts are shown below the diagram (Bröcker and
Smith, 2007, on why a diagram without intervals misleads). The same drawing serves bins of equal
mass and, on demand, one class against the rest, with its probability as the confidence and the
share of its rows as the accuracy. The top-label diagram shows only the most probable class: it can
hide miscalibration of a class that is rare, or often confused with another (Kull et al. 2019,
arXiv:1910.12656, class-wise calibration).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes

from bayeslora.errors import unknown_choice
from bayeslora.metrics.calibration import ece, reliability_bins
from bayeslora.metrics.top_label import TopLabel, top_label
from bayeslora.plain_text import as_label, counted
from bayeslora.predictions.collection import Method
from bayeslora.reporting.assess import Assessed, Point, occupied
from bayeslora.reporting.figures import style
from bayeslora.reporting.figures.rendering import Panel, filled
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
EQUAL_MASS = replace(TOP_LABEL, title="Reliability diagram of {}, bins of equal mass")


def reliability_panel(
    name: str,
    label: str,
    points: Sequence[Point],
    note: str,
    *,
    words: Words = TOP_LABEL,
    names: Mapping[str, str] | None = None,
) -> Panel:
    """Return the diagram of a method from its non-empty bins.

    `note` is the line below the label, the calibration error and its interval; `names` maps a slot
    in it to the name that fills it.
    """
    figure, (main, counts) = style.figure_with_axes(HEIGHT, (1.14, 2.24), (0.4, COUNTS))
    style.add_heading(figure, note)
    style.add_key(figure, [(style.MEETS, "95 % interval meets the diagonal")], top=0.58)
    if any(point.off_diagonal for point in points):
        style.add_key(figure, [(style.MISSES, "misses it")], top=0.58, left=2.34)
    _draw_points(main, points)
    side: dict[str, Any] = {"fontsize": style.SMALL, "color": style.MUTED, "zorder": 0}
    main.text(0.03, 0.97, words.above, ha="left", va="top", **side)
    main.text(0.97, 0.03, words.below, ha="right", va="bottom", **side)
    main.set_ylabel(words.up)
    _draw_counts(counts, points)
    counts.set_xlabel(words.across)
    texts = {style.TITLE_SLOT: label, **(names or {})}
    rows = [
        f"{words.across} {number(point.confidence, digits=2)}:"
        f" {words.short} {number(point.accuracy, digits=2)}"
        f" (95 % interval {number(point.accuracy_low, digits=2)} to"
        f" {number(point.accuracy_high, digits=2)}, {counted(point.count, 'row')})"
        for point in points
    ]
    title = filled(words.title.format(style.TITLE_SLOT), texts)
    description = f"{filled(note, texts)}. Bins: {'; '.join(rows) or 'none'}."
    return Panel(name, figure, title, description, texts)


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
            markersize=style.MARKER_SIZE,
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
    axes.bar(
        [point.low for point in points],
        [point.count for point in points],
        width=[point.high - point.low for point in points],
        align="edge",
        color="#c9d6df",
        edgecolor=style.MUTED,
        linewidth=0.5,
    )
    tallest = max((point.count for point in points), default=1)
    labelled = [point for point in points if point.high - point.low >= NARROWEST_LABELLED]
    lifts = _lifts(labelled, tallest)
    for point, lift in zip(labelled, lifts, strict=True):
        axes.annotate(
            _short_count(point.count),
            ((point.low + point.high) / 2, point.count),
            xytext=(0, lift),
            textcoords="offset points",
            ha="center",
            fontsize=style.SMALL,
            color=style.INK,
        )
    axes.set(xlim=(0, 1), ylim=(0, _TOP * tallest), ylabel="examples")
    axes.set_yticks([])


_TOP = 1.6  # of the axis of counts, in heights of the tallest bar
_GAP = 1.5  # between a bar and its label, in points


def _lifts(points: Sequence[Point], tallest: int) -> list[float]:
    """Return how far above its bar each label begins, in points.

    A label that would overlap with one to its left stands above it.
    """
    across = 72 * (style.WIDTH - style.LEFT)
    lifts: list[float] = []
    placed: list[tuple[float, float]] = []
    for point in points:
        center = across * (point.low + point.high) / 2
        half = 0.34 * style.SMALL * len(_short_count(point.count))
        bar = 72 * COUNTS * point.count / (_TOP * tallest)
        level = bar + _GAP
        for other in sorted(other for right, other in placed if right > center - half):
            if abs(level - other) < style.SMALL:
                level = other + style.SMALL
        lifts.append(level - bar)
        placed.append((center + half, level))
    return lifts


def _short_count(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            share = count / size
            return f"{share:.1f}{letter}" if share < 9.95 else f"{share:.0f}{letter}"
    return str(count)


MOST_CLASSES = 12
"""Most classes drawn by default: those with the largest error of any method."""

CLASS_SLOT = "bayesloraClass"

ONE_CLASS = Words(
    f"Reliability diagram of {{}} for the class {CLASS_SLOT}",
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


def class_panels(methods: Sequence[tuple[int, Assessed]], per_class: PerClass) -> Iterator[Panel]:
    """Yield a diagram for each labelled method, with its number, and each class to draw."""
    chosen = _chosen(methods, per_class)
    for index, assessed in methods:
        classes = assessed.method.predictions.classes
        for name in chosen:
            if name in classes:
                class_index = classes.index(name)
                rows, bins = _against_rest(assessed, class_index), assessed.scores.num_bins
                count, error = int(rows.correct.sum()), number(ece(rows, bins))
                yield reliability_panel(
                    f"reliability-{index}-class-{class_index + 1}",
                    assessed.label,
                    occupied(reliability_bins(rows, bins, clusters=assessed.answers.clusters)),
                    f"{CLASS_SLOT}: {count:,} of {len(rows):,} examples, error {error}",
                    words=ONE_CLASS,
                    names={CLASS_SLOT: as_label(name, 20)},
                )


def _against_rest(assessed: Assessed, class_index: int) -> TopLabel:
    rows = assessed.answers.rows
    return top_label(rows.probs[:, class_index], rows.labels == class_index)


def _chosen(methods: Sequence[tuple[int, Assessed]], per_class: PerClass) -> list[str]:
    if isinstance(per_class, str):
        return [per_class]
    if not isinstance(per_class, bool):
        return list(dict.fromkeys(per_class))
    all_names = [name for _, assessed in methods for name in assessed.method.predictions.classes]
    names = list(dict.fromkeys(all_names)) if per_class else []
    if len(names) <= MOST_CLASSES:
        return names
    worst = dict.fromkeys(names, 0.0)
    for _, assessed in methods:
        for class_index, name in enumerate(assessed.method.predictions.classes):
            error = ece(_against_rest(assessed, class_index), assessed.scores.num_bins)
            worst[name] = max(worst[name], error)
    largest = sorted(names, key=lambda name: -worst[name])[:MOST_CLASSES]
    return [name for name in names if name in largest]
