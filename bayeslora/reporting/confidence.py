"""Histogram of the confidence of one method, split into right and wrong answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from bayeslora.reporting.figures import (
    INK,
    RIGHT,
    TITLE_SLOT,
    WRONG,
    Role,
    add_heading,
    add_key,
    figure_with_axes,
)
from bayeslora.reporting.svg import Panel
from bayeslora.reporting.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_ACCURACY = Role(INK, "-")
_CERTAINTY = Role(INK, (0, (3, 2)))


def confidence_panel(
    name: str, label: str, confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int
) -> Panel:
    """Return the histogram of one method.

    Args:
        name: Stem of the figure's file.
        label: The method's label.
        confidence: [N] highest class probability of the labelled rows.
        correct: [N] whether the likeliest class was the label.
        bins: Number of equal-width bins over 0 to 1.
    """
    accuracy, certainty = float(correct.mean()), float(confidence.mean())
    right = int(np.count_nonzero(correct))
    wrong = len(correct) - right
    figure, (axes,) = figure_with_axes(3.1, (0.42, 1.8))
    add_heading(figure, f"{len(correct)} labelled rows")
    add_key(figure, [(RIGHT, f"right ({right})"), (WRONG, f"wrong ({wrong})")], top=0.58)
    means = [
        (_ACCURACY, f"accuracy {number(accuracy)}"),
        (_CERTAINTY, f"mean confidence {number(certainty)}"),
    ]
    add_key(figure, means, top=0.58, left=1.45)
    _draw(axes, confidence, correct, bins)
    for role, value in ((_ACCURACY, accuracy), (_CERTAINTY, certainty)):
        axes.axvline(value, color=role.color, linewidth=1.3, linestyle=role.line)
    sure = int(np.count_nonzero(confidence[~correct] >= 0.9))
    return Panel(
        name=name,
        figure=figure,
        title=f"Confidence of right and wrong answers of {label}",
        description=(
            f"{right} answers are right and {wrong} wrong; {sure} of the wrong ones have a"
            f" confidence of 0.9 or more. Accuracy {number(accuracy)}, mean confidence"
            f" {number(certainty)}."
        ),
        texts={TITLE_SLOT: label},
    )


def _draw(
    axes: Axes, confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int
) -> None:
    edges = np.linspace(0.0, 1.0, bins + 1)
    right, _ = np.histogram(confidence[correct], edges)
    wrong, _ = np.histogram(confidence[~correct], edges)
    # Wrong answers stand on the axis: they are few, and their heights are what one compares.
    for heights, base, role in ((wrong, np.zeros(bins), WRONG), (right, wrong, RIGHT)):
        shown = heights > 0
        axes.bar(
            edges[:-1][shown],
            heights[shown],
            bottom=base[shown],
            width=1.0 / bins,
            align="edge",
            facecolor=role.area,
            edgecolor=role.color,
            hatch=role.hatch,
            linewidth=0.6,
        )
    axes.set(xlim=(0, 1), xlabel="confidence", ylabel="rows")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
