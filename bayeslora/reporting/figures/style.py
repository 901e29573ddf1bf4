"""Common style of figures: colours, line styles, sizes, headings, legends and thinned curves.

Colours are from the palette of Okabe and Ito (2008), which is distinguishable with common colour
vision deficiencies; line style, hatch or marker shape encodes the same information, so that figures
work in grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from bayeslora.reporting.figures.rendering import drawing_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Values = Sequence[float] | NDArray[np.float64]


BLUE = "#0072B2"
VERMILLION = "#D55E00"
ORANGE = "#E69F00"
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
"""Font size of labels inside the axes, in points."""

SMALLEST = 7.0
"""Font size of long lines, in points: 9 pixels where a figure is 315 pixels wide."""

KEY_ROW = 0.165
"""Height of a line of a legend, in inches."""

MARKER_SIZE = 4.2
"""Width of a point, in points."""

TITLE_SLOT = "bayesloraTitle"


def name_slot(index: int) -> str:
    """Return the slot of the name with an index; the last letter distinguishes 1 from 10."""
    return f"bayesloraName{index}x"


Line = Literal["-"] | tuple[float, tuple[float, ...]]
"""A solid line, or (offset, lengths of dashes and gaps in points)."""


@dataclass(frozen=True)
class Role:
    """The style of a set of rows in every figure: colour, line, hatch and marker, or none.

    `strength` is the share of its colour in its area, mixed with white; 0 for no area.
    """

    color: str
    line: Line
    hatch: str = ""
    strength: float = 0.0
    marker: str = ""

    @property
    def area(self) -> tuple[float, float, float]:
        """Colour of its area; opaque, because transparency would apply to the hatch too."""
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
"""Roles of the methods of a panel; their number limits the methods per panel."""


def figure_with_axes(height: float, *boxes: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure of the common width with stacked axes: bottoms and heights in inches."""
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
    """Write the slot of the method's name, and `note` below it, at the top left."""
    left, height = 0.06 / WIDTH, figure.get_figheight()
    bold: Any = {"fontsize": 8.5, "weight": "bold", "color": INK, "va": "center"}
    figure.text(left, 1 - 0.17 / height, TITLE_SLOT, **bold)
    figure.text(left, 1 - 0.36 / height, note, fontsize=7.5, color=MUTED, va="center")


def add_key(
    figure: Figure, entries: Sequence[tuple[Role, str]], *, top: float, left: float = 0.08
) -> None:
    """Draw a legend of swatches and words, one entry per line; `top` and `left` are in inches."""
    for row, (role, words) in enumerate(entries):
        level = 1 - (top + row * KEY_ROW) / figure.get_figheight()
        add_swatch(figure, role, left / WIDTH, level)
        figure.text((left + 0.36) / WIDTH, level, words, fontsize=7.5, color=INK, va="center")


def add_swatch(
    figure: Figure, role: Role, left: float, level: float, *, line: bool = False
) -> None:
    """Draw a sample of a role, in figure coordinates: left edge and vertical centre.

    A role with markers gets its line too if `line`.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    wide, tall = 0.28 / WIDTH, 0.1 / figure.get_figheight()
    if role.strength:
        area: Any = {"facecolor": role.area, "edgecolor": role.color, "hatch": role.hatch}
        box = (left, level - tall / 2), wide, tall
        figure.add_artist(Rectangle(*box, **area, linewidth=1.0))
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


POINTS = 400
"""Points of a curve, about two per printed point of width: more are not visible."""

ENTRY_HEIGHT = 0.31
"""Height of an entry of the legend with its two lines, in inches."""

Item = TypeVar("Item")

_LEFT, _INDENT = 0.06, 0.32


def panels_of(items: Sequence[Item]) -> Iterator[tuple[int, list[tuple[Role, Item]]]]:
    """Yield the number of each panel, from 1, with its items and their roles.

    Panels have at most as many items as there are roles, and their sizes differ by at most one.
    """
    panels = -(-len(items) // len(METHODS))
    bounds = [-(-len(items) * index // max(1, panels)) for index in range(panels + 1)]
    for number, (start, end) in enumerate(pairwise(bounds), start=1):
        yield number, list(zip(METHODS, items[start:end], strict=False))


def add_entries(
    figure: Figure, entries: Sequence[tuple[Role, str, str]], *, top: float
) -> tuple[dict[str, str], str]:
    """Draw the legend of methods: a line and a point, the name, and the numbers below it.

    `entries` are role, name and numbers; `top` is the distance of the first line from the upper
    edge, in inches. Return slot -> name, and the legend in words with these slots.
    """
    height, words = figure.get_figheight(), []
    for index, (role, _, numbers) in enumerate(entries):
        level = 1 - (top + index * ENTRY_HEIGHT) / height
        add_swatch(figure, role, _LEFT / WIDTH, level, line=True)
        left = (_LEFT + _INDENT) / WIDTH
        figure.text(left, level, name_slot(index), fontsize=7.5, color=INK, va="center")
        below = level - 0.14 / height
        figure.text(left, below, numbers, fontsize=SMALLEST, color=MUTED, va="center")
        words.append(f"{name_slot(index)}: {numbers}")
    names = {name_slot(index): name for index, (_, name, _) in enumerate(entries)}
    return names, f"{'; '.join(words)}."


def draw_diagonal(axes: Axes) -> None:
    """Draw the dashed line of equal shares."""
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)


def draw_curve(axes: Axes, role: Role, across: Values, up: Values) -> None:
    """Draw a curve; it may lie on the edge of the axes."""
    axes.plot(across, up, color=role.color, linestyle=role.line, linewidth=1.4, clip_on=False)


def draw_points(axes: Axes, role: Role, across: Values, up: Values) -> None:
    """Draw points that stand out from a curve below them."""
    marker_style: Any = {"color": role.color, "linestyle": "none", "marker": role.marker}
    edge: Any = {"markersize": MARKER_SIZE, "markeredgecolor": "white", "markeredgewidth": 0.5}
    axes.plot(across, up, **marker_style, **edge, zorder=3, clip_on=False)


def mark_powers(axis: Axis) -> None:
    """Label powers of ten in plain text, since matplotlib's labels need mathtext."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_power_of_ten))


def _power_of_ten(value: float, _: int | None) -> str:
    """Return 0.01, 1, 100, and 10⁻⁵ beyond."""
    power = round(math.log10(value))
    return f"{10.0**power:g}" if abs(power) <= 3 else f"10{str(power).translate(_SUPERSCRIPTS)}"


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def thinned(
    across: NDArray[np.float64], up: NDArray[np.float64], points: int = POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thin an increasing curve, [G] across and up, to about `points` evenly spaced along it.

    The ends are kept. No omitted point is farther than one step along the curve from a kept point,
    and a step is the sum of both ranges over `points`: half a line's width in these figures.
    """
    along = across + up
    targets = np.linspace(along[0], along[-1], points)
    indices = np.unique(np.append(np.searchsorted(along, targets[:-1]), len(along) - 1))
    return across[indices], up[indices]


def sampled_sizes(rows: int) -> NDArray[np.int64]:
    """Return numbers of rows from 1 to `rows`, denser for small numbers.

    A running mean changes in proportion to 1 / size: fast over the first rows, slowly over the
    last.
    """
    if rows <= POINTS:
        return np.arange(1, rows + 1)
    few = np.geomspace(1, rows, POINTS // 4)
    many = np.linspace(1, rows, POINTS - len(few))
    return np.unique(np.round(np.concatenate([few, many])).astype(np.int64))
