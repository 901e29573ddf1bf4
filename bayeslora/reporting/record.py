"""What was run: data, sizes, versions, seeds, command, in the reader's order."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from bayeslora._version import __version__
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.cards import TOLD
from bayeslora.reporting.identity import exact_command, origin
from bayeslora.reporting.text import listed

Provenance = Mapping[str, str | Mapping[str, str]]
"""Facts about the run by name; a mapping in place of a text makes a part of its own."""

PACKAGES = (
    "numpy",
    "scipy",
    "netcal",
    "torchmetrics",
    "torch",
    "transformers",
    "pyarrow",
    "matplotlib",
    "jinja2",
)
"""Packages whose installed versions are recorded; they are not imported for that."""

COMMAND = "command"
"""The fact about the run that is shown first, and to the letter."""

MOST_CLASSES = 40
"""Class names that are written out."""


@dataclass(frozen=True)
class Part:
    """A titled list of facts.

    Attributes:
        title: What the facts are about.
        rows: Names and values, plain text.
    """

    title: str
    rows: tuple[tuple[str, str], ...]


def run_record(
    methods: Sequence[Assessed],
    sets: Mapping[str, str],
    provenance: Provenance,
    settings: Mapping[str, str],
) -> list[Part]:
    """Return everything that somebody needs to make the numbers again.

    Args:
        methods: What was scored.
        sets: Label of each out-of-distribution set by its name.
        provenance: What the caller knows: command, data, anything else.
        settings: How the report was made: bins, seed, resamples.
    """
    facts = {key: value for key, value in provenance.items() if not isinstance(value, Mapping)}
    plain = [(_heading(key), clean(str(value))) for key, value in facts.items() if key != COMMAND]
    if COMMAND in facts:
        plain.insert(0, ("command to repeat it", exact_command(str(facts[COMMAND]))))
    parts = [Part("The run", tuple(plain))] if plain else []
    parts += [
        Part(_heading(key), tuple((_heading(k), clean(str(v))) for k, v in value.items()))
        for key, value in provenance.items()
        if isinstance(value, Mapping)
    ]
    parts += _method_parts(methods, sets)
    known = provenance.get("versions")
    versions = _versions(known if isinstance(known, Mapping) else {})
    parts.append(Part("This report", (*settings.items(), *versions)))
    return parts


def _heading(text: object) -> str:
    return shorten(clean(str(text)))


def _method_parts(methods: Sequence[Assessed], sets: Mapping[str, str]) -> list[Part]:
    """Return a part for every method, and before them one for what they have in common."""
    every = [_method_rows(one, sets) for one in methods]
    same = set.intersection(*map(set, every)) if len(every) > 1 else set()
    common = tuple(row for row in every[0] if row in same)
    parts = [Part("All methods", common)] if common else []
    for one, rows in zip(methods, every, strict=True):
        own = tuple(row for row in rows if row not in same)
        if own:
            parts.append(Part(f"Method: {one.label}", own))
    return parts


def _method_rows(one: Assessed, sets: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    predictions = one.method.predictions
    unlabelled = one.scores.n - one.scores.n_labelled
    name = clean(one.method.name)
    rows = [] if name == one.label else [("name", name)]
    rows += [
        ("predictions", origin(one.method.source)),
        ("rows", f"{one.scores.n:,}, of which {unlabelled:,} unlabelled"),
        ("classes", _classes(predictions.classes)),
    ]
    if one.scores.nll_clamped:
        cut = counted(one.scores.nll_clamped, "row")
        rows.append(("NLL cut off", f"{cut} with a probability of the label under 1e-12"))
    rows += [
        (_heading(key.replace("_", " ")), clean(value))
        for key, value in predictions.metadata.items()
        if key not in TOLD
    ]
    rows += [
        (
            f"unfamiliar: {sets[name]}",
            f"{counted(len(source.predictions), 'row')}, {origin(source)}",
        )
        for name, source in one.method.ood.items()
    ]
    return tuple(rows)


def _classes(names: Sequence[str]) -> str:
    shown = [shorten(clean(name)) for name in names]
    return f"{len(names)}: {listed(shown, MOST_CLASSES)}"


def _versions(known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what runs here, without what `known` says already."""
    found = [
        ("bayeslora", __version__),
        ("Python", platform.python_version()),
        ("platform", f"{platform.system()} {platform.machine()}"),
    ]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    told = {(name.lower(), number) for name, number in known.items()}
    return [(name, number) for name, number in found if (name.lower(), number) not in told]
