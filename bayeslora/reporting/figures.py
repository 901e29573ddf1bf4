"""All figures of a report, with their headings and captions.

A reliability diagram has a point for each non-empty bin, at its mean confidence and its accuracy,
with the 95 % Wilson interval of that accuracy, and the counts below (Bröcker and Smith, 2007, on
why a diagram without intervals misleads). It shows only the most probable class: it can hide
miscalibration of a class that is rare, or often confused with another (Kull et al. 2019,
arXiv:1910.12656), which the scores of each class show.

A risk-coverage curve shows the remaining errors when a method answers only its most confident rows
(Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206), beside those of a perfect and a random order
of the rows. In a ROC curve the rows of the out-of-distribution set are the positive class, and each
method has the uncertainty of its `auroc`; a higher one means "more likely of the set".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from bayeslora.metrics.ood import sorted_by_uncertainty
from bayeslora.plain_text import counted
from bayeslora.reporting import figure_style as style
from bayeslora.reporting.assess import Assessed, Point, ShiftCurve, every_fit, labelled
from bayeslora.reporting.blocks import Figure
from bayeslora.reporting.facts import SURE, Facts
from bayeslora.reporting.figure_style import Panel, Role, panels_of
from bayeslora.reporting.text import number, score_words, shown_ece, words

Drawings = Mapping[str, Figure]
"""Topic, one of `figures` in the table of sentences -> its figure, maybe without drawings."""


def draw(facts: Facts) -> Drawings:
    """Draw every figure."""
    drawn: dict[str, list[Panel]] = {topic: [] for topic in words()["figures"]}
    with style.drawing_style():
        for topic, panel in _panels(facts):
            drawn[topic].append(panel)
    return {
        topic: Figure(about["caption"], tuple(drawn[topic]), about["heading"])
        for topic, about in words()["figures"].items()
    }


def _panels(facts: Facts) -> Iterator[tuple[str, Panel]]:
    """Yield every panel with its topic."""
    fits = every_fit(facts.methods)
    with_labels = labelled(fits)
    for index, fit in enumerate(fits, start=1):
        scores, name = fit.scores, f"confidence-{index}"
        if fit in with_labels:
            note = f"ECE {shown_ece(scores)}, n = {scores.n_labelled:,}"
            diagram = reliability_panel(f"reliability-{index}", fit.label, fit.points, note)
            yield "reliability", diagram
            sure, correct = fit.answers.rows.confidence, fit.answers.correct
            yield "confidence", confidence_panel(name, fit.label, sure, correct, scores.num_bins)
        elif not with_labels and fit is fits[0]:
            sure = fit.method.predictions.confidence
            yield "confidence", confidence_panel(name, fit.label, sure, None, scores.num_bins)
        for panel in density_panels(index, fit, facts.sets):
            yield "densities", panel
    groups = [
        group
        for kind in dict.fromkeys(curve.kind for curve in facts.shift)
        for _, group in panels_of([curve for curve in facts.shift if curve.kind == kind])
    ]
    for index, group in enumerate(groups, start=1):
        yield "shift", shift_panel(f"shift-{index}", group)
    points = [point for fit in with_labels for point in fit.scores.risk_coverage]
    # The first few rows may all be wrong by chance, which would stretch the axis.
    top = max((point.risk for point in points if point.coverage >= 0.1), default=0.0)
    for index, methods in panels_of(with_labels):
        yield "selective", risk_coverage_panel(f"risk-coverage-{index}", methods, top)
    for number_of_set, (name, label) in enumerate(facts.sets.items(), start=1):
        for index, tested in panels_of([fit for fit in fits if name in fit.scores.ood]):
            yield "roc", roc_panel(f"roc-{number_of_set}-{index}", name, label, tested)


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


_ACCURACY = style.Role(style.INK, "-")
_CERTAINTY = style.Role(style.INK, (0, (3, 2)))


def confidence_panel(
    name: str,
    label: str,
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_] | None,
    bins: int,
) -> Panel:
    """Return the histogram of a method's confidence, in equal-width bins over 0 to 1.

    `confidence` holds the [N] highest class probabilities of the labelled rows, and `correct`
    whether that class is the label; if no row has a label, it is None and `confidence` of all rows.
    """
    means = {"mean confidence": (_CERTAINTY, float(confidence.mean()))}
    if correct is None:
        heading = f"{len(confidence)} examples without labels"
        key = [(style.RIGHT, "all examples")]
        wrong, title = np.zeros(len(confidence), dtype=np.bool_), f"Confidence of {label}"
        counts = f"{len(confidence)} examples"
    else:
        heading = f"{len(correct):,} labelled examples"
        wrong, title = ~correct, f"Confidence of correct and wrong predictions of {label}"
        errors = int(np.count_nonzero(wrong))
        right = len(correct) - errors
        key = [(style.RIGHT, f"correct ({right})"), (style.WRONG, f"wrong ({errors})")]
        means = {"accuracy": (_ACCURACY, float(correct.mean())), **means}
        counts = f"{right} predictions are correct and {errors} wrong"
    figure, (axes,) = style.figure_with_axes(3.1, label, heading, (0.42, 1.8))
    lines = [(role, f"{name} {number(mean)}") for name, (role, mean) in means.items()]
    style.add_legend(figure, [*key, *lines], top=0.5, columns=2)
    edges = np.linspace(0.0, 1.0, bins + 1)
    rights, wrongs = (np.histogram(confidence[part], edges)[0] for part in (~wrong, wrong))
    # Wrong predictions start at the axis: they are few, and their heights are compared.
    for heights, base, role in (
        (wrongs, np.zeros(bins), style.WRONG),
        (rights, wrongs, style.RIGHT),
    ):
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
    for role, mean in means.values():
        axes.axvline(mean, color=role.color, linewidth=1.3, linestyle=role.line)
    judged = confidence if correct is None else confidence[wrong]
    sure = int(np.count_nonzero(judged >= SURE))
    whose = "" if correct is None else " of the wrong ones"
    stated = ", ".join(words for _, words in lines).capitalize()
    words = f"{counts}; {sure}{whose} have a confidence of {SURE:g} or more. {stated}."
    return Panel(name, figure, title, words)


NUM_BINS = 30
"""Bins of a density panel."""

_WIDE = 100.0
"""Ratio of the 99th to the 1st percentile above which the axis is logarithmic."""


DRAWN_SCORES: Mapping[str, tuple[str, tuple[float, float] | None]] = {
    "max_probability": ("", (0.0, 1.0)),
    "epistemic": (" (nats)", None),
    "logit_variance": ("", None),
}
"""Uncertainty whose density is drawn -> its unit, and limits of its axis, if fixed."""


def density_panels(index: int, fit: Assessed, sets: Mapping[str, str]) -> Iterator[Panel]:
    """Yield a panel per uncertainty of a fit that varies, with all of its sets."""
    for score, (unit, limits) in DRAWN_SCORES.items():
        outside = {
            sets[name]: (
                source.predictions.uncertainty(score),
                f"AUROC {number(fit.scores.ood[name].by_score[score]['auroc'].value)}",
            )
            for name, source in fit.method.ood.items()
            if score in fit.scores.ood[name].by_score
        }
        if outside:
            stem, words = f"{score.replace('_', '-')}-{index}", score_words(score)
            inside, axis = fit.method.predictions.uncertainty(score), words + unit
            panel = density_panel(stem, fit.label, words, inside, outside, axis=axis, limits=limits)
            if panel is not None:
                yield panel


def density_panel(
    stem: str,
    label: str,
    score: str,
    inside: NDArray[np.float64],
    outside: Mapping[str, tuple[NDArray[np.float64], str]],
    *,
    axis: str,
    limits: tuple[float, float] | None = None,
) -> Panel | None:
    """Return the panel of a method and a score in words; None if the score is constant.

    `inside` holds the [N] scores of the in-distribution rows, higher = more uncertain, and
    `outside` by the label of a set the [M] scores of its rows and a text such as `AUROC 0.912`.
    `axis` is the score with its unit; without `limits` of a linear axis, it follows from the
    values.
    """
    everything = np.concatenate([inside, *(values for values, _ in outside.values())])
    everything = everything[np.isfinite(everything)]
    if everything.size == 0 or float(np.ptp(everything)) == 0.0:
        return None
    edges, logarithmic = _edges(everything, limits)
    key = 0.5 + (len(outside) + 1) * style.KEY_ROW
    figure, (axes,) = style.figure_with_axes(2.3 + key, label, score, (0.42, 1.7))
    role = style.IN_DISTRIBUTION
    area: dict[str, Any] = {"facecolor": role.area, "edgecolor": role.color}
    axes.stairs(_shares(inside, edges), edges, fill=True, linewidth=0.9, **area)
    medians = [f"median {number(float(np.median(inside)))} in distribution"]
    entries = [(role, f"in distribution (n {len(inside)})")]
    for index, (name, (values, auroc)) in enumerate(outside.items()):
        role = style.OUTSIDE[index % len(style.OUTSIDE)]
        look: dict[str, Any] = {"color": role.color, "linestyle": role.line}
        axes.stairs(_shares(values, edges), edges, baseline=None, linewidth=1.4, **look)
        medians.append(f"{number(float(np.median(values)))} on {name} ({auroc})")
        entries.append((role, f"{name} (n {len(values)}), {auroc}"))
    style.add_legend(figure, entries, top=0.5)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylim(bottom=0)
    axes.set(ylabel="% of the set", xlabel=axis)
    if logarithmic:
        axes.set(xscale="log", xlabel=f"{axis}, log scale")
        axes.xaxis.set_major_formatter("{x:g}")  # matplotlib's powers of ten need mathtext
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(edges[0], edges[-1])
    title = f"{score} of {label}, in distribution and outside"
    return Panel(stem, figure, title, f"{', '.join(medians)}.")


def _edges(
    values: NDArray[np.float64], limits: tuple[float, float] | None
) -> tuple[NDArray[np.float64], bool]:
    """Return the edges of the bins, and whether their axis is logarithmic."""
    if limits is not None:
        return np.linspace(*limits, NUM_BINS + 1), False
    low, high = np.quantile(values, [0.005, 0.995])
    if low > 0 and high / low > _WIDE:
        return np.geomspace(low, high, NUM_BINS + 1), True
    if not high > low:
        low, high = values.min(), values.max()
    return np.linspace(low, high, NUM_BINS + 1), False


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the percentage of rows in each bin; values out of range count in the end bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return 100 * counts / max(1, len(values))


MARKED = (80, 90, 95)
"""Coverages in percent whose accuracy is marked and stated."""


def _entries(figures: Sequence[tuple[Role, str, str]]) -> tuple[list[tuple[Role, str]], str]:
    """Return a legend of methods with their numbers below the names, and the same in words."""
    legend = [(role, f"{name}\n{numbers}") for role, name, numbers in figures]
    return legend, f"{'; '.join(f'{name}: {numbers}' for _, name, numbers in figures)}."


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
        style.draw_curve(axes, role, across, up, clipped=True)
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
    entries = []
    for role, curve in curves:
        first, last = (curve.scores[level] for level in (min(curve.scores), max(curve.scores)))
        ends = ", ".join(
            f"{words} {number(first[key].value)} to {number(last[key].value)}"
            for key, words in _SHIFTED.items()
        )
        entries.append((role, curve.label, f"{ends} at severity {max(curve.scores):.4g}"))
    legend, words = _entries(entries)
    boxes = [(0.42 + index * (_TALL + _GAP), _TALL) for index in range(len(_SHIFTED))]
    height = 0.9 + len(curves) * style.ENTRY_HEIGHT + len(_SHIFTED) * (_TALL + _GAP)
    note = "bars: 95 % intervals; severity 0: the examples as they are"
    heading = f"Calibration against severity: {kind}"
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
    axes[-1].set_xlabel("severity", color=style.INK)
    title = f"Calibration under {kind} of {', '.join(curve.label for _, curve in curves)}"
    return Panel(name, figure, title, words)
