"""What all figures share: colours, line styles, sizes, the heading.

Colours are from the palette of Okabe and Ito (2008), which people with the common colour
deficiencies can tell apart; line style, hatch or marker shape repeats what a colour says, so that
a figure still reads in grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bayeslora.reporting.svg import drawing_style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = "#0072B2"
VERMILLION = "#D55E00"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"
GREEN = "#009E73"
INK = "#222222"
MUTED = "#5a5a5a"
RULE = "#8a8a8a"

WIDTH = 3.4
"""Width of every figure, in inches."""

LEFT = 0.5
"""Room left of the axes for tick labels and the axis label, in inches."""

KEY_ROW = 0.165
"""Height of one line of a key, in inches."""

MARKER_SIZE = 4.2
"""Width of a point, in points."""

TITLE_SLOT = "bayesloraTitle"


def name_slot(place: int) -> str:
    """Return the slot of the name in that place; the last letter keeps 1 apart from 10."""
    return f"bayesloraName{place}x"


Line = Literal["-"] | tuple[float, tuple[float, ...]]
"""A solid line, or (offset, lengths of dashes and gaps in points)."""


@dataclass(frozen=True)
class Role:
    """How one set of rows looks in every figure.

    Attributes:
        color: A colour of the palette.
        line: Line style.
        hatch: Hatch of its area; empty for none.
        strength: How much of its colour its area takes, the rest being white; 0 for no area.
        marker: Shape of its points; empty where there are none.
    """

    color: str
    line: Line
    hatch: str = ""
    strength: float = 0.0
    marker: str = ""

    @property
    def area(self) -> tuple[float, float, float]:
        """Colour of its area; opaque, because a hatch would share the transparency."""
        from matplotlib.colors import to_rgb

        red, green, blue = (1 - self.strength * (1 - part) for part in to_rgb(self.color))
        return red, green, blue


MEETS = Role(BLUE, "-", marker="o")
MISSES = Role(VERMILLION, "-", marker="s")
RIGHT = Role(BLUE, "-", strength=0.55)
WRONG = Role(VERMILLION, "-", hatch="////", strength=0.25)
IN_DISTRIBUTION = Role(BLUE, "-", strength=0.3)
OUTSIDE = (
    Role(VERMILLION, (0, (5, 1.5))),
    Role(INK, (0, (1.2, 1.2))),
    Role(GREEN, (0, (7, 1.5, 1.2, 1.5))),
    Role(PURPLE, (0, (3, 1, 1, 1, 1, 1))),
    Role(ORANGE, (0, (9, 2))),
)
"""Roles of the first, second, … out-of-distribution set; they repeat after the last."""

METHODS = (
    Role(BLUE, "-", marker="o"),
    Role(VERMILLION, (0, (5, 1.5)), marker="s"),
    Role(INK, (0, (1.2, 1.2)), marker="^"),
    Role(GREEN, (0, (7, 1.5, 1.2, 1.5)), marker="D"),
    Role(PURPLE, (0, (3, 1, 1, 1, 1, 1)), marker="v"),
)
"""Roles of the methods that share a panel, at most so many."""


def figure_with_axes(height: float, *boxes: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure of the common width with stacked axes at fixed places.

    Args:
        height: Height of the figure in inches.
        boxes: For each axes its bottom and its height, in inches.
    """
    from matplotlib.figure import Figure

    with drawing_style():
        figure = Figure(figsize=(WIDTH, height))
        across = (WIDTH - LEFT - 0.12) / WIDTH
        axes = [
            figure.add_axes((LEFT / WIDTH, bottom / height, across, tall / height))
            for bottom, tall in boxes
        ]
    return figure, axes


def add_heading(figure: Figure, note: str) -> None:
    """Write the place of the method's name, and `note` under it, at the top left."""
    height = figure.get_figheight()
    left = 0.06 / WIDTH
    figure.text(
        left, 1 - 0.17 / height, TITLE_SLOT, fontsize=8.5, weight="bold", color=INK, va="center"
    )
    figure.text(left, 1 - 0.36 / height, note, fontsize=7.5, color=MUTED, va="center")


def add_key(
    figure: Figure, entries: Sequence[tuple[Role, str]], *, top: float, left: float = 0.08
) -> None:
    """Draw a key of swatches and words, one entry a line.

    Args:
        figure: Where to draw.
        entries: Roles and the words beside them.
        top: Distance of the first line from the upper edge, in inches.
        left: Distance of the swatches from the left edge, in inches.
    """
    for row, (role, words) in enumerate(entries):
        level = 1 - (top + row * KEY_ROW) / figure.get_figheight()
        add_swatch(figure, role, left / WIDTH, level)
        figure.text((left + 0.36) / WIDTH, level, words, fontsize=7.5, color=INK, va="center")


def add_swatch(
    figure: Figure, role: Role, left: float, level: float, *, line: bool = False
) -> None:
    """Draw a sample of a role, from `left` on at the height `level`, in parts of the figure.

    Args:
        figure: Where to draw.
        role: What to show.
        left: Where it begins.
        level: Height of its middle.
        line: Draw the line of a role whose points have a shape, not a point alone.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    wide, tall = 0.28 / WIDTH, 0.1 / figure.get_figheight()
    if role.strength:
        patch = Rectangle(
            (left, level - tall / 2),
            wide,
            tall,
            facecolor=role.area,
            edgecolor=role.color,
            hatch=role.hatch,
            linewidth=1.0,
        )
        figure.add_artist(patch)
        return
    across = [left + wide / 2] if role.marker else [left, left + wide]
    if line:
        across = [left, left + wide / 2, left + wide]
    sample = Line2D(
        across,
        [level] * len(across),
        color=role.color,
        linestyle=role.line,
        linewidth=1.5,
        marker=role.marker or "none",
        markevery=[1] if line else None,
        markersize=MARKER_SIZE,
    )
    figure.add_artist(sample)
