"""Confidence and errors: a histogram of correct and wrong predictions, and risk-coverage curves.

A risk-coverage curve shows the remaining errors when a method answers only its most confident rows
(Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206). All methods share a panel, with the curves of
a perfect and a random order of the rows. Ties in confidence are averaged over all orders, as in
AURC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from bayeslora.metrics.selective import risk_coverage
from bayeslora.reporting.answers import SURE
from bayeslora.reporting.figures.rendering import Panel
from bayeslora.reporting.figures.style import (
    ENTRY_HEIGHT,
    INK,
    KEY_ROW,
    RIGHT,
    RULE,
    TITLE_SLOT,
    WRONG,
    Entry,
    Role,
    add_entries,
    add_heading,
    add_key,
    described,
    draw_curve,
    draw_points,
    figure_with_axes,
    name_slot,
    sampled_sizes,
)
from bayeslora.reporting.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from bayeslora.metrics.top_label import TopLabel


_ACCURACY = Role(INK, "-")
_CERTAINTY = Role(INK, (0, (3, 2)))


def confidence_panel(
    name: str,
    label: str,
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_] | None,
    bins: int,
) -> Panel:
    """Return the histogram of a method.

    Args:
        name: Stem of the figure's file.
        label: The method's label.
        confidence: [N] highest class probability of the labelled rows, or of all rows.
        correct: [N] whether the most probable class is the label; None if no row has a label.
        bins: Number of equal-width bins over 0 to 1.
    """
    means = {"mean confidence": (_CERTAINTY, float(confidence.mean()))}
    if correct is None:
        heading = f"{len(confidence)} examples without labels"
        key = [(RIGHT, "all examples")]
        wrong, title = np.zeros(len(confidence), dtype=np.bool_), f"Confidence of {label}"
        counts = f"{len(confidence)} examples"
    else:
        heading = f"{len(correct):,} labelled examples"
        wrong, title = ~correct, f"Confidence of correct and wrong predictions of {label}"
        errors = int(np.count_nonzero(wrong))
        right = len(correct) - errors
        key = [(RIGHT, f"correct ({right})"), (WRONG, f"wrong ({errors})")]
        means = {"accuracy": (_ACCURACY, float(correct.mean())), **means}
        counts = f"{right} predictions are correct and {errors} wrong"
    figure, (axes,) = figure_with_axes(3.1, (0.42, 1.8))
    add_heading(figure, heading)
    add_key(figure, key, top=0.58)
    entries = [(role, f"{name} {number(mean)}") for name, (role, mean) in means.items()]
    add_key(figure, entries, top=0.58, left=1.45)
    _draw_histogram(axes, confidence, wrong, bins)
    for role, mean in means.values():
        axes.axvline(mean, color=role.color, linewidth=1.3, linestyle=role.line)
    judged = confidence if correct is None else confidence[wrong]
    sure = int(np.count_nonzero(judged >= SURE))
    whose = "" if correct is None else " of the wrong ones"
    return Panel(
        name=name,
        figure=figure,
        title=title,
        description=(
            f"{counts}; {sure}{whose} have a confidence of {SURE:g} or more."
            f" {', '.join(words for _, words in entries).capitalize()}."
        ),
        texts={TITLE_SLOT: label},
    )


def _draw_histogram(
    axes: Axes, confidence: NDArray[np.float64], is_wrong: NDArray[np.bool_], bins: int
) -> None:
    edges = np.linspace(0.0, 1.0, bins + 1)
    right, _ = np.histogram(confidence[~is_wrong], edges)
    wrong, _ = np.histogram(confidence[is_wrong], edges)
    # Wrong predictions start at the axis: they are few, and their heights are compared.
    for heights, base, role in ((wrong, np.zeros(bins), WRONG), (right, wrong, RIGHT)):
        shown = heights > 0
        axes.bar(
            edges[:-1][shown],
            heights[shown],
            bottom=base[shown],
            width=1.0 / bins,
            align="edge",
            facecolor=role.area,
            edgecolor=role.color,
            hatch=role.hatch,
            linewidth=0.6,
        )
    axes.set(xlim=(0, 1), xlabel="confidence", ylabel="examples")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


MARKED = (0.8, 0.9, 0.95)
"""Coverages whose accuracy is marked and stated."""

TITLE = "Errors left at each coverage"

_RANDOM = Role(RULE, (0, (4, 2)))
_PERFECT = Role(RULE, (0, (1, 1.5)))


@dataclass(frozen=True)
class Selective:
    """A method of the panel.

    Attributes:
        label: Its label.
        rows: Confidence and correctness of its labelled rows.
        aurc: The area under its curve as text, such as `AURC 0.021`.
    """

    label: str
    rows: TopLabel
    aurc: str

    def risk(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of errors among the most confident rows, for each number of rows."""
        answered, wrong = self._errors
        return np.asarray(np.interp(sizes, answered, wrong) / sizes, dtype=np.float64)

    @cached_property
    def _errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Numbers of answered rows at each threshold, and of errors among them; both start at 0."""
        coverage, risk = risk_coverage(self.rows)
        answered = np.round(coverage * len(self.rows))
        return np.append(0.0, answered), np.append(0.0, risk * answered)

    def accuracy(self, coverage: float) -> float:
        """Return the accuracy on the fewest most confident rows that reach `coverage`."""
        # 0.95 · 20 must not be rounded up to the next row
        size = max(1, int(np.ceil(round(coverage * len(self.rows), 9))))
        return 1 - float(self.risk(np.array([size]))[0])


def highest_risk(method: Selective) -> float:
    """Return the largest share of errors at a coverage of a tenth or more.

    The first few rows may all be wrong by chance, which would stretch the axis.
    """
    sizes = sampled_sizes(len(method.rows))
    return float(method.risk(sizes)[sizes / len(method.rows) >= 0.1].max())


def risk_coverage_panel(
    name: str, methods: Sequence[tuple[Role, Selective]], top: float | None = None
) -> Panel:
    """Return the curves of some methods.

    Args:
        name: Stem of the figure's file.
        methods: Methods with their roles; the rows of the first determine the reference lines.
        top: Largest share of errors on the axis, if several panels share it.
    """
    key = 0.58 + len(methods) * ENTRY_HEIGHT
    figure, (axes,) = figure_with_axes(key + 2 * KEY_ROW + 2.5, (0.42, 2.0))
    sizes = sorted({len(method.rows) for _, method in methods})
    add_heading(figure, f"n = {' or '.join(f'{size:,}' for size in sizes)}; most confident first")
    texts = {name_slot(index): method.label for index, (_, method) in enumerate(methods)}
    entries = [
        Entry(role, slot, _numbers(method))
        for slot, (role, method) in zip(texts, methods, strict=True)
    ]
    add_entries(figure, entries, top=0.58)
    whose = " of the first" if len(methods) > 1 else ""
    lines = [
        (_RANDOM, f"examples{whose} in random order"),
        (_PERFECT, f"examples{whose}, all correct ones first"),
    ]
    add_key(figure, lines, top=key)
    _draw_curves(axes, methods)
    highest = max(highest_risk(method) for _, method in methods) if top is None else top
    axes.set(xlim=(0, 1), ylim=(0, min(100.0, 115 * highest) or 100.0))
    return Panel(
        name=name,
        figure=figure,
        title="Risk and coverage of " + ", ".join(texts.values()),
        description=described(entries, texts),
        texts={TITLE_SLOT: TITLE, **texts},
    )


def _numbers(method: Selective) -> str:
    accuracies = ", ".join(number(method.accuracy(coverage)) for coverage in MARKED)
    shares = ", ".join(f"{100 * coverage:.0f}" for coverage in MARKED)
    return f"{method.aurc}; accuracy {accuracies} at {shares} %"


def _draw_curves(axes: Axes, methods: Sequence[tuple[Role, Selective]]) -> None:
    first = methods[0][1].rows
    sizes = sampled_sizes(len(first))
    right, rows = float(first.correct.sum()), len(first)
    random = np.full(2, 1 - right / rows)
    perfect = np.maximum(0, sizes - right) / sizes
    axes.plot([0, 1], 100 * random, color=_RANDOM.color, linestyle=_RANDOM.line, linewidth=1.0)
    axes.plot(
        sizes / rows, 100 * perfect, color=_PERFECT.color, linestyle=_PERFECT.line, linewidth=1.2
    )
    for role, method in methods:
        sizes = sampled_sizes(len(method.rows))
        draw_curve(axes, role, sizes / len(method.rows), 100 * method.risk(sizes))
        draw_points(
            axes, role, MARKED, [100 - 100 * method.accuracy(coverage) for coverage in MARKED]
        )
    for marked in MARKED:
        axes.axvline(marked, color="#e6e6e6", linewidth=0.6, zorder=0)
    axes.set_xlabel("coverage: share of examples answered", color=INK)
    axes.set_ylabel("errors among them (%)", color=INK)
