"""Out-of-distribution detection: the densities of an uncertainty, and ROC curves.

Densities show where the uncertainty of in-distribution rows lies, and where that of other rows. All
sets share the bins of one panel, and each bar is a share of its own set's rows, so that sets of
different sizes compare. A score that spreads over several powers of ten gets a logarithmic axis.

In a ROC curve the positive class are the rows of the set; a higher uncertainty means "more likely
of the set". All methods share the panel of a set, and each is judged by the uncertainty that its
`auroc` is about.
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
    """One out-of-distribution set of a panel.

    Attributes:
        label: Its label.
        values: [M] the score of its rows, higher = more uncertain.
        auroc: The area under the ROC curve in words, such as `AUROC 0.912`.
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
    """Return the panel of one method and one score; None where the score never varies.

    Args:
        name: Stem of the figure's file.
        label: The method's label.
        score: The score in words, such as `epistemic uncertainty`.
        inside: [N] the score of the in-distribution rows, higher = more uncertain.
        outside: The sets to compare with.
        axis: What stands at the axis: the score with its unit.
        limits: Ends of a linear axis; where None, the axis follows the values.
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
    """Return the percentage of rows in each bin; values beyond an end count in the bin there."""
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
"""Share of the set's rows that are flagged where the false alarms are marked, as in FPR95."""


@dataclass(frozen=True)
class Detector:
    """One method of the panel.

    Attributes:
        label: Its label.
        score: The uncertainty in words.
        inside: [N] uncertainty of in-distribution rows.
        outside: [M] uncertainty of the set's rows.
        auroc: Area under its curve.
        fpr95: Share of in-distribution rows flagged where 95 % of the set are.
    """

    label: str
    score: str
    inside: NDArray[np.float64]
    outside: NDArray[np.float64]
    auroc: float
    fpr95: float


def roc_panel(name: str, label: str, methods: Sequence[tuple[Role, Detector]]) -> Panel:
    """Return the curves of some methods on one set.

    Args:
        name: Stem of the figure's file.
        label: Label of the set.
        methods: Methods with their roles.
    """
    key = 0.74 + len(methods) * ENTRY_HEIGHT
    figure, (axes,) = figure_with_axes(key + 3.16, (0.42, 2.7))
    add_heading(figure, _sizes([one for _, one in methods]))
    figure.text(0.0176, 1 - 0.52 / (key + 3.16), _POSITIVE, fontsize=6.5, color=INK, va="center")
    names = {name_slot(place): one.label for place, (_, one) in enumerate(methods)}
    scores = {name_slot(place + 100): one.score for place, (_, one) in enumerate(methods)}
    entries = [
        Entry(role, slot, f"AUROC {number(one.auroc)}, FPR95 {number(one.fpr95)}, by {score}")
        for slot, score, (role, one) in zip(names, scores, methods, strict=True)
    ]
    add_entries(figure, entries, top=0.74)
    _draw_curves(axes, methods)
    texts = {TITLE_SLOT: label, **names, **scores}
    return Panel(
        name=name,
        figure=figure,
        title=f"ROC of detecting {label}",
        description=f"{_sizes([one for _, one in methods])}. {described(entries, texts)}",
        texts=texts,
    )


_POSITIVE = "points mark FPR95: 95 % of the set flagged"


def roc_curve(
    inside: NDArray[np.float64], outside: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [G + 1] shares of in-distribution rows and of the set's rows that are flagged.

    One point a threshold, from none flagged to all; rows of equal uncertainty are flagged together,
    and the straight line between two points gives ties the half that AUROC gives them.
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
    for role, one in methods:
        draw_curve(axes, role, *thinned(*roc_curve(one.inside, one.outside)))
        draw_points(axes, role, [one.fpr95], [DETECTED])
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("in-distribution examples flagged")
    axes.set_ylabel("examples of the set flagged")


def _sizes(methods: Sequence[Detector]) -> str:
    sizes = sorted({(len(one.inside), len(one.outside)) for one in methods})
    counts = [
        f"{outside:,} of the set (positive), {inside:,} in distribution"
        for inside, outside in sizes
    ]
    return f"Rows: {' or '.join(counts)}"
