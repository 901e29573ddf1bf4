"""All figures of a report, with their headings and captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from bayeslora.reporting.assess import Assessed, every_fit, labelled
from bayeslora.reporting.blocks import Figure
from bayeslora.reporting.facts import SURE, Facts
from bayeslora.reporting.figures import curves, style
from bayeslora.reporting.figures.reliability import reliability_panel
from bayeslora.reporting.figures.style import Panel, panels_of
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
            sure, correct = fit.answers.confidence, fit.answers.correct
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
        yield "shift", curves.shift_panel(f"shift-{index}", group)
    top = max(map(curves.highest_risk, with_labels), default=0.0)
    for index, methods in panels_of(with_labels):
        yield "selective", curves.risk_coverage_panel(f"risk-coverage-{index}", methods, top)
    for number_of_set, (name, label) in enumerate(facts.sets.items(), start=1):
        for index, tested in panels_of([fit for fit in fits if name in fit.scores.ood]):
            yield "roc", curves.roc_panel(f"roc-{number_of_set}-{index}", name, label, tested)


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
