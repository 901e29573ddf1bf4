"""Predictions as function arguments: one set, or several methods with their OOD sets.

Each is a record, a predictions file, or a data frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import shown_path
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.files import further_columns, read_notes
from bayeslora.predictions.in_memory import is_frame
from bayeslora.predictions.names import (
    Called,
    by_number,
    called_like,
    file_labels,
    names_of,
    under_label,
    unique_labels,
)
from bayeslora.predictions.record import Predictions

PredictionsLike = Predictions | str | Path | Any
"""Predictions, the path of a file, or a data frame; `as_predictions` refuses everything else."""


def is_single(predictions: object) -> bool:
    """Return whether `predictions` is a single set rather than a sequence of sets."""
    return isinstance(predictions, Predictions | str | Path) or is_frame(predictions)


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
        return Predictions.read(predictions, columns=tuple(dict.fromkeys(columns)), reading=reading)
    return Predictions.from_frame(predictions)


EXAMPLE_COLUMN = "text"
"""The default further column for the texts of rows."""

QUESTION_COLUMNS = ("question", "context", "choices")
"""The further columns for questions and their options (a JSON list)."""

OodLike = Mapping[str, PredictionsLike | Mapping[str, PredictionsLike]]
"""Set name -> predictions, or method name -> set name -> predictions."""


@dataclass(frozen=True)
class Source:
    """Predictions and where they came from.

    Attributes:
        predictions: The record.
        path: The file it was read from; None for an object in memory.
        sha256: Hash of that file in hexadecimal; empty for an object in memory.
        reading: How the file was read.
    """

    predictions: Predictions
    path: Path | None = None
    sha256: str = ""
    reading: PredictionsReading = AS_WRITTEN


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
    ood: Mapping[str, Source]
    group: str = ""
    seed: str = ""

    @property
    def predictions(self) -> Predictions:
        """The predictions on the evaluation rows."""
        return self.source.predictions

    @property
    def file(self) -> str:
        """Displayed path of the predictions file; empty for an object in memory."""
        return "" if self.source.path is None else shown_path(self.source.path)


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
    sources = [load_source(item, columns, needed, reading) for item in inputs]
    names = names_of([source.predictions for source in sources])
    namings = called_like(
        [source.predictions for source in sources], [source.path for source in sources]
    )
    labels = [naming.label for naming in namings]
    load = partial(load_source, optional=(*columns, *needed), reading=reading)
    outside = _by_method(names, labels, ood or {}, load)
    return [
        Method(naming.label, name, source, sets, naming.group, naming.seed)
        for naming, name, source, sets in zip(namings, names, sources, outside, strict=True)
    ]


def paths_in(items: PredictionsLike | Sequence[PredictionsLike], ood: OodLike) -> list[Path]:
    """Return the paths among the arguments of `gather`."""
    inputs: list[object] = as_list(items)
    for value in ood.values():
        inputs += value.values() if isinstance(value, Mapping) else [value]
    return [Path(path) for path in inputs if isinstance(path, str | Path)]


def labels_of(
    paths: Sequence[str | Path], reading: PredictionsReading = AS_WRITTEN
) -> list[tuple[str, str]]:
    """Return the label and the name that `gather` would assign to files, without reading rows.

    Raises:
        InputError: A file is missing, unreadable, or not a predictions file.
    """
    notes = [read_notes(path, reading) for path in paths]
    return list(zip(file_labels(notes, paths), [name for name, _ in notes], strict=True))


def by_group(methods: Sequence[Method]) -> dict[str, list[Method]]:
    """Return the fits of each method by group, sorted by seed; groups in order of appearance."""
    groups: dict[str, list[Method]] = {}
    for method in methods:
        groups.setdefault(method.group, []).append(method)
    return {
        group: sorted(seeds, key=lambda method: by_number(method.seed))
        for group, seeds in groups.items()
    }


def named_predictions(method: Method, *, over_seeds: bool) -> Predictions:
    """Return a method's predictions, named for a comparison; see `under_label`."""
    called = Called(method.label, method.group, method.seed)
    return under_label(method.predictions, called, over_seeds=over_seeds)


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
        return Source(as_predictions(item))
    path = Path(item)
    present = (
        [name for name in further_columns(path, reading) if name in optional] if optional else []
    )
    columns = list(dict.fromkeys([*needed, *present]))
    predictions = Predictions.read(path, columns=columns, reading=reading)
    with path.open("rb") as stream:
        return Source(predictions, path, hashlib.file_digest(stream, "sha256").hexdigest(), reading)


def check_column(methods: Sequence[Method], column: str) -> None:
    """Raise InputError if no method has a further column.

    Raises:
        InputError: No method has it; the message lists the available columns.
    """
    if any(column in method.predictions.columns for method in methods):
        return
    known = {
        name
        for method in methods
        for name in (
            method.predictions.columns
            if method.source.path is None
            else further_columns(method.source.path, method.source.reading)
        )
    }
    if not known:
        raise InputError(f"example column {column!r}: the predictions have no further columns")
    raise unknown_choice("example column", column, known)


def ood_names(methods: Sequence[Method]) -> dict[str, str]:
    """Return the label of every out-of-distribution set, in order of first appearance."""
    names = list(dict.fromkeys(name for method in methods for name in method.ood))
    return dict(zip(names, unique_labels(names), strict=True))


def _by_method(
    names: Sequence[str],
    labels: Sequence[str],
    ood: OodLike,
    load: Callable[[PredictionsLike], Source],
) -> list[dict[str, Source]]:
    nested = [isinstance(value, Mapping) for value in ood.values()]
    if not any(nested):
        if ood and len(names) > 1:
            raise InputError(
                f"ood set {next(iter(ood))!r}: state which of the {len(names)} methods made its "
                f"predictions, as {{method: {{set: predictions}}}} (--ood METHOD:SET=FILE)"
            )
        return [_load_sets(ood, load) for _ in names]
    if not all(nested):
        raise InputError("ood mixes sets by name with sets by method; use {method: {set: …}}")
    for key in ood:
        if key in labels:
            continue
        if key not in names:
            raise unknown_choice("method in ood", key, {*names, *labels})
        if names.count(key) > 1:
            same = [label for label, name in zip(labels, names, strict=True) if name == key]
            raise InputError(f"ood key {key!r} is ambiguous; choose from {same}")
    return [
        _load_sets(ood.get(label, ood.get(name, {})), load)
        for label, name in zip(labels, names, strict=True)
    ]


def _load_sets(sets: object, load: Callable[[PredictionsLike], Source]) -> dict[str, Source]:
    if not isinstance(sets, Mapping):
        return {}
    return {str(name): load(item) for name, item in sets.items()}
