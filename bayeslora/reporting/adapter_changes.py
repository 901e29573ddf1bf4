"""Adapter changes per layer: numbers from a model, a sentence, a table and a figure.

The figure shows the singular values of the changes, one line per adapted layer. A steeply falling
line is a change along few directions, whatever the rank; the style shows the kind of layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.io.files import atomic_file
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.predictions.collection import unique_labels
from bayeslora.reporting.figures import style
from bayeslora.reporting.figures.rendering import Panel, render
from bayeslora.reporting.tables import Cell, Column, Row, Table
from bayeslora.reporting.text import named

DRIFT_LIMIT = 1e-5
"""Drift up to which factors count as orthonormal: the rounding error of float32."""

_LAYER_COLUMNS = 80
_EXPONENT = re.compile(r"e\+?(-?)0?")
CHANGE_NUMBERS = ("norm", "relative_norm", "stable_rank", "drift")
"""The numbers of a layer, in the order of the table."""

_COLUMNS = tuple(map(Column, ("Norm", "Relative", "Stable rank", "Drift")))


SpectrumLike = Mapping[str, Sequence[Sequence[Any]]]
"""Label of a model -> the result of its `spectrum()`: the layers of every member, with the
attributes of `LayerChange`. Reports know no adapter classes, so they check these values."""


@dataclass(frozen=True)
class LayerChange:
    """The numbers of one layer.

    Attributes:
        name: Dotted name of the layer.
        norm: ‖ΔW‖_F.
        relative_norm: ‖ΔW‖_F / ‖W‖_F; NaN if W is zero.
        stable_rank: ‖ΔW‖²_F / ‖ΔW‖²_2; NaN if nothing changed.
        drift: Distance of factors from orthonormality; 0 for unconstrained factors.
        singular_values: Singular values of the change ΔW, descending.
        is_gated: Whether these numbers omit a gate that varies per token; False if unknown.
    """

    name: str
    norm: float
    relative_norm: float
    stable_rank: float
    drift: float
    singular_values: tuple[float, ...]
    is_gated: bool = False


@dataclass(frozen=True)
class AdapterChange:
    """The change made by the adapter of a model: the layers of its first network."""

    label: str
    num_members: int
    layers: tuple[LayerChange, ...]


def adapter_changes(spectrum: SpectrumLike | None) -> tuple[AdapterChange, ...]:
    """Return the numbers of every model's first member.

    Raises:
        InputError: A value is not the result of `spectrum()`, or has no layers.
    """
    if spectrum is None:
        return ()
    if not isinstance(spectrum, Mapping):
        raise InputError(
            f"spectrum must be a mapping {{label: clf.spectrum()}}, got {spectrum!r:.80}"
        )
    changes = []
    labels = unique_labels([str(name) for name in spectrum])
    for label, (name, members) in zip(labels, spectrum.items(), strict=True):
        try:
            layers = tuple(map(_layer, members[0]))
        except (TypeError, AttributeError, LookupError, ValueError):
            raise InputError(
                f"spectrum {str(name)!r}: expected what clf.spectrum() returns, got {members!r:.80}"
            ) from None
        if not layers:
            raise InputError(
                f"spectrum {str(name)!r}: the model has no layer that an adapter changed"
            )
        changes.append(AdapterChange(label, len(members), layers))
    return tuple(changes)


def adapter_words(change: AdapterChange) -> tuple[str, Table]:
    """Return a sentence on one model, with names marked by `text.named`, and a table of layers."""
    forms = {key: _percent if key == "relative_norm" else _significant for key in CHANGE_NUMBERS}
    rows = tuple(
        Row(
            (shorten(layer.name, _LAYER_COLUMNS),),
            tuple(Cell(form(getattr(layer, key))) for key, form in forms.items()),
        )
        for layer in change.layers
    )
    caption = f"How far training moved each layer of {named(change.label)}."
    notes = (
        "The norm of the change of the weight, that norm relative to the weight's own, the stable"
        " rank of the change, and the drift of orthonormal factors (0 where no factor is held to"
        f" that).{_notes(change)}"
    )
    return _summary(change), Table(caption, ("Layer",), _COLUMNS, rows, notes)


def _layer(layer: Any) -> LayerChange:
    numbers = {key: float(getattr(layer, key)) for key in CHANGE_NUMBERS}
    values = tuple(map(float, layer.singular_values))
    is_gated = bool(getattr(layer, "is_gated", False))
    return LayerChange(clean(layer.name), singular_values=values, is_gated=is_gated, **numbers)


def _summary(change: AdapterChange) -> str:
    changed = [layer for layer in change.layers if layer.norm > 0]
    every = counted(len(change.layers), "layer")
    if not changed:
        return f"none of {every} changed, and {_drift(change)}.{_notes(change)}"
    if all(math.isfinite(layer.relative_norm) for layer in changed):
        most = max(changed, key=lambda layer: layer.relative_norm)
        by = f"{_percent(most.relative_norm)} of its weight"
    else:
        most = max(changed, key=lambda layer: layer.norm)
        by = f"a norm of {_significant(most.norm)}"
    name = named(shorten(most.name, _LAYER_COLUMNS))
    ranks = [layer.stable_rank for layer in changed if math.isfinite(layer.stable_rank)]
    parts = [
        f"{len(changed)} of {every} changed, {name} the most, by {by}",
        f"stable ranks lie between {_significant(min(ranks))} and {_significant(max(ranks))}"
        if len(ranks) > 1
        else f"the stable rank is {_significant(ranks[0] if ranks else math.nan)}",
        _drift(change),
    ]
    return f"{'; '.join(parts)}.{_notes(change)}"


def _drift(change: AdapterChange) -> str:
    largest = max(layer.drift for layer in change.layers)
    if largest == 0:
        return "no factor has drifted from orthogonality, or none is held to it"
    relation = "within" if largest <= DRIFT_LIMIT else "beyond"
    most, limit = map(_significant, (largest, DRIFT_LIMIT))
    return f"drift from orthogonality is at most {most}, {relation} {limit}"


def _notes(change: AdapterChange) -> str:
    notes = ""
    if any(layer.is_gated for layer in change.layers):
        notes += " A gate that differs from input to input is left out of these numbers."
    members = change.num_members
    return notes + (f" This is the first of {members} members." if members > 1 else "")


def _percent(value: float) -> str:
    shown = _significant(100 * value)
    return f"{shown}\N{NO-BREAK SPACE}%" if math.isfinite(value) else shown


def _significant(value: float) -> str:
    """Format with three significant digits, for numbers of very different magnitudes."""
    return _EXPONENT.sub(r"e\1", f"{value:.3g}") if math.isfinite(value) else "–"


_TALL = 2.0
# Share of the largest singular value below which the rest is rounding error.
_LOWEST = 1e-6
# Points of a line; more are indistinguishable, and layers can have hundreds of values.
_MOST_POINTS = 100


Spectra = Mapping[str, Sequence[float]]
"""Dotted name of a layer -> singular values, descending."""


def write_spectrum(path: str | Path, label: str, spectra: Spectra) -> None:
    """Write the figure of one network's spectra as an SVG file, atomically."""
    drawing = render(spectrum_panel("spectrum", label, spectra))
    with atomic_file(path) as temporary:
        temporary.write_text(drawing.standalone, encoding="utf-8")


def spectrum_panel(name: str, label: str, spectra: Spectra) -> Panel:
    """Return the figure of one network's spectra; unchanged layers have no line."""
    kinds = list(dict.fromkeys(layer.rpartition(".")[2] for layer in spectra))
    slots = {style.name_slot(index): kind for index, kind in enumerate(kinds)}
    # Colours repeat with other line styles.
    looks = [(index, index + index // len(style.OUTSIDE)) for index in range(len(kinds))]
    styles = [[style.OUTSIDE[n % len(style.OUTSIDE)] for n in look] for look in looks]
    roles = {
        kind: style.Role(color.color, line.line)
        for kind, (color, line) in zip(kinds, styles, strict=True)
    }
    head = 0.6 + style.KEY_ROW * len(kinds)
    figure, (axes,) = style.figure_with_axes(head + _TALL + 0.5, (0.42, _TALL))
    changed = {layer: values for layer, values in spectra.items() if max(values, default=0) > 0}
    style.add_heading(figure, f"{len(changed)} of {len(spectra)} layers changed")
    style.add_key(figure, [(roles[kind], slot) for slot, kind in slots.items()], top=0.6)
    for layer, values in changed.items():
        shown, role = _visible(values), roles[layer.rpartition(".")[2]]
        indices = sorted({*range(0, len(shown), -(-len(shown) // _MOST_POINTS)), len(shown) - 1})
        axes.plot(
            [index + 1 for index in indices],
            [shown[index] for index in indices],
            color=role.color,
            linestyle=role.line,
            linewidth=1.0,
            marker="." if len(shown) == 1 else "",
        )
    axes.locator_params(axis="x", integer=True)
    if changed:
        ends = [end for v in changed.values() for end in (_visible(v)[0], _visible(v)[-1])]
        low, high = math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends)))
        axes.set(yscale="log", ylim=(10.0**low, 10.0 ** max(high, low + 1)))
        style.mark_powers(axes.yaxis)
        axes.tick_params(axis="y", pad=2)
    axes.set_xlabel("place")
    axes.set_ylabel("singular value of the change", labelpad=1)
    parts = [
        f"{layer}: largest {max(values):.3g}, norm {sum(item**2 for item in values) ** 0.5:.3g}"
        for layer, values in changed.items()
    ]
    title, texts = f"Singular values of the changes of {label}", {style.TITLE_SLOT: label, **slots}
    return Panel(name, figure, title, "; ".join(parts) or "No layer changed.", texts)


def _visible(values: Sequence[float]) -> list[float]:
    return [value for value in values if value > _LOWEST * max(values)]
