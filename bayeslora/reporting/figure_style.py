"""Common style of figures, and matplotlib figures as files and as images of a page.

Colours are from the palette of Okabe and Ito (2008), which is distinguishable with common colour
vision deficiencies; line style, hatch or marker shape encodes the same information, so that figures
work in grey. Names are plain text: never formulas, and escaped by matplotlib. The same figure gives
the same bytes on every run.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from bayeslora.errors import unknown_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
"""Font size of labels inside the axes and of legends, in points."""

KEY_ROW = 0.165
"""Height of a line of a legend, in inches."""

ENTRY_HEIGHT = 0.31
"""Height of an entry of a legend with two lines, in inches."""


@contextmanager
def drawing_style() -> Iterator[None]:
    """Use matplotlib's defaults and `templates/figures.mplstyle`.

    Settings of a user or a notebook (fonts, TeX, a style sheet) have no effect and are preserved.
    """
    from matplotlib import style

    sheet = Path(__file__).parent / "templates" / "figures.mplstyle"
    with style.context(["default", sheet]), warnings.catch_warnings():
        # A name may have letters that the font lacks.
        warnings.filterwarnings("ignore", "Glyph")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support")
        yield


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
DASHES: tuple[Line, ...] = (
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (7, 1.5, 1.2, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (9, 2)),
)
OUTSIDE = tuple(map(Role, (VERMILLION, INK, GREEN, PURPLE, ORANGE), DASHES))
"""Roles of the first, second, … out-of-distribution set; they repeat after the last."""

METHODS = (
    Role(BLUE, "-", marker="o"),
    Role(VERMILLION, DASHES[0], marker="s"),
    Role(INK, DASHES[1], marker="^"),
    Role(GREEN, DASHES[2], marker="D"),
    Role(PURPLE, DASHES[3], marker="v"),
)
"""Roles of the methods of a panel; their number limits the methods per panel."""


def figure_with_axes(
    height: float, title: str, note: str, *boxes: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """Return a figure of the common width with a title, a note below it, and stacked axes.

    Boxes are bottoms and heights of the axes, in inches.
    """
    from matplotlib.figure import Figure

    with drawing_style():
        figure = Figure(figsize=(WIDTH, height))
        across = (WIDTH - LEFT - 0.12) / WIDTH
        axes = [
            figure.add_axes((LEFT / WIDTH, bottom / height, across, tall / height))
            for bottom, tall in boxes
        ]
        bold: Any = {"fontsize": 8.5, "weight": "bold", "color": INK}
        for text, top, look in (
            (title, 0.17, bold),
            (note, 0.36, {"fontsize": SMALL, "color": MUTED}),
        ):
            figure.text(0.06 / WIDTH, 1 - top / height, text, va="center", **look)
    return figure, axes


def add_legend(
    figure: Figure, entries: Sequence[tuple[Role, str]], *, top: float, columns: int = 1
) -> None:
    """Draw a legend of roles and words; `top` is its distance from the upper edge, in inches."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    with drawing_style():
        handles = [
            Patch(facecolor=role.area, edgecolor=role.color, hatch=role.hatch)
            if role.strength
            else Line2D([], [], color=role.color, linestyle=role.line, marker=role.marker or "none")
            for role, _ in entries
        ]
        place = 0.06 / WIDTH, 1 - top / figure.get_figheight()
        legend = figure.legend(
            handles,
            ["" for _ in entries],
            loc="upper left",
            bbox_to_anchor=place,
            ncols=columns,
        )
        # As labels, names that begin with an underscore would be left out.
        for text, (_, words) in zip(legend.get_texts(), entries, strict=True):
            text.set_text(words)


Item = TypeVar("Item")


def panels_of(items: Sequence[Item]) -> Iterator[tuple[int, list[tuple[Role, Item]]]]:
    """Yield the number of each panel, from 1, with its items and their roles.

    Panels have at most as many items as there are roles, and their sizes differ by at most one.
    """
    panels = -(-len(items) // len(METHODS))
    bounds = [-(-len(items) * index // max(1, panels)) for index in range(panels + 1)]
    for number, (start, end) in enumerate(pairwise(bounds), start=1):
        yield number, list(zip(METHODS, items[start:end], strict=False))


def draw_diagonal(axes: Axes) -> None:
    """Draw the dashed line of equal shares."""
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)


def draw_curve(
    axes: Axes, role: Role, across: Values, up: Values, *, clipped: bool = False
) -> None:
    """Draw a curve; it may lie on the edge of the axes, and leave them unless it is clipped."""
    axes.plot(across, up, color=role.color, linestyle=role.line, linewidth=1.4, clip_on=clipped)


def draw_points(axes: Axes, role: Role, across: Values, up: Values) -> None:
    """Draw points that stand out from a curve below them."""
    look: Any = {"color": role.color, "linestyle": "none", "marker": role.marker, "markersize": 4.2}
    edge: Any = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    axes.plot(across, up, **look, **edge, zorder=3, clip_on=False)


FORMATS = ("svg", "png", "pdf")
"""Formats of figure files; the first is the default."""


def check_formats(figures: Sequence[str]) -> tuple[str, ...]:
    """Return the formats of figure files without duplicates, in the original order.

    Raises:
        InputError: There is no format, or a format is unknown.
    """
    formats = (figures,) if isinstance(figures, str) else tuple(dict.fromkeys(figures))
    for kind in formats or ("",):
        if kind not in FORMATS:
            raise unknown_choice("figure format", kind, FORMATS)
    return formats


_METADATA: Mapping[str, Mapping[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


@dataclass(frozen=True)
class Panel:
    """A drawn figure.

    `name` is the stem of its file, unique in a report: letters, digits and hyphens. `description`
    says what it shows in words and numbers, for people who cannot see it.
    """

    name: str
    figure: Figure
    title: str
    description: str

    def saved(self, kind: str) -> bytes:
        """Return the content of its file in a format; the same on every run."""
        described = "Subject" if kind == "pdf" else "Description"
        about = {**_METADATA[kind], "Title": self.title, described: self.description}
        buffer = io.BytesIO()
        with drawing_style():
            self.figure.savefig(buffer, format=kind, dpi=300, metadata=about)
        if kind != "svg":
            return buffer.getvalue()
        # A hundredth of a point is what no screen or printer resolves.
        return re.sub(rb"<(path|use)[^>]*>", _rounded, buffer.getvalue())

    @cached_property
    def image(self) -> str:
        """The SVG as a data URI, for a page."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.saved('svg')).decode()}"


def _rounded(tag: re.Match[bytes]) -> bytes:
    return re.sub(rb"\d+\.\d{3,}", lambda number: b"%.2f" % float(number[0]), tag[0])
