"""All figures of a report, with their headings and captions.

A reliability diagram has a point for each non-empty bin, at its mean confidence and its accuracy,
with the 95 % Wilson interval of that accuracy, and the counts below (Bröcker and Smith, 2007, on
why a diagram without intervals misleads). It shows only the most probable class: it can hide
miscalibration of a class that is rare, or often confused with another (Kull et al. 2019,
arXiv:1910.12656), which the scores of each class show.

A risk-coverage curve shows the remaining errors when a method answers only its most confident rows
(Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206). In a ROC curve the rows of the
out-of-distribution set are the positive class, and each method has the uncertainty of its `auroc`;
a higher one means "more likely of the set".

Colours are from the palette of Okabe and Ito (2008), which is distinguishable with common colour
vision deficiencies; line style, hatch or marker shape encodes the same information, so that figures
work in grey. Names are plain text: never formulas, and escaped by matplotlib. The same figure gives
the same bytes on every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from bayeslora.errors import unknown_choice
from bayeslora.metrics.ood import sorted_by_uncertainty
from bayeslora.plain_text import counted
from bayeslora.reporting import blocks
from bayeslora.reporting.assess import Assessed, Point, every_fit, labelled
from bayeslora.reporting.facts import SURE, Facts
from bayeslora.reporting.panel import Panel, drawing_style
from bayeslora.reporting.text import number, score_words, shown_ece, words

FORMATS = ("svg", "png", "pdf")
"""Formats of figure files; the first is the default."""

BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
GREEN = "#009E73"
INK = "#222222"
MUTED = "#5a5a5a"
RULE = "#8a8a8a"
GRID = "#e6e6e6"

WIDTH = 3.4
"""Width of every figure, in inches."""

LEFT = 0.5
"""Room left of the axes for tick labels and the axis label, in inches."""

SMALL = 7.5
"""Font size of labels inside the axes and of legends, in points."""

ENTRY_HEIGHT = 0.31
"""Height of an entry of a legend with two lines, in inches."""

Look = Mapping[str, Any]
"""Properties of matplotlib's lines, or of its patches for an area."""

MEETS: Look = {"color": BLUE, "marker": "o"}
MISSES: Look = {"color": VERMILLION, "marker": "s"}
RIGHT: Look = {"edgecolor": BLUE, "facecolor": "#73b1d4"}
WRONG: Look = {"edgecolor": VERMILLION, "facecolor": "#f4d6bf", "hatch": "////"}
ACCURACY: Look = {"color": INK}
CERTAINTY: Look = {"color": INK, "linestyle": (0, (3, 2))}
DIAGONAL: Look = {"color": RULE, "linestyle": (0, (4, 2))}
METHODS: tuple[Look, ...] = (
    {"color": BLUE, "linestyle": "-", "marker": "o"},
    {"color": VERMILLION, "linestyle": (0, (5, 1.5)), "marker": "s"},
    {"color": INK, "linestyle": (0, (1.2, 1.2)), "marker": "^"},
    {"color": GREEN, "linestyle": (0, (7, 1.5, 1.2, 1.5)), "marker": "D"},
    {"color": PURPLE, "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "v"},
)
"""Lines of the methods of a panel; their number limits the methods per panel."""


def check_formats(formats: Sequence[str]) -> None:
    """Raise InputError if a format of figure files is unknown."""
    for kind in formats:
        if kind not in FORMATS:
            raise unknown_choice("figure format", kind, FORMATS)


Drawings = Mapping[str, blocks.Figure]
"""Topic, one of `figures` in the table of sentences -> its figure, maybe without drawings."""


def draw(facts: Facts) -> Drawings:
    """Draw every figure."""
    drawn: dict[str, list[Panel]] = {topic: [] for topic in words()["figures"]}
    with drawing_style():
        for topic, panel in _panels(facts):
            drawn[topic].append(panel)
    return {
        topic: blocks.Figure(about["caption"], tuple(drawn[topic]), about["heading"])
        for topic, about in words()["figures"].items()
    }


def _panels(facts: Facts) -> Iterator[tuple[str, Panel]]:
    """Yield every panel with its topic."""
    fits = every_fit(facts.methods)
    with_labels = labelled(fits)
    for index, fit in enumerate(fits, start=1):
        if fit in with_labels:
            yield "reliability", reliability_panel(f"reliability-{index}", fit)
        if fit in with_labels or fit is fits[0]:
            yield "confidence", confidence_panel(f"confidence-{index}", fit)
    points = [point for fit in with_labels for point in fit.scores.risk_coverage]
    # The first few rows may all be wrong by chance, which would stretch the axis.
    top = max((point.risk for point in points if point.coverage >= 0.1), default=0.0)
    for index, methods in panels_of(with_labels):
        yield "selective", risk_coverage_panel(f"risk-coverage-{index}", methods, top)
    for number_of_set, (name, label) in enumerate(facts.sets.items(), start=1):
        for index, tested in panels_of([fit for fit in fits if name in fit.scores.ood]):
            yield "roc", roc_panel(f"roc-{number_of_set}-{index}", name, label, tested)


Item = TypeVar("Item")


def panels_of(items: Sequence[Item]) -> Iterator[tuple[int, list[tuple[Look, Item]]]]:
    """Yield the number of each panel, from 1, with its items and their lines.

    Panels have at most as many items as there are lines.
    """
    starts = range(0, len(items), len(METHODS))
    for index, start in enumerate(starts, start=1):
        yield index, list(zip(METHODS, items[start:], strict=False))


def figure_with_axes(
    height: float, title: str, note: str, *boxes: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """Return a figure of the common width with a title, a note below it, and stacked axes.

    Boxes are bottoms and heights of the axes, in inches.
    """
    figure = Figure(figsize=(WIDTH, height))
    across = (WIDTH - LEFT - 0.12) / WIDTH
    axes = [
        figure.add_axes((LEFT / WIDTH, bottom / height, across, tall / height))
        for bottom, tall in boxes
    ]
    left = 0.06 / WIDTH
    bold: Any = {"fontsize": 8.5, "weight": "bold", "color": INK}
    figure.text(left, 1 - 0.17 / height, title, va="center", **bold)
    figure.text(left, 1 - 0.36 / height, note, va="center", fontsize=SMALL, color=MUTED)
    return figure, axes


def add_legend(figure: Figure, entries: Sequence[tuple[Look, str]], columns: int = 1) -> None:
    """Draw a legend of looks and words below the note."""
    handles = [
        Patch(**look) if "facecolor" in look else Line2D([], [], **look) for look, _ in entries
    ]
    place = 0.06 / WIDTH, 1 - 0.5 / figure.get_figheight()
    legend = figure.legend(
        handles, [""] * len(handles), loc="upper left", bbox_to_anchor=place, ncols=columns
    )
    # As labels, names that begin with an underscore would be left out.
    for text, (_, words_of_entry) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(words_of_entry)


def draw_curve(
    axes: Axes, look: Look, across: ArrayLike, up: ArrayLike, clipped: bool = False
) -> None:
    """Draw a curve; it may lie on the edge of the axes, and leave them unless it is clipped."""
    axes.plot(across, up, **{**look, "marker": ""}, linewidth=1.4, clip_on=clipped)


def draw_points(axes: Axes, look: Look, across: ArrayLike, up: ArrayLike) -> None:
    """Draw points that stand out from a curve below them."""
    white: Any = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.5}
    axes.plot(across, up, **{**look, **white}, zorder=3, clip_on=False)


def reliability_panel(name: str, fit: Assessed) -> Panel:
    """Return the diagram of a fit with labelled rows."""
    points, note = fit.points, f"ECE {shown_ece(fit.scores)}, n = {fit.scores.n_labelled:,}"
    figure, (main, counts) = figure_with_axes(4.12, fit.label, note, (1.14, 2.24), (0.4, 0.62))
    legend = [(MEETS, "95 % interval meets the diagonal")]
    if any(point.off_diagonal for point in points):
        legend.append((MISSES, "misses it"))
    add_legend(figure, legend, columns=2)
    main.plot([0, 1], [0, 1], **DIAGONAL, linewidth=0.9, zorder=1)
    for look, off in ((MEETS, False), (MISSES, True)):
        chosen = [point for point in points if point.off_diagonal is off]
        main.errorbar(
            [point.confidence for point in chosen],
            [point.accuracy for point in chosen],
            yerr=[
                [max(0.0, point.accuracy - point.accuracy_low) for point in chosen],
                [max(0.0, point.accuracy_high - point.accuracy) for point in chosen],
            ],
            **look,
            linestyle="none",
            elinewidth=1.1,
            capsize=2.2,
            zorder=3,
            clip_on=False,
        )
    main.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy in the bin")
    main.tick_params(labelbottom=False)
    main.grid(color=GRID, linewidth=0.5)
    main.set_axisbelow(True)
    side: dict[str, Any] = {"fontsize": SMALL, "color": MUTED, "zorder": 0}
    main.text(0.03, 0.97, "underconfident", ha="left", va="top", **side)
    main.text(0.97, 0.03, "overconfident", ha="right", va="bottom", **side)
    _draw_counts(counts, points)
    rows = [
        f"confidence {point.confidence:.2f}: accuracy {point.accuracy:.2f} (95 % interval"
        f" {point.accuracy_low:.2f} to {point.accuracy_high:.2f}, {counted(point.count, 'row')})"
        for point in points
    ]
    description = f"{note}. Bins: {'; '.join(rows)}."
    return Panel(name, figure, f"Reliability diagram of {fit.label}", description)


def _draw_counts(axes: Axes, points: Sequence[Point]) -> None:
    bars = axes.bar(
        [point.low for point in points],
        [point.count for point in points],
        width=[point.high - point.low for point in points],
        align="edge",
        color="#c9d6df",
        edgecolor=MUTED,
        linewidth=0.5,
    )
    # Upright, since numbers of many digits are wider than a bar.
    axes.bar_label(bars, fmt="{:,.0f}", padding=1.5, rotation=90, fontsize=7.0, color=INK)
    tallest = max(point.count for point in points)
    axes.set(xlim=(0, 1), ylim=(0, 1.7 * tallest), xlabel="confidence", ylabel="examples")
    axes.set_yticks([])


def confidence_panel(name: str, fit: Assessed) -> Panel:
    """Return the histogram of a fit's confidence, in equal-width bins over 0 to 1.

    If no row has a label, it is that of all rows.
    """
    if "nll" in fit.scores:
        confidence, correct = fit.answers.rows.confidence, fit.answers.rows.correct
        right = round(float(correct.sum()))
        note, wrong = f"{len(correct):,} labelled examples", len(correct) - right
        legend = [(RIGHT, f"correct ({right})"), (WRONG, f"wrong ({wrong})")]
        means = {"accuracy": (ACCURACY, float(correct.mean()))}
        sure = round(float((1 - correct)[confidence >= SURE].sum()))
        counts = (
            f"{right} predictions are correct and {wrong} wrong; {sure} of the wrong ones have a"
            f" confidence of {SURE:g} or more"
        )
    else:
        confidence = fit.method.predictions.confidence
        correct, means = np.ones(len(confidence)), {}
        note = counts = f"{len(confidence):,} examples without labels"
        legend = [(RIGHT, "all examples")]
    means["mean confidence"] = (CERTAINTY, float(confidence.mean()))
    figure, (axes,) = figure_with_axes(3.1, fit.label, note, (0.42, 1.8))
    lines = [(look, f"{title} {number(mean)}") for title, (look, mean) in means.items()]
    add_legend(figure, [*legend, *lines], columns=2)
    edges = np.linspace(0.0, 1.0, fit.scores.num_bins + 1)
    # Wrong predictions start at the axis: they are few, and their heights are compared.
    base = np.zeros(len(edges) - 1)
    for look, share in ((WRONG, 1 - correct), (RIGHT, correct)):
        heights = np.histogram(confidence, edges, weights=share)[0]
        shown = heights > 0
        axes.bar(
            edges[:-1][shown],
            heights[shown],
            bottom=base[shown],
            width=edges[1],
            align="edge",
            linewidth=0.6,
            **look,
        )
        base = base + heights
    axes.set(xlim=(0, 1), xlabel="confidence", ylabel="examples")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for look, mean in means.values():
        axes.axvline(mean, **look, linewidth=1.3)
    words_of_means = ", ".join(text for _, text in lines).capitalize()
    return Panel(name, figure, f"Confidence of {fit.label}", f"{counts}. {words_of_means}.")


MARKED = (80, 90, 95)
"""Coverages in percent whose accuracy is marked and stated."""


def risk_coverage_panel(name: str, methods: Sequence[tuple[Look, Assessed]], top: float) -> Panel:
    """Return the risk-coverage curves of labelled methods; `top` is the largest risk to show."""
    key = 0.5 + len(methods) * ENTRY_HEIGHT
    title, note = "Errors left at each coverage", "most confident first"
    figure, (axes,) = figure_with_axes(key + 2.6, title, note, (0.42, 2.0))
    legend = []
    for look, method in methods:
        scores, curve = method.scores, method.scores.risk_coverage
        accuracies = [scores[f"accuracy_at_{percent}"].value for percent in MARKED]
        across, up = [point.coverage for point in curve], [100 * point.risk for point in curve]
        draw_curve(axes, look, across, up, clipped=True)
        marks = [percent / 100 for percent in MARKED]
        draw_points(axes, look, marks, [100 * (1 - share) for share in accuracies])
        stated = f"{', '.join(map(number, accuracies))} at {', '.join(map(str, MARKED))} %"
        text = f"{method.label}\nAURC {number(scores['aurc'].value)}; accuracy {stated}"
        legend.append((look, text))
    add_legend(figure, legend)
    axes.set(xlabel="coverage: share of examples answered", ylabel="errors among them (%)")
    axes.set(xlim=(0, 1), ylim=(0, min(100.0, 115 * top) or 100.0))
    title = f"Risk and coverage of {', '.join(method.label for _, method in methods)}"
    return Panel(name, figure, title, _in_words(legend))


def _in_words(legend: Sequence[tuple[Look, str]]) -> str:
    """Return the entries of a legend, each a name above its numbers, as text."""
    return f"{'; '.join(text.replace(chr(10), ': ') for _, text in legend)}."


DETECTED = 0.95
"""Share of the set's rows flagged at the marked point, as in FPR95."""


def roc_panel(name: str, ood: str, label: str, methods: Sequence[tuple[Look, Assessed]]) -> Panel:
    """Return the ROC curves of some methods on the set `ood` with a label."""
    first = methods[0][1].scores.ood[ood]
    note = f"{first.n_out:,} examples of the set (positive), {first.n_in:,} in distribution"
    key = 0.5 + len(methods) * ENTRY_HEIGHT
    figure, (axes,) = figure_with_axes(key + 3.16, label, note, (0.42, 2.7))
    axes.plot([0, 1], [0, 1], **DIAGONAL, linewidth=0.9, zorder=1)
    axes.axhline(DETECTED, color=GRID, linewidth=0.8, zorder=0)
    legend = []
    for look, method in methods:
        result = method.scores.ood[ood]
        draw_curve(axes, look, *roc_curve(*method.uncertainties(ood)))
        draw_points(axes, look, [result.fpr95.value], [DETECTED])
        numbers = f"AUROC {number(result.auroc.value)}, FPR95 {number(result.fpr95.value)}"
        legend.append((look, f"{method.label}\n{numbers}, by {score_words(result.score)}"))
    add_legend(figure, legend)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="examples of the set flagged")
    axes.set_xlabel("in-distribution examples flagged (point: FPR95)")
    return Panel(name, figure, f"ROC of detecting {label}", f"{note}. {_in_words(legend)}")


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
