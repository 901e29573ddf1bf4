"""ROC curves of out-of-distribution detection, all methods in the panel of a set.

The positive class are the rows of the set; a higher uncertainty means "more likely of the set".
Each method is judged by the uncertainty that its `auroc` is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeslora.metrics.ood import thresholds
from bayeslora.reporting.curves import ENTRY as ENTRY_HEIGHT
from bayeslora.reporting.curves import Entry, add_entries, thinned
from bayeslora.reporting.figures import (
    INK,
    MARKER_SIZE,
    RULE,
    TITLE_SLOT,
    Role,
    add_heading,
    figure_with_axes,
    name_slot,
)
from bayeslora.reporting.svg import Panel, filled
from bayeslora.reporting.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

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
        fpr95: Share of in-distribution rows flagged where 95 % of the set's rows are.
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
    _draw(axes, methods)
    texts = {TITLE_SLOT: label, **names, **scores}
    told = "; ".join(f"{one.name}: {one.detail}" for one in entries)
    return Panel(
        name=name,
        figure=figure,
        title=f"ROC of detecting {label}",
        description=f"{_sizes([one for _, one in methods])}. {filled(told, texts)}.",
        texts=texts,
    )


_POSITIVE = "points mark FPR95: 95 % of the unfamiliar rows flagged"


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


def _draw(axes: Axes, methods: Sequence[tuple[Role, Detector]]) -> None:
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axes.axhline(DETECTED, color="#e6e6e6", linewidth=0.8, zorder=0)
    for role, one in methods:
        curve = thinned(*roc_curve(one.inside, one.outside))
        axes.plot(*curve, color=role.color, linestyle=role.line, linewidth=1.4, clip_on=False)
        axes.plot(
            [one.fpr95],
            [DETECTED],
            color=role.color,
            linestyle="none",
            marker=role.marker,
            markersize=MARKER_SIZE,
            markeredgecolor="white",
            markeredgewidth=0.5,
            zorder=3,
            clip_on=False,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("familiar rows flagged (false alarms)")
    axes.set_ylabel("unfamiliar rows flagged")


def _sizes(methods: Sequence[Detector]) -> str:
    sizes = sorted({(len(one.inside), len(one.outside)) for one in methods})
    counts = [
        f"{outside:,} unfamiliar (positive), {inside:,} familiar" for inside, outside in sizes
    ]
    return f"Rows: {' or '.join(counts)}"
