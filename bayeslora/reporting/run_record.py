"""Record of the run: a card per method, and data, sizes, versions, seeds and command.

Cards are made from the metadata of the predictions. Files of other tools have none, and their cards
say so. Hashes identify the inputs.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bayeslora._version import __version__
from bayeslora.conformal import CONFORMAL
from bayeslora.io.files import shown_path
from bayeslora.plain_text import as_label, clean, counted
from bayeslora.predictions.collection import Source
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.recalibrate import RECALIBRATORS
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.blocks import Record
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
    summary = " with ".join(parts) if notes else unknown
    rows = [
        (as_label(key.replace("_", " ")), _in_words(key, value))
        for key, value in notes.items()
        if not key.endswith("_summary")
    ]
    return Record(assessed.label, (*rows, ("scored on", size)), summary)


def _in_words(key: str, value: str) -> str:
    """Return a value of the metadata, a link and a post-hoc step in words."""
    if key == "link":
        value = words()["links"].get(value, value)
    known = {"recalibration": RECALIBRATORS, "conformal": CONFORMAL}.get(key, {})
    return _described(value, getattr(known.get(value), "summary", ""))


def _described(name: str, summary: str) -> str:
    shown = as_label(name, 2 * LONGEST)
    return f"{shown} ({as_label(summary, LONGEST)})" if summary else shown


def content_hash(predictions: Predictions) -> str:
    """Return the SHA-256 of everything scores depend on, in hexadecimal; machine-independent.

    It covers the classes, ids and names of scores as JSON, and every array as little-endian bytes.
    """
    names = [predictions.classes, predictions.ids, sorted(predictions.scores)]
    digest = hashlib.sha256(json.dumps(names).encode("ascii"))
    arrays: list[tuple[str, Any]] = [("probs", predictions.probs), ("labels", predictions.labels)]
    arrays += [(name, getattr(predictions, name)) for name in ("total", "aleatoric", "epistemic")]
    arrays += [(name, predictions.scores[name]) for name in sorted(predictions.scores)]
    arrays.append(("sets", predictions.sets))
    for name, values in arrays:
        if values is not None:
            digest.update(f"{name} {values.shape}".encode("utf-8", "surrogatepass"))
            digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _origin(source: Source) -> str:
    """Return the source of predictions, with their hash."""
    if source.path is None:
        return f"in memory (SHA-256 of the content {content_hash(source.predictions)})"
    return f"{clean(shown_path(source.path))} (SHA-256 {source.sha256})"


def run_line(provenance: Provenance, settings: Mapping[str, str]) -> str:
    """Return the run in one line: its command if known, version and settings."""
    command = provenance.get("command")
    first = as_label(command, 100) if isinstance(command, str) else ""
    parts = first, f"bayeslora {__version__}", settings.get("intervals", "")
    return " · ".join(filter(None, parts))


def run_record(
    methods: Sequence[Assessed], facts: Facts, provenance: Provenance, settings: Mapping[str, str]
) -> tuple[Record, ...]:
    """Return everything needed to reproduce the numbers."""
    parts: dict[str, Mapping[str, str]] = {"The run": {}}
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            parts[key] = value
        else:
            title = "command to repeat it" if key == "command" else key
            parts["The run"] = {**parts["The run"], title: str(value)}
    for method in methods:
        parts[f"Method: {method.label}"] = dict(_method_rows(method, facts.sets))
    parts["This report"] = {**settings, **_versions()}
    return tuple(
        Record(as_label(title), tuple((as_label(k), clean(str(v))) for k, v in rows.items()))
        for title, rows in parts.items()
        if rows
    )


def _method_rows(assessed: Assessed, sets: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    method, scores = assessed.method, assessed.scores
    if clean(method.name) != assessed.label:
        yield "name", method.name
    yield "predictions", _origin(method.source)
    yield "examples", f"{scores.n:,}, of which {scores.n - scores.n_labelled:,} unlabelled"
    classes = [as_label(name) for name in method.predictions.classes]
    yield "classes", f"{len(classes)}: {listed(classes, MOST_CLASSES)}"
    if scores.nll_clamped:
        cut = counted(scores.nll_clamped, "example")
        yield "NLL cut off", f"{cut} with a probability of the label under 1e-12"
    for name, source in method.ood.items():
        size = counted(len(source.predictions), "example")
        yield f"out of distribution: {sets[name]}", f"{size}, {_origin(source)}"


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
