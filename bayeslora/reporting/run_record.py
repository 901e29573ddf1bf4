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
from bayeslora.reporting.text import brief, classes_of, listed, words

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
    return Record(assessed.label, (*_card(notes), ("scored on", size)), summary)


def _card(notes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, title in words()["card"].items():
        if notes.get(key):
            yield title, as_label(notes[key], LONGEST)
    if link := notes.get("link"):
        # Without draws, the passes are averaged, if there are several.
        shown = words()["links"].get(link, brief(link))
        if link == "mc" and notes.get("num_samples") == "0":
            shown = "softmax" if notes.get("passes") == "1" else words()["links"]["softmax"]
        yield "from logits to probabilities", shown
    sources = [notes.get("sources", "")]
    for key, title, known in (
        ("recalibration", "recalibrated", RECALIBRATORS),
        ("conformal", "prediction sets", CONFORMAL),
    ):
        if key in notes:
            step: Any = known.get(notes[key])
            rows = notes.get(f"{key}_rows", "")
            fitted = f"; fitted to {brief(rows)} examples" if rows else ""
            yield title, f"{_described(notes[key], getattr(step, 'summary', ''))}{fitted}"
            sources.append(getattr(step, "source", ""))
    seeds = {"fit": notes.get("fit_seed"), "prediction": notes.get("seed")}
    if any(seeds.values()):
        yield "seeds", ", ".join(f"{name} {brief(seed)}" for name, seed in seeds.items() if seed)
    if any(sources):
        yield "sources", as_label("; ".join(filter(None, sources)), 2 * LONGEST)


def _described(name: str, summary: str) -> str:
    return f"{brief(name)} ({as_label(summary, LONGEST)})" if summary else brief(name)


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
    for key, value in method.predictions.metadata.items():
        if not key.endswith("_summary") and key != "sources":  # these are on the cards
            yield key.replace("_", " "), value
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
