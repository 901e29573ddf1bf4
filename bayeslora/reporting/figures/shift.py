"""Calibration against severity: ECE and accuracy of corrupted rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bayeslora.reporting.figures.rendering import Panel
from bayeslora.reporting.figures.style import (
    ENTRY_HEIGHT,
    INK,
    TITLE_SLOT,
    Entry,
    Role,
    add_entries,
    add_heading,
    described,
    draw_curve,
    draw_points,
    figure_with_axes,
    name_slot,
)
from bayeslora.reporting.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslora.reporting.shift import ShiftCurve

_AXES = (("ece", "ECE"), ("accuracy", "accuracy"))
_TALL, _GAP = 1.25, 0.25


def shift_panel(
    name: str, curves: Sequence[tuple[Role, ShiftCurve]], axis: str = "severity"
) -> Panel:
    """Return the curves of some methods under a corruption or attack.

    Args:
        name: Stem of the figure's file.
        curves: At least one curve, all of the same corruption.
        axis: Label of the horizontal axis.
    """
    top = 0.58 + len(curves) * ENTRY_HEIGHT
    boxes = [(0.42 + index * (_TALL + _GAP), _TALL) for index in range(len(_AXES))]
    figure, axes = figure_with_axes(top + 0.36 + len(_AXES) * (_TALL + _GAP), *boxes[::-1])
    add_heading(figure, f"bars: 95 % intervals; {axis} 0: the examples as they are")
    texts = {name_slot(index): curve.label for index, (_, curve) in enumerate(curves)}
    entries = [
        Entry(role, slot, _numbers(curve, axis))
        for slot, (role, curve) in zip(texts, curves, strict=True)
    ]
    add_entries(figure, entries, top=0.58)
    levels = sorted({level for _, curve in curves for level in curve.scores})
    for ax, (key, words) in zip(axes, _AXES, strict=True):
        for index, (role, curve) in enumerate(curves):
            shift = (index - (len(curves) - 1) / 2) * 0.012 * levels[-1]
            _draw(ax, role, curve, key, shift)
        ax.set_ylabel(words, color=INK)
        if all(float(level).is_integer() for level in levels):
            ax.set_xticks(levels)
        ax.set_ylim(bottom=0)
    axes[-1].set_xlabel(axis, color=INK)
    kind = curves[0][1].kind.replace("_", " ")
    return Panel(
        name=name,
        figure=figure,
        title=f"Calibration under {kind} of " + ", ".join(texts.values()),
        description=described(entries, texts),
        texts={TITLE_SLOT: f"Calibration against {axis}: {kind}", **texts},
    )


def _numbers(curve: ShiftCurve, axis: str) -> str:
    ends = (min(curve.scores), max(curve.scores))
    parts = (
        f"{words} {number(curve.scores[ends[0]][key].value)} to "
        f"{number(curve.scores[ends[1]][key].value)}"
        for key, words in _AXES
    )
    return f"{', '.join(parts)} at {axis} {ends[1]:.4g}"


def _draw(axes: Axes, role: Role, curve: ShiftCurve, key: str, shift: float) -> None:
    """Draw a curve, shifted so that the error bars of methods do not overlap."""
    scores = [by_key[key] for by_key in curve.scores.values()]
    across = [severity + shift for severity in curve.scores]
    values = [score.value for score in scores]
    draw_curve(axes, role, across, values)
    draw_points(axes, role, across, values)
    ends = [score.low for score in scores], [score.high for score in scores]
    axes.vlines(across, *ends, color=role.color, linewidth=0.8)
