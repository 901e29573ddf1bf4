"""Singular values of the changes that an adapter made: one line for each adapted layer.

A line that falls steeply is a change along few directions, whatever the rank allowed; the marks say
which kind of layer it is.
"""

from __future__ import annotations

from collections.abc import Sequence
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
)
from bayeslora.reporting.svg import Panel, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayeslora.adapters.spectrum import SiteSpectrum

_TALL = 2.0
# Shares of the largest value below which a line is rounding, not change.
_LOWEST = 1e-6


def write_spectrum(path: str | Path, label: str, sites: Sequence[SiteSpectrum]) -> None:
    """Write the figure as an SVG file, whole or not at all.

    Args:
        path: Where it goes.
        label: What the model is called.
        sites: One network's.
    """
    drawing = render(spectrum_panel("spectrum", label, sites))
    with atomic_file(path) as aside:
        aside.write_text(drawing.standalone, encoding="utf-8")


def spectrum_panel(name: str, label: str, sites: Sequence[SiteSpectrum]) -> Panel:
    """Return the figure of one network's spectra; layers that did not change have no line.

    Args:
        name: Stem of the figure's file.
        label: What the model is called.
        sites: The spectra.
    """
    kinds = list(dict.fromkeys(site.name.rpartition(".")[2] for site in sites))
    roles = {kind: OUTSIDE[place % len(OUTSIDE)] for place, kind in enumerate(kinds)}
    slots = {f"bayesloraKind{_letter(place)}": kind for place, kind in enumerate(kinds)}
    head = 0.6 + KEY_ROW * len(kinds)
    figure, (axes,) = figure_with_axes(head + _TALL + 0.5, (0.42, _TALL))
    changed = [site for site in sites if site.norm > 0]
    add_heading(figure, f"{len(changed)} of {len(sites)} layers changed")
    add_key(figure, [(roles[kind], slot) for slot, kind in slots.items()], top=0.6)
    for site in changed:
        _draw(axes, site, roles[site.name.rpartition(".")[2]])
    if changed:
        axes.set_yscale("log")
    axes.set_xlabel("place")
    axes.set_ylabel("singular value of the change")
    return Panel(
        name=name,
        figure=figure,
        title=f"Singular values of the changes of {label}",
        description=_description(changed),
        texts={TITLE_SLOT: label, **slots},
    )


def _letter(place: int) -> str:
    """Return letters for a number, so that no slot is the beginning of another."""
    return "".join(chr(ord("A") + int(digit)) for digit in f"{place:02d}")


def _draw(axes: Axes, site: SiteSpectrum, role: Role) -> None:
    values = [item for item in site.singular_values if item > _LOWEST * site.norm]
    axes.plot(
        range(1, len(values) + 1), values, color=role.color, linestyle=role.line, linewidth=1.0
    )


def _description(changed: Sequence[SiteSpectrum]) -> str:
    parts = [
        f"{site.name}: norm {site.norm:.3g}, stable rank {site.stable_rank:.2f}" for site in changed
    ]
    return "; ".join(parts) or "No layer changed."
