"""Predictions as function arguments: one set, or several methods with their OOD sets.

Each is a record, a predictions file, or a data frame. A method may have several fits, which differ
only in their random numbers: its seeds.

Predictions are grouped as seeds of one method if they have the same method name, classes, number of
rows, `fit_options` and recalibration in the metadata (or none), and distinct seeds. `fit_options`
is a hash of everything that determines the fit except the seed. The seed is `fit_seed` in the
metadata; else the one at the end of the file's name, such as `lora-seed-1.csv`; else `seed` in the
metadata, which is often only that of the draws.

Methods that share a name are distinguished by their seed or the location of their file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import clean, listed, shorten
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading, in_model, open_columns
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)

PredictionsLike = Predictions | str | Path | Any
"""Predictions, the path of a file, or a data frame; `as_predictions` refuses everything else."""

OodLike = Mapping[str, PredictionsLike | Mapping[str, PredictionsLike]]
"""Set name -> predictions, or method name -> set name -> predictions."""

EXAMPLE_COLUMN = "text"
"""The default further column for the texts of rows."""

QUESTION_COLUMNS = ("question", "context", "choices")
"""The further columns for questions and their options (a JSON list)."""

QUESTION_FORMAT = "question_format"
"""Key in the metadata: how questions were answered, by `options` or by `letters`."""

_TELLING = ("fit_options", "recalibration_before", "recalibration")
_SEED = re.compile(r"(?P<name>.+?)[-_. ]*seed[-_ ]*(?P<seed>\d+)", re.IGNORECASE)


def is_single(predictions: object) -> bool:
    """Return whether `predictions` is a single set rather than a sequence of sets."""
    is_frame = hasattr(predictions, "__arrow_c_stream__")
    return is_frame or isinstance(predictions, Predictions | str | Path)


def as_list(predictions: Any) -> list[PredictionsLike]:
    """Return a single set of predictions, or a sequence of sets, as a list."""
    return [predictions] if is_single(predictions) else list(predictions)


def as_predictions(
    predictions: PredictionsLike,
    columns: Sequence[str] = (),
    reading: PredictionsReading = AS_WRITTEN,
) -> Predictions:
    """Return a `Predictions` record, read from a file or made from a data frame if needed.

    Args:
        predictions: A record, the path of a file, or a data frame (see `Predictions.from_frame`).
        columns: Further columns to keep from a file; a data frame keeps all.
        reading: How to read a file in another format than this package writes.

    Raises:
        InputError: `predictions` is something else, or a value in it is wrong.
    """
    if isinstance(predictions, Predictions):
        return predictions
    if isinstance(predictions, str | Path):
        return Predictions.read(predictions, columns=columns, reading=reading)
    return Predictions.from_frame(
        predictions,
        label_column=reading.label_column,
        probability_columns=reading.probability_columns,
        renormalise=reading.renormalise,
    )


@dataclass(frozen=True)
class Source:
    """Predictions and where they came from.

    Attributes:
        predictions: The record.
        path: The file it was read from; None for an object in memory.
        sha256: Hash of that file in hexadecimal; empty for an object in memory.
        further: Further columns that could be kept.
    """

    predictions: Predictions
    path: Path | None = None
    sha256: str = ""
    further: Sequence[str] = ()


@dataclass(frozen=True)
class Method:
    """One method of a report.

    Attributes:
        label: Short, distinct name for tables and figures.
        name: The original name.
        source: Predictions on the evaluation rows.
        ood: Out-of-distribution sets by name.
        group: The method's name without its seed, shared by all its seeds; the label for a method
            with a single fit.
        seed: Its seed within the group; empty if unknown.
    """

    label: str
    name: str
    source: Source
    ood: Mapping[str, Source] = field(default_factory=dict)
    group: str = ""
    seed: str = ""

    @property
    def predictions(self) -> Predictions:
        """The predictions on the evaluation rows."""
        return self.source.predictions

    @property
    def file(self) -> str:
        """Displayed path of the predictions file; empty for an object in memory."""
        return "" if self.source.path is None else str(self.source.path)


def gather(
    items: PredictionsLike | Sequence[PredictionsLike],
    ood: OodLike | None = None,
    *,
    columns: Sequence[str] = (),
    needed: Sequence[str] = (),
    reading: PredictionsReading = AS_WRITTEN,
) -> list[Method]:
    """Load everything that a report needs, in the order given.

    Args:
        items: Predictions or paths, one for each method or seed; a single one is allowed.
        ood: Out-of-distribution sets; where there are several items, by method: its name, or its
            label such as `polar (seed 1)` where several items share the name.
        columns: Optional further columns, kept from files that have them.
        needed: Further columns required in every method's file; optional in OOD sets.
        reading: How to read files in another format than this package writes.

    Raises:
        InputError: There is nothing to report, a file is wrong, a set names an unknown method, or
            the method of a set is ambiguous.
    """
    inputs = as_list(items)
    if not inputs:
        raise InputError("a report needs at least one set of predictions, got none")
    methods = _methods([load_source(item, columns, needed, reading) for item in inputs])
    for method in methods:
        warn_unlabelled(method.source)
    # Out-of-distribution rows need no labels.
    outside_reading = replace(reading, label_column=None)
    load = partial(load_source, optional=(*columns, *needed), reading=outside_reading)
    outside = _by_method(methods, ood or {}, load)
    return [replace(method, ood=sets) for method, sets in zip(methods, outside, strict=True)]


def warn_unlabelled(source: Source) -> None:
    """Say which columns may be the labels of predictions without any."""
    if source.predictions.labels is None and source.further:
        logger.warning(
            "%s: no row has a label; if the labels are in another column (%s), name it with "
            "label_column (--label-column)",
            source.path or source.predictions.name or "predictions",
            listed(source.further),
        )


def load_source(
    item: PredictionsLike,
    optional: Sequence[str] = (),
    needed: Sequence[str] = (),
    reading: PredictionsReading = AS_WRITTEN,
) -> Source:
    """Return predictions with the hash of their file.

    Args:
        item: Predictions, a path or a data frame.
        optional: Further columns to keep from a file that has them.
        needed: Further columns that a file must have.
        reading: How to read a file in another format than this package writes.

    Raises:
        InputError: `item` is none of the three, or its file cannot be read.
    """
    if not isinstance(item, str | Path):
        predictions = as_predictions(item, reading=reading)
        return Source(predictions, further=[*predictions.columns])
    path = in_model(item)
    further = open_columns(path, reading).further
    columns = dict.fromkeys([*needed, *(name for name in further if name in optional)])
    predictions = Predictions.read(item, columns=[*columns], reading=reading)
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return Source(predictions, path, sha256, further)


def _by_method(
    methods: Sequence[Method], ood: OodLike, load: Callable[[PredictionsLike], Source]
) -> list[dict[str, Source]]:
    """Return the out-of-distribution sets of each method."""
    if not any(isinstance(value, Mapping) for value in ood.values()):
        if ood and len(methods) > 1:
            raise InputError(
                f"ood set {next(iter(ood))!r}: state which of the {len(methods)} methods made its "
                "predictions, as {method: {set: predictions}} (--ood METHOD:SET=FILE)"
            )
        return [{str(name): load(item) for name, item in ood.items()} for _ in methods]
    outside: list[dict[str, Source]] = [{} for _ in methods]
    for key, sets in ood.items():
        if not isinstance(sets, Mapping):
            raise InputError("ood mixes sets by name with sets by method; use {method: {set: …}}")
        same = [k for k, method in enumerate(methods) if key == method.label] or [
            k for k, method in enumerate(methods) if key == method.name
        ]
        if len(same) > 1:
            choices = [methods[k].label for k in same]
            raise InputError(f"ood key {key!r} is ambiguous; choose from {choices}")
        if not same:
            allowed = {name for method in methods for name in (method.label, method.name)}
            raise unknown_choice("method", key, allowed).within("ood (--ood)")
        outside[same[0]] |= {str(name): load(item) for name, item in sets.items()}
    return outside


def paths_in(items: PredictionsLike | Sequence[PredictionsLike], ood: OodLike) -> list[Path]:
    """Return the paths among the arguments of `gather`."""
    inputs: list[object] = as_list(items)
    for value in ood.values():
        inputs += value.values() if isinstance(value, Mapping) else [value]
    return [Path(path) for path in inputs if isinstance(path, str | Path)]


def labels_of(
    items: Sequence[Predictions | Path], reading: PredictionsReading = AS_WRITTEN
) -> list[str]:
    """Return the labels that `gather` would assign to predictions, without reading rows of files.

    Raises:
        InputError: A file is missing, unreadable, or not a predictions file.
    """
    fits: list[tuple[str, Mapping[str, str], Path | None]] = []
    for item in items:
        if isinstance(item, Predictions):
            fits.append((item.name, item.metadata, None))
        else:
            opened = open_columns(item, reading)
            fits.append((opened.title, opened.notes, item))
    names, notes, paths = zip(*fits, strict=True)
    seeds = [seed_of("", about, path)[1] for about, path in zip(notes, paths, strict=True)]
    return _labels(names, seeds, paths)[0]


def by_group(methods: Sequence[Method]) -> dict[str, list[Method]]:
    """Return the fits of each method by group, sorted by seed; groups in order of appearance."""
    groups: dict[str, list[Method]] = {}
    for method in methods:
        groups.setdefault(method.group, []).append(method)
    for same in groups.values():
        same.sort(key=lambda method: _by_number(method.seed))
    return groups


def named_predictions(method: Method, *, over_seeds: bool) -> Predictions:
    """Return a method's predictions, named for a comparison.

    Args:
        method: The method.
        over_seeds: Whether they are pooled with the other seeds of their group: if so, they get the
            group's name, and their seed in the metadata.
    """
    item = method.predictions
    if not over_seeds or method.group == method.label:
        return item.replace(name=method.label)
    return item.replace(name=method.group, metadata={**item.metadata, "fit_seed": method.seed})


def check_column(methods: Sequence[Method], column: str) -> None:
    """Raise InputError if no method has a further column.

    Raises:
        InputError: No method has it; the message lists the available columns.
    """
    known = {name for method in methods for name in method.source.further}
    if column not in known:
        raise unknown_choice("example column", column, known)


def ood_names(methods: Sequence[Method]) -> dict[str, str]:
    """Return the label of every out-of-distribution set, in order of first appearance."""
    names = list(dict.fromkeys(name for method in methods for name in method.ood))
    return dict(zip(names, unique_labels(names), strict=True))


@dataclass(frozen=True)
class Seeds:
    """The seeds of one method; for a method with a single fit, that fit.

    Attributes:
        name: Name of the method.
        members: Indices of the predictions, by increasing seed.
        seeds: The seed of each member; empty if unknown.
    """

    name: str
    members: tuple[int, ...]
    seeds: tuple[str, ...]


def seed_of(
    name: str, metadata: Mapping[str, str], path: str | Path | None = None
) -> tuple[str, str]:
    """Return the name of the method and the seed; an empty seed if unknown.

    Args:
        name: Name of the predictions.
        metadata: Metadata of the predictions.
        path: The file they were read from, if any.
    """
    if "fit_seed" in metadata:
        return name, metadata["fit_seed"]
    stem = "" if path is None else Path(path).stem
    if match := _SEED.fullmatch(stem):
        return (match["name"] if name == stem else name), match["seed"]
    return name, metadata.get("seed", "")


def _by_number(seed: str) -> tuple[int, str]:
    """Return a sort key that orders numeric seeds as numbers."""
    return (int(seed) if seed.isdecimal() else 0, seed)


def group_seeds(
    items: Sequence[Predictions], paths: Sequence[str | Path | None] | None = None
) -> list[Seeds]:
    """Group the seeds of each method, in order of first appearance; every item is in one group.

    Items with the same seed, or without a seed, are never grouped: they may be the same fit twice,
    or two methods that share a name.

    Args:
        items: Predictions of one or more methods.
        paths: The file of each, None for an object in memory.
    """
    by_key: dict[tuple[Any, ...], list[tuple[str, int]]] = {}
    for index, (item, path) in enumerate(zip(items, paths or [None] * len(items), strict=True)):
        name, seed = seed_of(item.name, item.metadata, path)
        notes = [item.metadata.get(note, "") for note in _TELLING]
        key = (name, frozenset(item.classes), len(item), *notes)
        by_key.setdefault(key, []).append((seed, index))
    groups = []
    for (name, *_), fits in by_key.items():
        seeds = {seed for seed, _ in fits}
        is_one_method = "" not in seeds and len(seeds) == len(fits)
        for same in [fits] if is_one_method else [[fit] for fit in fits]:
            rising = sorted(same, key=lambda fit: _by_number(fit[0]))
            members = tuple(index for _, index in rising)
            groups.append(Seeds(name, members, tuple(seed for seed, _ in rising)))
    return sorted(groups, key=lambda group: min(group.members))


def _methods(sources: Sequence[Source]) -> list[Method]:
    """Return sources as methods, with distinct labels and groups."""
    records = [source.predictions for source in sources]
    paths = [source.path for source in sources]
    names = [record.name or f"method {number}" for number, record in enumerate(records, 1)]
    seeds = [seed_of("", r.metadata, path)[1] for r, path in zip(records, paths, strict=True)]
    labels, places = _labels(names, seeds, paths)
    groups = group_seeds(records, paths)
    groups.sort(key=lambda group: len(group.members))  # single fits keep their label
    called = []
    for group in groups:
        first = group.members[0]
        several = len(group.members) > 1
        called.append(_marked(group.name, places[first]) if several else labels[first])
    group_of = {
        index: name
        for group, name in zip(groups, unique_labels(called), strict=True)
        for index in group.members
    }
    return [
        Method(labels[k], names[k], source, group=group_of[k], seed=seeds[k])
        for k, source in enumerate(sources)
    ]


def _labels(
    names: Sequence[str], seeds: Sequence[str], paths: Sequence[str | Path | None]
) -> tuple[list[str], list[str]]:
    """Return distinct labels of fits, and where fits with equal name and seed part in their paths.

    A label is a name; if several fits share it, with that place and the seed as far as they differ.
    """
    files = [None if path is None else Path(path).absolute().with_suffix("") for path in paths]
    fits = list(zip(names, seeds, files, strict=True))
    labels, places = [], []
    for name, seed, file in fits:
        twins = [other for *key, other in fits if other and key == [name, seed]]
        rest = file.relative_to(os.path.commonpath(twins)).parts if file else ()
        places.append(rest[0] if rest else "")
        differ = len({other for same, other, _ in fits if same == name}) > 1
        labels.append(_marked(name, places[-1], f"seed {seed}" if seed and differ else ""))
    return unique_labels(labels), places


def _marked(name: str, *marks: str) -> str:
    present = ", ".join(filter(None, marks))
    return f"{name} ({present})" if present else name


def unique_labels(names: Sequence[str]) -> list[str]:
    """Return one short, distinct label for each name; those that are still equal are numbered."""
    cleaned = [clean(name) for name in names]
    cut_alike = Counter(map(shorten, set(cleaned)))
    unique: list[str] = []
    for name in cleaned:
        label = candidate = shorten(name, middle=cut_alike[shorten(name)] > 1)
        count = 2
        while candidate in unique:
            candidate, count = f"{label} ({count})", count + 1
        unique.append(candidate)
    return unique
