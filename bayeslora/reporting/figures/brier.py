"""The Brier score in parts: what the classes' shares leave open, what the method does about it.

Brier = reliability − resolution + uncertainty (Murphy 1973, Journal of Applied Meteorology 12).
Uncertainty is the score of the classes' shares alone; resolution is what telling rows apart takes
off it; reliability is what wrong probabilities add. The parts are those among the scores, which add
up to the Brier score exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayeslora.reporting.figures.rendering import Panel, filled
from bayeslora.reporting.figures.style import (
    INK,
    KEY_ROW,
    MARKER_SIZE,
    RIGHT,
    RULE,
    TITLE_SLOT,
    WIDTH,
    WRONG,
    Role,
    add_heading,
    add_key,
    figure_with_axes,
    name_slot,
)
from bayeslora.reporting.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MOST_METHODS = 10
"""Methods in one panel."""

ROW = 0.42
"""Height of a method's row, in inches."""

_UNCERTAINTY = Role(RULE, (0, (4, 2)))
_BRIER = Role(INK, "-", marker="D")


@dataclass(frozen=True)
class BrierPlate:
    """One method of the panel: its label, its Brier score and the three parts of it."""

    label: str
    brier: float
    reliability: float
    resolution: float
    uncertainty: float

    @property
    def words(self) -> str:
        """The parts in words."""
        return (
            f"Brier score {number(self.brier)}, reliability {number(self.reliability)}, resolution"
            f" {number(self.resolution)}, uncertainty {number(self.uncertainty)}"
        )


def brier_panel(name: str, methods: Sequence[BrierPlate]) -> Panel:
    """Return the parts of some methods, a bar each.

    Args:
        name: Stem of the figure's file.
        methods: At least one.
    """
    key = 0.58 + 4 * KEY_ROW
    tall = ROW * len(methods)
    height = key + tall + 0.5
    figure, (axes,) = figure_with_axes(height, (0.42, tall))
    axes.set_position((0.12 / WIDTH, 0.42 / height, 1 - 0.24 / WIDTH, tall / height))
    add_heading(figure, "uncertainty − resolution + reliability; lower is better")
    entries = [
        (RIGHT, "uncertainty − resolution: doubt that is left"),
        (WRONG, "reliability: what wrong probabilities add"),
        (_BRIER, "Brier score, where the bars end"),
        (_UNCERTAINTY, "uncertainty: the score of the classes' shares"),
    ]
    add_key(figure, entries, top=0.58)
    slots = {name_slot(place): one.label for place, one in enumerate(methods)}
    _draw(axes, list(slots), methods)
    texts = {TITLE_SLOT: "Brier score in parts", **slots}
    told = "; ".join(f"{slot}: {one.words}" for slot, one in zip(slots, methods, strict=True))
    return Panel(
        name=name,
        figure=figure,
        title="Parts of the Brier score of " + ", ".join(slots.values()),
        description=filled(told, texts) + ".",
        texts=texts,
    )


def _draw(axes: Axes, slots: Sequence[str], methods: Sequence[BrierPlate]) -> None:
    for place, (slot, one) in enumerate(zip(slots, methods, strict=True)):
        refined = max(0.0, one.uncertainty - one.resolution)
        for left, wide, role in ((0.0, refined, RIGHT), (refined, one.reliability, WRONG)):
            axes.barh(
                place,
                wide,
                height=0.3,
                left=left,
                facecolor=role.area,
                edgecolor=role.color,
                hatch=role.hatch,
                linewidth=0.6,
            )
        axes.plot(
            [one.brier], [place], color=INK, marker="D", markersize=MARKER_SIZE, linestyle="none"
        )
        axes.vlines(
            one.uncertainty,
            place - 0.3,
            place + 0.3,
            color=RULE,
            linestyle=_UNCERTAINTY.line,
            linewidth=1.3,
        )
        axes.annotate(
            f"{slot}  {number(one.brier)}",
            (0, place - 0.36),
            xytext=(2, 0),
            textcoords="offset points",
            fontsize=7,
            color=INK,
            va="center",
        )
    longest = max(max(one.uncertainty, one.brier) for one in methods)
    axes.set(
        xlim=(0, 1.04 * longest or 1.0), ylim=(len(methods) - 0.6, -0.62), xlabel="Brier score"
    )
    axes.set_yticks([])
