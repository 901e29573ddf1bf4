"""Curves: risk and coverage, ROC, and calibration under shift.

A risk-coverage curve shows the remaining errors when a method answers only its most confident rows
(Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206), beside those of a perfect and a random order
of the rows. In a ROC curve the rows of the out-of-distribution set are the positive class, and each
method has the uncertainty of its `auroc`; a higher one means "more likely of the set".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.ood import sorted_by_uncertainty
from bayeslora.reporting.assess import Assessed, ShiftCurve
from bayeslora.reporting.figures import style
from bayeslora.reporting.figures.style import Panel, Role
from bayeslora.reporting.text import number, score_words

MARKED = (80, 90, 95)
"""Coverages in percent whose accuracy is marked and stated."""


def _entries(figures: Sequence[tuple[Role, str, str]]) -> tuple[list[tuple[Role, str]], str]:
    """Return a legend of methods with their numbers below the names, and the same in words."""
    legend = [(role, f"{name}\n{numbers}") for role, name, numbers in figures]
    return legend, f"{'; '.join(f'{name}: {numbers}' for _, name, numbers in figures)}."


def highest_risk(method: Assessed) -> float:
    """Return the largest share of errors at a coverage of a tenth or more.

    The first few rows may all be wrong by chance, which would stretch the axis.
    """
    return max(point.risk for point in method.scores.risk_coverage if point.coverage >= 0.1)


def risk_coverage_panel(name: str, methods: Sequence[tuple[Role, Assessed]], top: float) -> Panel:
    """Return the risk-coverage curves of some labelled methods.

    The rows of the first determine the reference lines; `top` is the largest share of errors on the
    axis.
    """
    sizes = sorted({method.scores.n_labelled for _, method in methods})
    note = f"n = {' or '.join(f'{size:,}' for size in sizes)}; most confident first"
    key = 0.5 + len(methods) * style.ENTRY_HEIGHT
    figure, (axes,) = style.figure_with_axes(
        key + 2 * style.KEY_ROW + 2.6, "Errors left at each coverage", note, (0.42, 2.0)
    )
    of_marked = [
        [method.scores[f"accuracy_at_{percent}"].value for percent in MARKED]
        for _, method in methods
    ]
    legend, words = _entries(
        [
            (
                role,
                method.label,
                f"AURC {number(method.scores['aurc'].value)}; accuracy"
                f" {', '.join(map(number, accuracies))} at {', '.join(map(str, MARKED))} %",
            )
            for (role, method), accuracies in zip(methods, of_marked, strict=True)
        ]
    )
    whose = " of the first" if len(methods) > 1 else ""
    random, perfect = Role(style.RULE, (0, (4, 2))), Role(style.RULE, (0, (1, 1.5)))
    legend += [
        (random, f"examples{whose} in random order"),
        (perfect, f"examples{whose}, all correct ones first"),
    ]
    style.add_legend(figure, legend, top=0.5)
    accuracy = methods[0][1].scores["accuracy"].value
    style.draw_curve(axes, random, [0, 1], [100 * (1 - accuracy)] * 2)
    answered = np.linspace(0.01, 1, 200)
    style.draw_curve(axes, perfect, answered, 100 * np.maximum(0, 1 - accuracy / answered))
    marks = [percent / 100 for percent in MARKED]
    for (role, method), accuracies in zip(methods, of_marked, strict=True):
        curve = method.scores.risk_coverage
        across, up = [point.coverage for point in curve], [100 * point.risk for point in curve]
        style.draw_curve(axes, role, across, up)
        style.draw_points(axes, role, marks, [100 * (1 - share) for share in accuracies])
    for mark in marks:
        axes.axvline(mark, color=style.GRID, linewidth=0.6, zorder=0)
    axes.set_xlabel("coverage: share of examples answered", color=style.INK)
    axes.set_ylabel("errors among them (%)", color=style.INK)
    axes.set(xlim=(0, 1), ylim=(0, min(100.0, 115 * top) or 100.0))
    title = f"Risk and coverage of {', '.join(method.label for _, method in methods)}"
    return Panel(name, figure, title, words)


DETECTED = 0.95
"""Share of the set's rows flagged at the marked point, as in FPR95."""


def roc_panel(name: str, ood: str, label: str, methods: Sequence[tuple[Role, Assessed]]) -> Panel:
    """Return the ROC curves of some methods on the set `ood` with a label."""
    results = [method.scores.ood[ood] for _, method in methods]
    sizes = sorted({(result.n_out, result.n_in) for result in results})
    counts = [f"{out:,} of the set (positive), {n:,} in distribution" for out, n in sizes]
    note = f"Rows: {' or '.join(counts)}"
    legend, words = _entries(
        [
            (
                role,
                method.label,
                f"AUROC {number(result.auroc.value)}, FPR95 {number(result.fpr95.value)}, by"
                f" {score_words(result.score)}",
            )
            for (role, method), result in zip(methods, results, strict=True)
        ]
    )
    key = 0.5 + len(methods) * style.ENTRY_HEIGHT
    figure, (axes,) = style.figure_with_axes(key + 3.16, label, note, (0.42, 2.7))
    style.add_legend(figure, legend, top=0.5)
    style.draw_diagonal(axes)
    axes.axhline(DETECTED, color=style.GRID, linewidth=0.8, zorder=0)
    for (role, method), result in zip(methods, results, strict=True):
        style.draw_curve(axes, role, *roc_curve(*method.uncertainties(ood)))
        style.draw_points(axes, role, [result.fpr95.value], [DETECTED])
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("in-distribution examples flagged (point: FPR95)")
    axes.set_ylabel("examples of the set flagged")
    return Panel(name, figure, f"ROC of detecting {label}", f"{note}. {words}")


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


_SHIFTED = {"ece": "ECE", "accuracy": "accuracy"}
_TALL, _GAP = 1.25, 0.25


def shift_panel(name: str, curves: Sequence[tuple[Role, ShiftCurve]]) -> Panel:
    """Return ECE and accuracy of some methods, at least one, under one corruption."""
    kind = curves[0][1].kind.replace("_", " ")
    axis = "radius" if kind.startswith("attack") else "severity"
    entries = []
    for role, curve in curves:
        first, last = (curve.scores[level] for level in (min(curve.scores), max(curve.scores)))
        ends = ", ".join(
            f"{words} {number(first[key].value)} to {number(last[key].value)}"
            for key, words in _SHIFTED.items()
        )
        entries.append((role, curve.label, f"{ends} at {axis} {max(curve.scores):.4g}"))
    legend, words = _entries(entries)
    boxes = [(0.42 + index * (_TALL + _GAP), _TALL) for index in range(len(_SHIFTED))]
    height = 0.9 + len(curves) * style.ENTRY_HEIGHT + len(_SHIFTED) * (_TALL + _GAP)
    note = f"bars: 95 % intervals; {axis} 0: the examples as they are"
    heading = f"Calibration against {axis}: {kind}"
    figure, axes = style.figure_with_axes(height, heading, note, *boxes[::-1])
    style.add_legend(figure, legend, top=0.5)
    levels = sorted({level for _, curve in curves for level in curve.scores})
    for ax, (score, title) in zip(axes, _SHIFTED.items(), strict=True):
        for index, (role, curve) in enumerate(curves):
            # Shifted so that the error bars of methods do not overlap.
            shift = (index - (len(curves) - 1) / 2) * 0.012 * levels[-1]
            across = [severity + shift for severity in curve.scores]
            scores = [by_key[score] for by_key in curve.scores.values()]
            values = [each.value for each in scores]
            style.draw_curve(ax, role, across, values)
            style.draw_points(ax, role, across, values)
            lows, highs = [each.low for each in scores], [each.high for each in scores]
            ax.vlines(across, lows, highs, color=role.color, linewidth=0.8)
        ax.set_ylabel(title, color=style.INK)
        if all(float(level).is_integer() for level in levels):
            ax.set_xticks(levels)
        ax.set_ylim(bottom=0)
    axes[-1].set_xlabel(axis, color=style.INK)
    title = f"Calibration under {kind} of {', '.join(curve.label for _, curve in curves)}"
    return Panel(name, figure, title, words)
