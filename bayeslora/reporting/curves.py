"""What curves of several methods in one panel share: how many, their key, their points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bayeslora.reporting.figures import INK, METHODS, MUTED, WIDTH, Role, add_swatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

POINTS = 400
"""Points of a curve, about two a printed point across: more would not be seen."""

ENTRY = 0.31
"""Height of an entry of the key, its two lines together, in inches."""

Item = TypeVar("Item")

_LEFT, _INDENT = 0.08, 0.36


@dataclass(frozen=True)
class Entry:
    """One curve of a key.

    Attributes:
        role: How it looks.
        name: Slot of its name, or words.
        detail: Second line: its numbers.
    """

    role: Role
    name: str
    detail: str


def panels_of(items: Sequence[Item]) -> Iterator[tuple[int, list[tuple[Role, Item]]]]:
    """Yield the number of each panel, from 1, with its items and their roles.

    Args:
        items: Methods that share a figure; no panel gets more than there are roles, and none has
            two fewer than another, so that nobody is left alone.
    """
    panels = -(-len(items) // len(METHODS))
    bounds = [-(-len(items) * place // max(1, panels)) for place in range(panels + 1)]
    for number, (start, end) in enumerate(pairwise(bounds), start=1):
        yield number, list(zip(METHODS, items[start:end], strict=False))


def add_entries(figure: Figure, entries: Sequence[Entry], *, top: float) -> None:
    """Draw the key: a line and a point, the name, and the numbers under it.

    Args:
        figure: Where to draw.
        entries: Curves in the order of the key.
        top: Distance of the first line from the upper edge, in inches.
    """
    height = figure.get_figheight()
    for place, entry in enumerate(entries):
        level = 1 - (top + place * ENTRY) / height
        add_swatch(figure, entry.role, _LEFT / WIDTH, level, line=True)
        left = (_LEFT + _INDENT) / WIDTH
        figure.text(left, level, entry.name, fontsize=7.5, color=INK, va="center")
        below = level - 0.135 / height
        figure.text(left, below, entry.detail, fontsize=6.5, color=MUTED, va="center")


def thinned(
    across: NDArray[np.float64], up: NDArray[np.float64], points: int = POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a rising curve by points evenly spaced along it; the ends are kept.

    No point that is left out is farther than one step along the curve from a kept one, and a step
    is the sum of both ranges over `points`: half a line's width in these figures.

    Args:
        across: [G] rising.
        up: [G] rising.
        points: Most points that are kept, about.
    """
    along = across + up
    wanted = np.linspace(along[0], along[-1], points)
    kept = np.unique(np.append(np.searchsorted(along, wanted[:-1]), len(along) - 1))
    return across[kept], up[kept]


def sampled_sizes(rows: int) -> NDArray[np.int64]:
    """Return numbers of rows from 1 to `rows`, closer to each other where they are few.

    A running mean changes by parts of its size: fast over the first rows, slowly over the last.
    """
    if rows <= POINTS:
        return np.arange(1, rows + 1)
    few = np.geomspace(1, rows, POINTS // 4)
    many = np.linspace(1, rows, POINTS - len(few))
    return np.unique(np.round(np.concatenate([few, many])).astype(np.int64))
