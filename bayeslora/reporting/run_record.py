"""Record of the run: a card per method, and data, sizes, versions, seeds and command.

Cards are made from the metadata of the predictions. Files of other tools have none, and their cards
say so. Hashes identify the inputs, and if all inputs are files, a call or command reproduces the
report.
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
from bayeslora.io.files import STDIN, shown_path
from bayeslora.plain_text import as_label, clean, counted
from bayeslora.predictions.collection import Method, Source
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.recalibrate import RECALIBRATORS
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.blocks import Record
from bayeslora.reporting.text import brief, classes_of, listed

LINK_WORDS = {
    "mc": "softmax of draws of the logits, averaged",
    "softmax": "softmax of each pass, averaged",
    "probit": "probit approximation of the mean of softmax",
    "bridge": "Laplace bridge to a Dirichlet",
}
"""Link of a distribution of logits to probabilities, in words."""

_LATER: Mapping[str, Mapping[str, Any]] = {"recalibration": RECALIBRATORS, "conformal": CONFORMAL}

LONGEST_SUMMARY, LONGEST_SOURCES = 160, 400
"""Widths of a summary and of sources, in terminal columns."""

TOLD = frozenset({"adapter_summary", "posterior_summary", "sources"})
"""Metadata shown only on the cards."""

UNKNOWN = "The file has no record of the method; this report uses only its probabilities."


def method_card(assessed: Assessed) -> Record:
    """Return the card of a method."""
    notes = assessed.method.predictions.metadata
    parts = [
        _described(notes[key], notes.get(f"{key}_summary", ""))
        for key in ("adapter", "posterior")
        if key in notes
    ]
    summary = " with ".join(parts) if notes else UNKNOWN
    unlabelled = assessed.scores.n - assessed.scores.n_labelled
    without = f", {unlabelled:,} of them without a label" if unlabelled else ""
    size = f"{counted(assessed.scores.n, 'example')} of {classes_of(assessed.scores)}{without}"
    return Record(assessed.label, (*_rows(notes), ("scored on", size)), summary)


def _rows(notes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if share := notes.get("prior_share"):
        yield ("prior", f"{brief(share)} of the logits is the language model's own answer")
    if held_out := notes.get("held_out_nll"):
        yield "NLL of held-out training rows", as_label(held_out, LONGEST_SUMMARY)
    link, draws = notes.get("link"), notes.get("num_samples")
    if link == "mc" and draws == "0":  # a point estimate, or the average of several
        single = notes.get("passes") == "1"
        yield "from logits to probabilities", "softmax" if single else LINK_WORDS["softmax"]
    elif link:
        yield "from logits to probabilities", LINK_WORDS.get(link, brief(link))
    if draws:
        count = _whole(draws)
        yield "draws", brief(draws) if count is None else f"{count:,}"
    if passes := notes.get("passes"):
        yield "passes of the adapted layers", brief(passes)
    if before := notes.get("recalibration_before"):
        yield "recalibrated before", brief(before)
    for key, title in {"recalibration": "recalibrated", "conformal": "prediction sets"}.items():
        if key in notes:
            yield title, _later(notes, key)
    seeds = {"fit": notes.get("fit_seed"), "prediction": notes.get("seed")}
    known = [f"{name} {brief(seed)}" for name, seed in seeds.items() if seed]
    if known:
        yield "seeds", ", ".join(known)
    steps = (registry.get(notes.get(key, "")) for key, registry in _LATER.items())
    sources = [as_label(notes["sources"], LONGEST_SOURCES)] if notes.get("sources") else []
    sources += [step.source for step in steps if step is not None]
    if any(sources):
        yield "sources", "; ".join(filter(None, sources))


def _later(notes: Mapping[str, str], key: str) -> str:
    """Return the post-hoc step fitted to the predictions, with its number of rows."""
    rows = _whole(notes.get(f"{key}_rows", ""))
    fitted = "" if rows is None else f"; fitted to {counted(rows, 'example')}"
    alpha = notes.get("conformal_alpha", "") if key == "conformal" else ""
    meant = f"; at most a share of {brief(alpha)} missed" if alpha else ""
    summary = getattr(_LATER[key].get(notes[key]), "summary", "")
    return f"{_described(notes[key], summary)}{meant}{fitted}"


def _described(name: str, summary: str) -> str:
    shown = as_label(summary, LONGEST_SUMMARY) if summary else ""
    return f"{brief(name)} ({shown})" if shown else brief(name)


def _whole(text: str) -> int | None:
    """Parse a non-negative integer from metadata; None for anything else."""
    return int(text) if text.isdecimal() and len(text) <= 12 else None


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


def origin(source: Source) -> str:
    """Return the source of predictions, with their hash."""
    if source.path is None:
        return f"in memory (SHA-256 of the content {content_hash(source.predictions)})"
    return f"{clean(shown_path(source.path))} (SHA-256 {source.sha256})"


def python_call(methods: Sequence[Method], **options: object) -> str:
    """Return the call of `report` that reproduces a report; empty unless all inputs are files.

    Options that are None are left out.
    """
    sources = [method.source for method in methods]
    sources += [source for method in methods for source in method.ood.values()]
    if any(source.path is None or shown_path(source.path) == STDIN for source in sources):
        return ""
    files = [str(method.source.path) for method in methods]
    sets: dict[str, Mapping[str, str]] = {
        method.label: {name: str(source.path) for name, source in method.ood.items()}
        for method in methods
        if method.ood
    }
    words = [repr(files), f"ood={sets!r}" if sets else ""]
    words += [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return f"bayeslora.report({', '.join(filter(None, words))})"


Provenance = Mapping[str, str | Mapping[str, str]]
"""Facts about the run by name; a mapping as a value becomes a separate part."""

PACKAGES = (
    *("numpy", "scipy", "netcal", "torchmetrics", "torch", "transformers"),
    *("pyarrow", "matplotlib", "jinja2"),
)
"""Packages whose installed versions are recorded, without importing them."""

COMMAND = "command"
"""The fact about the run to show first."""

MOST_CLASSES = 40
"""Most class names to list."""


def run_line(provenance: Provenance, settings: Mapping[str, str]) -> str:
    """Return the run in one line: its command if known, version and settings."""
    command = provenance.get(COMMAND)
    first = [as_label(command, 100)] if isinstance(command, str) else []
    last = [settings["intervals"]] if "intervals" in settings else []
    return " · ".join([*first, f"bayeslora {__version__}", *last])


def run_record(
    methods: Sequence[Assessed],
    sets: Mapping[str, str],
    provenance: Provenance,
    settings: Mapping[str, str],
) -> tuple[Record, ...]:
    """Return everything needed to reproduce the numbers."""
    facts = {key: value for key, value in provenance.items() if not isinstance(value, Mapping)}
    plain = [(_heading(key), clean(str(value))) for key, value in facts.items() if key != COMMAND]
    if COMMAND in facts:
        command = str(facts[COMMAND])
        shown = command if command.isprintable() else clean(command)
        plain.insert(0, ("command to repeat it", shown))
    parts = [Record("The run", tuple(plain))] if plain else []
    parts += [
        Record(_heading(key), tuple((_heading(k), clean(str(v))) for k, v in value.items()))
        for key, value in provenance.items()
        if isinstance(value, Mapping)
    ]
    rows_by_method = [_method_rows(method, sets) for method in methods]
    same = set.intersection(*map(set, rows_by_method)) if len(rows_by_method) > 1 else set()
    groups = {"All methods": [row for row in rows_by_method[0] if row in same]}
    for method, rows in zip(methods, rows_by_method, strict=True):
        groups[f"Method: {method.label}"] = [row for row in rows if row not in same]
    parts += [Record(title, tuple(rows)) for title, rows in groups.items() if rows]
    known = provenance.get("versions")
    versions = _versions(known if isinstance(known, Mapping) else {})
    parts.append(Record("This report", (*settings.items(), *versions)))
    return tuple(parts)


def _heading(text: object) -> str:
    return as_label(str(text))


def _method_rows(assessed: Assessed, sets: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    predictions = assessed.method.predictions
    unlabelled = assessed.scores.n - assessed.scores.n_labelled
    classes = [as_label(name) for name in predictions.classes]
    name = clean(assessed.method.name)
    rows = [] if name == assessed.label else [("name", name)]
    rows += [
        ("predictions", origin(assessed.method.source)),
        ("examples", f"{assessed.scores.n:,}, of which {unlabelled:,} unlabelled"),
        ("classes", f"{len(classes)}: {listed(classes, MOST_CLASSES)}"),
    ]
    if assessed.scores.nll_clamped:
        cut = counted(assessed.scores.nll_clamped, "example")
        rows.append(("NLL cut off", f"{cut} with a probability of the label under 1e-12"))
    rows += [
        (_heading(key.replace("_", " ")), clean(value))
        for key, value in predictions.metadata.items()
        if key not in TOLD
    ]
    rows += [
        (
            f"out of distribution: {sets[name]}",
            f"{counted(len(source.predictions), 'example')}, {origin(source)}",
        )
        for name, source in assessed.method.ood.items()
    ]
    return tuple(rows)


def _versions(known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the versions in use, without those in `known`."""
    versions = [
        ("bayeslora", __version__),
        ("Python", platform.python_version()),
        ("platform", f"{platform.system()} {platform.machine()}"),
    ]
    for package in PACKAGES:
        try:
            versions.append((package, version(package)))
        except PackageNotFoundError:
            continue
    recorded = {(name.lower(), number) for name, number in known.items()}
    return [(name, number) for name, number in versions if (name.lower(), number) not in recorded]
