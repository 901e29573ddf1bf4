"""Out-of-distribution detection: the densities of an uncertainty, and ROC curves.

Densities compare the uncertainty of in-distribution rows with that of other rows. All sets share
the bins of a panel, and each bar is a share of its own set's rows, so that sets of different sizes
are comparable. A score that spans several powers of ten gets a logarithmic axis.

In a ROC curve the rows of the set are the positive class; a higher uncertainty means "more likely
of the set". All methods share the panel of a set, each with the uncertainty of its `auroc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from bayeslora.metrics.ood import thresholds
from bayeslora.reporting.figures.rendering import Panel
from bayeslora.reporting.figures.style import (
    ENTRY_HEIGHT,
    IN_DISTRIBUTION,
    INK,
    KEY_ROW,
    OUTSIDE,
    RULE,
    TITLE_SLOT,
    Entry,
    Role,
    add_entries,
    add_heading,
    add_key,
    described,
    draw_curve,
    draw_points,
    figure_with_axes,
    mark_powers,
    name_slot,
    thinned,
)
from bayeslora.reporting.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


NUM_BINS = 30
"""Bins of a density panel."""

_WIDE = 100.0
"""Ratio of the 99th to the 1st percentile above which the axis is logarithmic."""


@dataclass(frozen=True)
class OutsideSet:
    """An out-of-distribution set of a panel.

    Attributes:
        label: Its label.
        values: [M] score of its rows, higher = more uncertain.
        auroc: The area under the ROC curve as text, such as `AUROC 0.912`.
    """

    label: str
    values: NDArray[np.float64]
    auroc: str


def density_panel(
    name: str,
    label: str,
    score: str,
    inside: NDArray[np.float64],
    outside: Sequence[OutsideSet],
    *,
    axis: str,
    limits: tuple[float, float] | None = None,
) -> Panel | None:
    """Return the panel of a method and a score; None if the score is constant.

    Args:
        name: Stem of the figure's file.
        label: The method's label.
        score: The score in words, such as `epistemic uncertainty`.
        inside: [N] score of the in-distribution rows, higher = more uncertain.
        outside: The sets to compare with.
        axis: Label of the axis: the score with its unit.
        limits: Limits of a linear axis; None derives the axis from the values.
    """
    everything = np.concatenate([inside, *(item.values for item in outside)])
    everything = everything[np.isfinite(everything)]
    if everything.size == 0 or float(np.ptp(everything)) == 0.0:
        return None
    edges, logarithmic = _edges(everything, limits)
    rows = len(outside) + 1
    key = 0.56 + rows * KEY_ROW
    figure, (axes,) = figure_with_axes(2.2 + key, (0.42, 1.7))
    add_heading(figure, score)
    slots = {name_slot(index): item.label for index, item in enumerate(outside)}
    entries = [(IN_DISTRIBUTION, f"in distribution (n {len(inside)})")]
    for index, (slot, item) in enumerate(zip(slots, outside, strict=True)):
        entries.append((_role(index), f"{slot} (n {len(item.values)}), {item.auroc}"))
    add_key(figure, entries, top=0.58)
    _draw_densities(axes, edges, inside, [item.values for item in outside])
    axes.set(ylabel="% of the set", xlabel=axis)
    if logarithmic:
        axes.set(xscale="log", xlabel=f"{axis}, log scale")
        mark_powers(axes.xaxis)
    axes.set_xlim(edges[0], edges[-1])
    return Panel(
        name=name,
        figure=figure,
        title=f"{score} of {label}, in distribution and outside",
        description=_description(inside, outside),
        texts={TITLE_SLOT: label, **slots},
    )


def _role(index: int) -> Role:
    return OUTSIDE[index % len(OUTSIDE)]


def _edges(
    values: NDArray[np.float64], limits: tuple[float, float] | None
) -> tuple[NDArray[np.float64], bool]:
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


def _draw_densities(
    axes: Axes,
    edges: NDArray[np.float64],
    inside: NDArray[np.float64],
    outside: Sequence[NDArray[np.float64]],
) -> None:
    axes.stairs(
        _shares(inside, edges),
        edges,
        fill=True,
        facecolor=IN_DISTRIBUTION.area,
        edgecolor=IN_DISTRIBUTION.color,
        linewidth=0.9,
    )
    for index, values in enumerate(outside):
        role = _role(index)
        axes.stairs(
            _shares(values, edges),
            edges,
            baseline=None,
            color=role.color,
            linestyle=role.line,
            linewidth=1.4,
        )
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylim(bottom=0)


def _description(inside: NDArray[np.float64], outside: Sequence[OutsideSet]) -> str:
    parts = [f"median {number(float(np.median(inside)))} in distribution"]
    parts += [
        f"{number(float(np.median(item.values)))} on {item.label} ({item.auroc})"
        for item in outside
    ]
    return f"{', '.join(parts)}."


DETECTED = 0.95
"""Share of the set's rows flagged at the marked point, as in FPR95."""


@dataclass(frozen=True)
class Detector:
    """A method of the panel.

    Attributes:
        label: Its label.
        score: The uncertainty in words.
        inside: [N] uncertainty of in-distribution rows.
        outside: [M] uncertainty of the set's rows.
        auroc: Area under its curve.
        fpr95: Share of in-distribution rows flagged when 95 % of the set are.
    """

    label: str
    score: str
    inside: NDArray[np.float64]
    outside: NDArray[np.float64]
    auroc: float
    fpr95: float


def roc_panel(name: str, label: str, methods: Sequence[tuple[Role, Detector]]) -> Panel:
    """Return the curves of some methods on a set.

    Args:
        name: Stem of the figure's file.
        label: Label of the set.
        methods: Methods with their roles.
    """
    key = 0.74 + len(methods) * ENTRY_HEIGHT
    figure, (axes,) = figure_with_axes(key + 3.16, (0.42, 2.7))
    add_heading(figure, _sizes([detector for _, detector in methods]))
    figure.text(0.0176, 1 - 0.52 / (key + 3.16), _POSITIVE, fontsize=6.5, color=INK, va="center")
    names = {name_slot(index): detector.label for index, (_, detector) in enumerate(methods)}
    scores = {name_slot(index + 100): detector.score for index, (_, detector) in enumerate(methods)}
    entries = [
        Entry(
            role,
            slot,
            f"AUROC {number(detector.auroc)}, FPR95 {number(detector.fpr95)}, by {score}",
        )
        for slot, score, (role, detector) in zip(names, scores, methods, strict=True)
    ]
    add_entries(figure, entries, top=0.74)
    _draw_curves(axes, methods)
    texts = {TITLE_SLOT: label, **names, **scores}
    return Panel(
        name=name,
        figure=figure,
        title=f"ROC of detecting {label}",
        description=f"{_sizes([detector for _, detector in methods])}. {described(entries, texts)}",
        texts=texts,
    )


_POSITIVE = "points mark FPR95: 95 % of the set flagged"


def roc_curve(
    inside: NDArray[np.float64], outside: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [G + 1] shares of flagged in-distribution rows and of flagged rows of the set.

    One point per threshold, from none flagged to all; rows of equal uncertainty are flagged
    together, and the straight line between points counts ties as half, as in AUROC.
    """
    rows = thresholds(inside, outside)
    hits = np.cumsum(rows.is_out)[rows.ends]
    alarms = rows.ends + 1 - hits
    return (
        np.concatenate([[0.0], alarms / len(inside)]),
        np.concatenate([[0.0], hits / len(outside)]),
    )


def _draw_curves(axes: Axes, methods: Sequence[tuple[Role, Detector]]) -> None:
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axes.axhline(DETECTED, color="#e6e6e6", linewidth=0.8, zorder=0)
    for role, detector in methods:
        draw_curve(axes, role, *thinned(*roc_curve(detector.inside, detector.outside)))
        draw_points(axes, role, [detector.fpr95], [DETECTED])
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("in-distribution examples flagged")
    axes.set_ylabel("examples of the set flagged")


def _sizes(methods: Sequence[Detector]) -> str:
    sizes = sorted({(len(detector.inside), len(detector.outside)) for detector in methods})
    counts = [
        f"{outside:,} of the set (positive), {inside:,} in distribution"
        for inside, outside in sizes
    ]
    return f"Rows: {' or '.join(counts)}"
