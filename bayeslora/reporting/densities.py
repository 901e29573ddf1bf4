"""Where the uncertainty of in-distribution rows lies, and where that of other rows.

All sets share the bins of one panel, and each bar is a share of its own set's rows, so that sets of
different sizes compare. A score that spreads over several powers of ten gets a logarithmic axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bayeslora.reporting.figures import (
    IN_DISTRIBUTION,
    KEY_ROW,
    OUTSIDE,
    TITLE_SLOT,
    Role,
    add_heading,
    add_key,
    figure_with_axes,
    name_slot,
)
from bayeslora.reporting.svg import Panel
from bayeslora.reporting.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

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
    _draw(axes, edges, inside, [item.values for item in outside])
    axes.set(ylabel="% of the set's rows", xlabel=axis)
    if logarithmic:
        _make_logarithmic(axes)
        axes.set_xlabel(f"{axis}, log scale")
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


def _draw(
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


def _make_logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_power_of_ten))


def _power_of_ten(value: float, _: int | None) -> str:
    """Return 0.01, 1, 100, and 10⁻⁵ beyond: matplotlib's own way needs its formula language."""
    power = round(math.log10(value))
    return f"{10.0**power:g}" if abs(power) <= 3 else f"10{str(power).translate(_SUPERSCRIPTS)}"


def _description(inside: NDArray[np.float64], outside: Sequence[OutsideSet]) -> str:
    parts = [f"median {number(float(np.median(inside)))} in distribution"]
    parts += [
        f"{number(float(np.median(item.values)))} on {item.label} ({item.auroc})"
        for item in outside
    ]
    return f"{', '.join(parts)}."
