"""Singular values of the changes that an adapter made: one line for each adapted layer.

A line that falls steeply is a change along few directions, whatever the rank allowed; the marks say
which kind of layer it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora.files import atomic_file
from bayeslora.reporting.figures import (
    KEY_ROW,
    OUTSIDE,
    TITLE_SLOT,
    Role,
    add_heading,
    add_key,
    figure_with_axes,
    name_slot,
)
from bayeslora.reporting.svg import Panel, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TALL = 2.0
# Shares of the largest value below which a line is rounding, not change.
_LOWEST = 1e-6
# Points of a line; more could not be told apart, and whole layers have hundreds of values.
_MOST_POINTS = 100
_MOST_MARKS = 12


Spectra = Mapping[str, Sequence[float]]
"""Singular values, descending, by the dotted name of the layer."""


def write_spectrum(path: str | Path, label: str, spectra: Spectra) -> None:
    """Write the figure as an SVG file, whole or not at all.

    Args:
        path: Where it goes.
        label: What the model is called.
        spectra: One network's.
    """
    drawing = render(spectrum_panel("spectrum", label, spectra))
    with atomic_file(path) as aside:
        aside.write_text(drawing.standalone, encoding="utf-8")


def spectrum_panel(name: str, label: str, spectra: Spectra) -> Panel:
    """Return the figure of one network's spectra; layers that did not change have no line.

    Args:
        name: Stem of the figure's file.
        label: What the model is called.
        spectra: One network's.
    """
    kinds = list(dict.fromkeys(map(_kind, spectra)))
    roles = {kind: _role(place) for place, kind in enumerate(kinds)}
    slots = {name_slot(place): kind for place, kind in enumerate(kinds)}
    head = 0.6 + KEY_ROW * len(kinds)
    figure, (axes,) = figure_with_axes(head + _TALL + 0.5, (0.42, _TALL))
    changed = {layer: values for layer, values in spectra.items() if max(values, default=0) > 0}
    add_heading(figure, f"{len(changed)} of {len(spectra)} layers changed")
    add_key(figure, [(roles[kind], slot) for slot, kind in slots.items()], top=0.6)
    for layer, values in changed.items():
        _draw(axes, values, roles[_kind(layer)])
    axes.locator_params(axis="x", integer=True)
    if changed:
        _mark_decades(axes, changed.values())
    axes.set_xlabel("place")
    axes.set_ylabel("singular value of the change", labelpad=1)
    return Panel(
        name=name,
        figure=figure,
        title=f"Singular values of the changes of {label}",
        description=_description(changed),
        texts={TITLE_SLOT: label, **slots},
    )


def _kind(layer: str) -> str:
    """Return the last part of a layer's name, such as `q_proj`."""
    return layer.rpartition(".")[2]


def _draw(axes: Axes, values: Sequence[float], role: Role) -> None:
    shown = _shown(values)
    step = -(-len(shown) // _MOST_POINTS)
    places = sorted({*range(0, len(shown), step), len(shown) - 1})
    across, up = [place + 1 for place in places], [shown[place] for place in places]
    axes.plot(
        across,
        up,
        color=role.color,
        linestyle=role.line,
        linewidth=1.0,
        marker="." if len(shown) == 1 else "",
    )


def _shown(values: Sequence[float]) -> list[float]:
    return [item for item in values if item > _LOWEST * max(values)]


def _mark_decades(axes: Axes, spectra: Iterable[Sequence[float]]) -> None:
    """Make the axis logarithmic, from a power of ten to another, with marks in plain text."""
    ends = [item for values in spectra for item in (_shown(values)[0], _shown(values)[-1])]
    low, high = math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends)))
    high = max(high, low + 1)
    decades = range(low, high + 1, -(-(high - low) // _MOST_MARKS))
    axes.set_yscale("log")
    axes.set_yticks([10.0**power for power in decades], [_decade(power) for power in decades])
    axes.set_yticks([], minor=True)
    axes.tick_params(axis="y", pad=2)
    axes.set_ylim(10.0**low, 10.0**high)


def _decade(power: int) -> str:
    return f"{10.0**power:g}" if -2 <= power <= 3 else f"1e{power}"


def _role(place: int) -> Role:
    """Return the look of a kind of layer: after a round of colours they get other lines."""
    color, line = (OUTSIDE[n % len(OUTSIDE)] for n in (place, place + place // len(OUTSIDE)))
    return Role(color.color, line.line)


def _description(changed: Spectra) -> str:
    parts = [
        f"{layer}: largest {max(values):.3g}, norm {sum(item**2 for item in values) ** 0.5:.3g}"
        for layer, values in changed.items()
    ]
    return "; ".join(parts) or "No layer changed."
