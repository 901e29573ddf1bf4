"""What was run: a card for each method, and data, sizes, versions, seeds and command.

Cards come from the metadata of the predictions. Files of other tools have none, and their cards say
so rather than guess. Hashes identify the inputs, and where all are files a call or command makes
the report again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bayeslora._version import __version__
from bayeslora.conformal.config import CONFORMAL
from bayeslora.files import STDIN, shown_path
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.predictions.collection import Method, Source
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.config import RECALIBRATORS
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.text import brief, classes_of, listed

LINK_WORDS = {
    "mc": "softmax of draws of the logits, averaged",
    "softmax": "softmax of each pass, averaged",
    "probit": "probit approximation of the mean of softmax",
    "bridge": "Laplace bridge to a Dirichlet",
}
"""How logits with a distribution become probabilities, in words."""

LONGEST_SUMMARY, LONGEST_SOURCES = 160, 400
"""Widest texts of a summary and of sources, in columns of a terminal."""

TOLD = frozenset({"adapter_summary", "posterior_summary", "sources"})
"""Metadata that stand on the cards alone."""

UNKNOWN = "Its file does not say how it was made; everything here is judged by its probabilities."


@dataclass(frozen=True)
class Record:
    """Facts about a method or a run, plain text.

    Attributes:
        title: What they are about.
        rows: Names and values.
        summary: The same in a sentence, or empty.
    """

    title: str
    rows: tuple[tuple[str, str], ...]
    summary: str = ""


def method_cards(methods: Sequence[Assessed]) -> tuple[Record, ...]:
    """Return what is known of every method, in order."""
    return tuple(_card(one) for one in methods)


def _card(one: Assessed) -> Record:
    notes = one.method.predictions.metadata
    parts = [
        _described(notes[key], notes.get(f"{key}_summary", ""))
        for key in ("adapter", "posterior")
        if key in notes
    ]
    summary = " with ".join(parts) if notes else UNKNOWN
    unlabelled = one.scores.n - one.scores.n_labelled
    without = f", {unlabelled:,} of them without a label" if unlabelled else ""
    size = f"{counted(one.scores.n, 'example')} of {classes_of(one.scores)}{without}"
    return Record(one.label, (*_rows(notes), ("scored on", size)), summary)


def _rows(notes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if share := notes.get("prior_share"):
        yield (
            "prior",
            f"{brief(share)} of the logits is the language model's own answer",
        )
    if link := notes.get("link"):
        yield "from logits to probabilities", LINK_WORDS.get(link, brief(link))
    if draws := notes.get("num_samples"):
        count = _whole(draws)
        yield "draws", brief(draws) if count is None else f"{count:,}"
    if passes := notes.get("passes"):
        yield "passes of the adapted layers", brief(passes)
    if before := notes.get("recalibration_before"):
        yield "recalibrated before", brief(before)
    yield from _later(notes, "recalibration", RECALIBRATORS, "recalibrated")
    yield from _later(notes, "conformal", CONFORMAL, "prediction sets")
    seeds = {"fit": notes.get("fit_seed"), "prediction": notes.get("seed")}
    known = [f"{name} {brief(seed)}" for name, seed in seeds.items() if seed]
    if known:
        yield "seeds", ", ".join(known)
    yield from _sources(notes)


def _later(
    notes: Mapping[str, str], key: str, registry: Mapping[str, Any], title: str
) -> Iterator[tuple[str, str]]:
    """Return what was fitted to the predictions afterwards, and to how many rows."""
    if key in notes:
        rows = _whole(notes.get(f"{key}_rows", ""))
        fitted = "" if rows is None else f"; fitted to {counted(rows, 'example')}"
        alpha = notes.get("conformal_alpha", "") if key == "conformal" else ""
        meant = f"; at most a share of {brief(alpha)} missed" if alpha else ""
        known = getattr(registry.get(notes[key]), "summary", "")
        yield title, f"{_described(notes[key], known)}{meant}{fitted}"


def _sources(notes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    later = {"recalibration": RECALIBRATORS, "conformal": CONFORMAL}
    found = [registry.get(notes.get(key, "")) for key, registry in later.items()]
    known = [shorten(clean(notes["sources"]), LONGEST_SOURCES)] if notes.get("sources") else []
    known += [one.source for one in found if one is not None]
    sources = list(filter(None, known))
    if sources:
        yield "sources", "; ".join(sources)


def _described(name: str, summary: str) -> str:
    shown = shorten(clean(summary), LONGEST_SUMMARY) if summary else ""
    return f"{brief(name)} ({shown})" if shown else brief(name)


def _whole(text: str) -> int | None:
    """Return a whole number that a tool may have noted; None for anything else."""
    return int(text) if text.isdecimal() and len(text) <= 12 else None


def content_hash(predictions: Predictions) -> str:
    """Return SHA-256, in hexadecimal, of what scores depend on: the same on every machine.

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
    """Return where predictions are from, with their hash."""
    if source.path is None:
        return f"in memory (SHA-256 of the content {content_hash(source.predictions)})"
    return f"{clean(shown_path(source.path))} (SHA-256 {source.sha256})"


def python_call(methods: Sequence[Method], **options: object) -> str:
    """Return the call of `report` that makes a report again; empty where not all is in files.

    Args:
        methods: What was gathered.
        **options: Of the call; those that are None are left out.
    """
    sources = [one.source for one in methods]
    sources += [source for one in methods for source in one.ood.values()]
    if any(source.path is None or shown_path(source.path) == STDIN for source in sources):
        return ""
    files = [str(one.source.path) for one in methods]
    sets: dict[str, Mapping[str, str]] = {
        one.label: {name: str(source.path) for name, source in one.ood.items()}
        for one in methods
        if one.ood
    }
    words = [repr(files), f"ood={sets!r}" if sets else ""]
    words += [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return f"bayeslora.report({', '.join(filter(None, words))})"


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
"""The fact about the run that is shown first."""

MOST_CLASSES = 40
"""Class names that are written out."""


def run_line(provenance: Provenance, settings: Mapping[str, str]) -> str:
    """Return the run in one line: its command where that is known, version and settings."""
    command = provenance.get(COMMAND)
    first = [shorten(clean(command), 100)] if isinstance(command, str) else []
    last = [settings["intervals"]] if "intervals" in settings else []
    return " · ".join([*first, f"bayeslora {__version__}", *last])


def run_record(
    methods: Sequence[Assessed],
    sets: Mapping[str, str],
    provenance: Provenance,
    settings: Mapping[str, str],
) -> tuple[Record, ...]:
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
        command = str(facts[COMMAND])
        shown = command if command.isprintable() else clean(command)
        plain.insert(0, ("command to repeat it", shown))
    parts = [Record("The run", tuple(plain))] if plain else []
    parts += [
        Record(_heading(key), tuple((_heading(k), clean(str(v))) for k, v in value.items()))
        for key, value in provenance.items()
        if isinstance(value, Mapping)
    ]
    parts += _method_parts(methods, sets)
    known = provenance.get("versions")
    versions = _versions(known if isinstance(known, Mapping) else {})
    parts.append(Record("This report", (*settings.items(), *versions)))
    return tuple(parts)


def _heading(text: object) -> str:
    return shorten(clean(str(text)))


def _method_parts(methods: Sequence[Assessed], sets: Mapping[str, str]) -> list[Record]:
    """Return a part for every method, and before them one for what they have in common."""
    every = [_method_rows(one, sets) for one in methods]
    same = set.intersection(*map(set, every)) if len(every) > 1 else set()
    common = tuple(row for row in every[0] if row in same)
    parts = [Record("All methods", common)] if common else []
    for one, rows in zip(methods, every, strict=True):
        own = tuple(row for row in rows if row not in same)
        if own:
            parts.append(Record(f"Method: {one.label}", own))
    return parts


def _method_rows(one: Assessed, sets: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    predictions = one.method.predictions
    unlabelled = one.scores.n - one.scores.n_labelled
    name = clean(one.method.name)
    rows = [] if name == one.label else [("name", name)]
    rows += [
        ("predictions", origin(one.method.source)),
        ("examples", f"{one.scores.n:,}, of which {unlabelled:,} unlabelled"),
        ("classes", _classes(predictions.classes)),
    ]
    if one.scores.nll_clamped:
        cut = counted(one.scores.nll_clamped, "example")
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
