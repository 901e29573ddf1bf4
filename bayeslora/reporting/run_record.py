"""Record of the run: a card per method, and data, sizes, versions, seeds and command.

Cards are made from the metadata of the predictions. Files of other tools have none, and their cards
say so. Hashes identify the input files.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bayeslora._version import __version__
from bayeslora.conformal import CONFORMAL
from bayeslora.io.files import shown_path
from bayeslora.plain_text import as_label, clean, counted
from bayeslora.predictions.collection import Source
from bayeslora.recalibration.recalibrate import RECALIBRATORS
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.blocks import Details, Record
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.text import classes_of, listed, words

LONGEST = 160
"""Width of a summary in terminal columns; of sources, it is doubled."""

PACKAGES = (
    *("numpy", "scipy", "netcal", "torchmetrics", "torch", "transformers"),
    *("pyarrow", "matplotlib", "jinja2"),
)
"""Packages whose installed versions are recorded, without importing them."""

MOST_CLASSES = 40
"""Most class names to list."""

Provenance = Mapping[str, str | Mapping[str, str]]
"""Facts about the run by name; a mapping as a value becomes a separate part."""


def method_card(assessed: Assessed) -> Record:
    """Return the card of a method."""
    notes, scores = assessed.method.predictions.metadata, assessed.scores
    parts = [
        _described(notes[key], notes.get(f"{key}_summary", ""))
        for key in ("adapter", "posterior")
        if key in notes
    ]
    unknown = "The file has no record of the method; this report uses only its probabilities."
    without = scores.n - scores.n_labelled
    unlabelled = f", {without:,} of them without a label" if without else ""
    size = f"{counted(scores.n, 'example')} of {classes_of(scores)}{unlabelled}"
    rows = [
        (as_label(key.replace("_", " ")), _in_words(key, value))
        for key, value in notes.items()
        if not key.endswith("_summary")
    ]
    summary = " with ".join(parts) if notes else unknown
    return Record(assessed.label, (*rows, ("scored on", size)), summary)


def _in_words(key: str, value: str) -> str:
    """Return a value of the metadata, a link and a post-hoc step in words."""
    if key == "link":
        value = words()["links"].get(value, value)
    known: Any = {"recalibration": RECALIBRATORS, "conformal": CONFORMAL}.get(key, {})
    return _described(value, getattr(known.get(value), "summary", ""))


def _described(name: str, summary: str) -> str:
    shown = as_label(name, 2 * LONGEST)
    return f"{shown} ({as_label(summary, LONGEST)})" if summary else shown


def run_record(facts: Facts, provenance: Provenance) -> Details:
    """Return everything needed to reproduce the numbers, below the run in one line."""
    first = facts.fits[0].scores
    notes = first.intervals
    settings = {
        "bins": f"{first.num_bins} of equal width, [low, high), the last one holds 1",
        "intervals": f"95 %, {notes['method']}, {notes['num_resamples']:,} resamples",
        "seed of the bootstrap": str(notes["seed"]),
    }
    command = provenance.get("command")
    stated = as_label(command, 100) if isinstance(command, str) else ""
    line = " · ".join(filter(None, (stated, f"bayeslora {__version__}", settings["intervals"])))
    parts: dict[str, Mapping[str, str]] = {"The run": {}}
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            parts[key] = value
        else:
            title = "command to repeat it" if key == "command" else key
            parts["The run"] = {**parts["The run"], title: value}
    for fit in facts.fits:
        parts[f"Method: {fit.label}"] = dict(_method_rows(fit, facts.sets))
    parts["This report"] = {**settings, **_versions()}
    records = tuple(
        Record(as_label(title), tuple((as_label(k), clean(str(v))) for k, v in rows.items()))
        for title, rows in parts.items()
        if rows
    )
    return Details(line, records)


def _method_rows(assessed: Assessed, sets: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    method, scores = assessed.method, assessed.scores
    if clean(method.name) != assessed.label:
        yield "name", method.name
    yield "predictions", _origin(method.source)
    yield "examples", f"{scores.n:,}, of which {scores.n - scores.n_labelled:,} unlabelled"
    classes = [as_label(name) for name in method.predictions.classes]
    yield "classes", f"{len(classes)}: {listed(classes, MOST_CLASSES)}"
    for name, source in method.ood.items():
        size = counted(len(source.predictions), "example")
        yield f"out of distribution: {sets[name]}", f"{size}, {_origin(source)}"


def _origin(source: Source) -> str:
    if source.path is None:
        return "in memory"
    return f"{clean(shown_path(source.path))} (SHA-256 {source.sha256})"


def _versions() -> dict[str, str]:
    versions = {
        "bayeslora": __version__,
        "Python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
