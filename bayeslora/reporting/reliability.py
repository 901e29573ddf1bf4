"""Reliability diagram: how often the method was right, given how sure it was.

Each bin that holds rows is a point at its mean confidence and its accuracy, with the 95 % Wilson
interval of that accuracy; bins without rows are not drawn. The counts stand under the diagram
(Bröcker and Smith, 2007, on why a diagram without intervals misleads). The same drawing serves bins
of equal mass, and one class against the rest, where its probability takes the place of the
confidence and the share of its rows that of the accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayeslora.plain_text import counted
from bayeslora.reporting.figures import (
    INK,
    MARKER_SIZE,
    MEETS,
    MISSES,
    MUTED,
    RULE,
    TITLE_SLOT,
    add_heading,
    add_key,
    figure_with_axes,
)
from bayeslora.reporting.svg import Panel, filled
from bayeslora.reporting.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslora.reporting.assess import Point

NARROWEST_LABELLED = 0.04
"""Counts are written above bars of at least this width, in units of confidence."""


@dataclass(frozen=True)
class Words:
    """What a kind of reliability diagram calls its parts.

    Attributes:
        title: What the figure is, with `{}` for the method's label.
        across: What is predicted, on the horizontal axis and in the description.
        up: What came true, on the vertical axis.
        short: The same in one word or two, for the description.
    """

    title: str
    across: str
    up: str
    short: str


TOP_LABEL = Words("Reliability diagram of {}", "confidence", "accuracy in the bin", "accuracy")
EQUAL_MASS = Words(
    "Reliability diagram of {}, bins of equal mass",
    "confidence",
    "accuracy in the bin",
    "accuracy",
)


def reliability_panel(
    name: str,
    label: str,
    points: Sequence[Point],
    note: str,
    *,
    words: Words = TOP_LABEL,
    names: Mapping[str, str] | None = None,
) -> Panel:
    """Return the diagram of one method.

    Args:
        name: Stem of the figure's file.
        label: The method's label.
        points: Bins that hold rows.
        note: What stands under the label: the calibration error and its interval.
        words: What its parts are called.
        names: Slots in the note, and the names that fill them.
    """
    figure, (main, counts) = figure_with_axes(4.52, (1.2, 2.4), (0.42, 0.62))
    add_heading(figure, note)
    key = [(MEETS, "95 % interval meets the diagonal"), (MISSES, "interval misses it")]
    add_key(figure, key, top=0.58)
    _draw_points(main, points)
    main.set_ylabel(words.up)
    _draw_counts(counts, points)
    counts.set_xlabel(words.across)
    texts = {TITLE_SLOT: label, **(names or {})}
    return Panel(
        name=name,
        figure=figure,
        title=filled(words.title.format(TITLE_SLOT), texts),
        description=_description(points, filled(note, texts), words),
        texts=texts,
    )


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    for off, role in ((False, MEETS), (True, MISSES)):
        chosen = [item for item in points if item.off_diagonal is off]
        axes.errorbar(
            [item.confidence for item in chosen],
            [item.accuracy for item in chosen],
            yerr=[
                [max(0.0, item.accuracy - item.accuracy_low) for item in chosen],
                [max(0.0, item.accuracy_high - item.accuracy) for item in chosen],
            ],
            fmt=role.marker,
            color=role.color,
            markersize=MARKER_SIZE,
            elinewidth=1.1,
            capsize=2.2,
            zorder=3,
            clip_on=False,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.tick_params(labelbottom=False)
    axes.grid(color="#e6e6e6", linewidth=0.5)
    axes.set_axisbelow(True)


def _draw_counts(axes: Axes, points: Sequence[Point]) -> None:
    axes.bar(
        [item.low for item in points],
        [item.count for item in points],
        width=[item.high - item.low for item in points],
        align="edge",
        color="#c9d6df",
        edgecolor=MUTED,
        linewidth=0.5,
    )
    for item in points:
        if item.high - item.low >= NARROWEST_LABELLED:
            axes.annotate(
                _short_count(item.count),
                ((item.low + item.high) / 2, item.count),
                xytext=(0, 1.5),
                textcoords="offset points",
                ha="center",
                fontsize=6,
                color=INK,
            )
    tallest = max((item.count for item in points), default=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.3 * tallest), ylabel="rows")
    axes.set_yticks([])


def _short_count(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            share = count / size
            return f"{share:.1f}{letter}" if share < 9.95 else f"{share:.0f}{letter}"
    return str(count)


def _description(points: Sequence[Point], note: str, words: Words) -> str:
    rows = [
        f"{words.across} {number(item.confidence, digits=2)}:"
        f" {words.short} {number(item.accuracy, digits=2)}"
        f" (95 % interval {number(item.accuracy_low, digits=2)} to"
        f" {number(item.accuracy_high, digits=2)}, {counted(item.count, 'row')})"
        for item in points
    ]
    return f"{note}. Bins with rows: {'; '.join(rows) or 'none'}."
