"""Curves of several methods in one panel: risk and coverage, ROC, and calibration under shift.

A risk-coverage curve shows the remaining errors when a method answers only its most confident rows
(Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206), beside those of a perfect and a random order
of the rows. Ties in confidence are averaged over all orders, as in AURC. In a ROC curve the rows of
the out-of-distribution set are the positive class, and each method has the uncertainty of its
`auroc`; a higher one means "more likely of the set".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.ood import sorted_by_uncertainty
from bayeslora.metrics.selective import Answered, answered
from bayeslora.metrics.top_label import TopLabel
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.figures import style
from bayeslora.reporting.figures.rendering import Panel, filled
from bayeslora.reporting.shift import ShiftCurve
from bayeslora.reporting.text import number

MARKED = (80, 90, 95)
"""Coverages in percent whose accuracy is marked and stated."""


@dataclass(frozen=True)
class Selective:
    """A method of a risk-coverage panel.

    `rows` holds confidence and correctness of its labelled rows; `aurc` is a text such as `AURC
    0.021`.
    """

    label: str
    rows: TopLabel
    aurc: str

    @cached_property
    def answered(self) -> Answered:
        """Its errors by decreasing confidence."""
        return answered(self.rows)

    def risk(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of errors among the most confident rows, for each number of rows."""
        return np.asarray(self.answered.errors_in(sizes.astype(np.float64)) / sizes)

    @property
    def highest_risk(self) -> float:
        """The largest share of errors at a coverage of a tenth or more.

        The first few rows may all be wrong by chance, which would stretch the axis.
        """
        sizes = style.sampled_sizes(len(self.rows))
        return float(self.risk(sizes)[sizes / len(self.rows) >= 0.1].max())

    @property
    def numbers(self) -> str:
        """Its numbers in the legend."""
        accuracies = (number(float(self.answered.accuracy_at(percent))) for percent in MARKED)
        return f"{self.aurc}; accuracy {', '.join(accuracies)} at {', '.join(map(str, MARKED))} %"


def risk_coverage_panel(
    name: str, methods: Sequence[tuple[style.Role, Selective]], top: float
) -> Panel:
    """Return the risk-coverage curves of some methods.

    The rows of the first determine the reference lines; `top` is the largest share of errors on the
    axis.
    """
    key = 0.58 + len(methods) * style.ENTRY_HEIGHT
    figure, (axes,) = style.figure_with_axes(key + 2 * style.KEY_ROW + 2.5, (0.42, 2.0))
    sizes = sorted({len(method.rows) for _, method in methods})
    style.add_heading(
        figure, f"n = {' or '.join(f'{size:,}' for size in sizes)}; most confident first"
    )
    entries = [(role, method.label, method.numbers) for role, method in methods]
    texts, words = style.add_entries(figure, entries, top=0.58)
    whose = " of the first" if len(methods) > 1 else ""
    lines = [
        (style.Role(style.RULE, (0, (4, 2))), f"examples{whose} in random order"),
        (style.Role(style.RULE, (0, (1, 1.5))), f"examples{whose}, all correct ones first"),
    ]
    style.add_key(figure, lines, top=key)
    first = methods[0][1].rows
    sampled, right = style.sampled_sizes(len(first)), float(first.correct.sum())
    random, perfect = 1 - right / len(first), np.maximum(0, sampled - right) / sampled
    for (role, _), width, across, up in (
        (lines[0], 1.0, [0, 1], [100 * random] * 2),
        (lines[1], 1.2, sampled / len(first), 100 * perfect),
    ):
        axes.plot(across, up, color=role.color, linestyle=role.line, linewidth=width)
    for role, method in methods:
        drawn = style.sampled_sizes(len(method.rows))
        style.draw_curve(axes, role, drawn / len(method.rows), 100 * method.risk(drawn))
        errors = [100 - 100 * float(method.answered.accuracy_at(percent)) for percent in MARKED]
        style.draw_points(axes, role, [percent / 100 for percent in MARKED], errors)
    for percent in MARKED:
        axes.axvline(percent / 100, color=style.GRID, linewidth=0.6, zorder=0)
    axes.set_xlabel("coverage: share of examples answered", color=style.INK)
    axes.set_ylabel("errors among them (%)", color=style.INK)
    axes.set(xlim=(0, 1), ylim=(0, min(100.0, 115 * top) or 100.0))
    title = f"Risk and coverage of {', '.join(texts.values())}"
    heading = {style.TITLE_SLOT: "Errors left at each coverage"}
    return Panel(name, figure, title, filled(words, texts), {**heading, **texts})


DETECTED = 0.95
"""Share of the set's rows flagged at the marked point, as in FPR95."""


def roc_panel(
    name: str, ood: str, label: str, methods: Sequence[tuple[style.Role, Assessed]]
) -> Panel:
    """Return the ROC curves of some methods on the set `ood` with a label."""
    key = 0.74 + len(methods) * style.ENTRY_HEIGHT
    figure, (axes,) = style.figure_with_axes(key + 3.16, (0.42, 2.7))
    style.draw_diagonal(axes)
    axes.axhline(DETECTED, color=style.GRID, linewidth=0.8, zorder=0)
    sizes, entries, scores = set(), [], {}
    for index, (role, method) in enumerate(methods):
        result, (inside, outside) = method.scores.ood[ood], method.uncertainties(ood)
        style.draw_curve(axes, role, *style.thinned(*roc_curve(inside, outside)))
        style.draw_points(axes, role, [result.fpr95.value], [DETECTED])
        sizes.add((len(inside), len(outside)))
        scores[slot := style.name_slot(index + 100)] = score_words(result.score)
        auroc, fpr95 = number(result.auroc.value), number(result.fpr95.value)
        entries.append((role, method.label, f"AUROC {auroc}, FPR95 {fpr95}, by {slot}"))
    counts = [f"{out:,} of the set (positive), {n:,} in distribution" for n, out in sorted(sizes)]
    heading = f"Rows: {' or '.join(counts)}"
    style.add_heading(figure, heading)
    marks, level = "points mark FPR95: 95 % of the set flagged", 1 - 0.52 / (key + 3.16)
    figure.text(0.0176, level, marks, fontsize=style.SMALLEST, color=style.INK, va="center")
    names, words = style.add_entries(figure, entries, top=0.74)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("in-distribution examples flagged")
    axes.set_ylabel("examples of the set flagged")
    texts = {style.TITLE_SLOT: label, **names, **scores}
    description = f"{heading}. {filled(words, texts)}"
    return Panel(name, figure, f"ROC of detecting {label}", description, texts)


def roc_curve(
    inside: NDArray[np.float64], outside: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [G + 1] shares of flagged in-distribution rows and of flagged rows of the set.

    One point per threshold, from none flagged to all; rows of equal uncertainty are flagged
    together, and the straight line between points counts ties as half, as in AUROC.
    """
    rows = sorted_by_uncertainty(inside, outside)
    hits = np.cumsum(rows.is_out)[rows.ends]
    alarms = rows.ends + 1 - hits
    return np.append(0.0, alarms / len(inside)), np.append(0.0, hits / len(outside))


_SHIFTED = (("ece", "ECE"), ("accuracy", "accuracy"))
_TALL, _GAP = 1.25, 0.25


def shift_panel(name: str, curves: Sequence[tuple[style.Role, ShiftCurve]]) -> Panel:
    """Return ECE and accuracy of some methods, at least one, under one corruption."""
    axis = "radius" if curves[0][1].kind.startswith("attack") else "severity"
    top = 0.58 + len(curves) * style.ENTRY_HEIGHT
    boxes = [(0.42 + index * (_TALL + _GAP), _TALL) for index in range(len(_SHIFTED))]
    figure, axes = style.figure_with_axes(top + 0.36 + len(_SHIFTED) * (_TALL + _GAP), *boxes[::-1])
    style.add_heading(figure, f"bars: 95 % intervals; {axis} 0: the examples as they are")
    entries = []
    for role, curve in curves:
        first, last = (curve.scores[level] for level in (min(curve.scores), max(curve.scores)))
        ends = ", ".join(
            f"{words} {number(first[key].value)} to {number(last[key].value)}"
            for key, words in _SHIFTED
        )
        entries.append((role, curve.label, f"{ends} at {axis} {max(curve.scores):.4g}"))
    texts, words = style.add_entries(figure, entries, top=0.58)
    levels = sorted({level for _, curve in curves for level in curve.scores})
    for ax, (key, title) in zip(axes, _SHIFTED, strict=True):
        for index, (role, curve) in enumerate(curves):
            # Shifted so that the error bars of methods do not overlap.
            shift = (index - (len(curves) - 1) / 2) * 0.012 * levels[-1]
            across = [severity + shift for severity in curve.scores]
            scores = [by_key[key] for by_key in curve.scores.values()]
            values = [score.value for score in scores]
            style.draw_curve(ax, role, across, values)
            style.draw_points(ax, role, across, values)
            lows, highs = [score.low for score in scores], [score.high for score in scores]
            ax.vlines(across, lows, highs, color=role.color, linewidth=0.8)
        ax.set_ylabel(title, color=style.INK)
        if all(float(level).is_integer() for level in levels):
            ax.set_xticks(levels)
        ax.set_ylim(bottom=0)
    axes[-1].set_xlabel(axis, color=style.INK)
    kind = curves[0][1].kind.replace("_", " ")
    title = f"Calibration under {kind} of {', '.join(texts.values())}"
    heading = {style.TITLE_SLOT: f"Calibration against {axis}: {kind}"}
    return Panel(name, figure, title, filled(words, texts), {**heading, **texts})
