"""Texts, or questions with options, with their labels, and how labels become class indices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.plain_text import listed, shown

Label = str | int | None

LETTERS = "ABCDEFGHIJKLMNOPQRST"
"""What the options of a question are called, in order; a question has at most 20."""


@dataclass(frozen=True)
class Examples:
    """N texts to classify, or questions to answer, with what messages need to point at one.

    Attributes:
        ids: A distinct name for every example.
        texts: The texts, or the questions; never blank.
        pairs: A second text for every example, or None where the task has one text. Of questions,
            the context: empty where a question has none, None where no question has one.
        labels: The labels as in the data; None where an example is unlabelled. Of questions, the
            letter of the right option: `A` for the first.
        rows: The row of every example, counted from 1. In a text file it is the line on which
            the example begins, as an editor shows it.
        source: The path of the file, or `<list>` and the like for data in memory.
        label_column: The name of the column that held the labels.
        further: Other columns that were asked for, as texts; None where a row has no value.
        choices: The options of every question, 2 to 20 different texts; None for texts to classify.
        history: The items that came before, for every question about the next item; else None.
        groups: Rows of one group belong together, such as twins that differ in a word, and stay on
            one side of a split; None where every row stands alone.
        dropped: How many rows of the source were left out, by reason.
        images: Whether the texts are paths of images, which are what is classified.
        among: Which of the classes each row can be of, in their order: those of its task, where
            there are several; None where all, and of questions.
        columns: The columns that a description of the data named, as a model's record holds them;
            None where none did.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[Label, ...]
    rows: tuple[int, ...]
    source: str
    label_column: str = "label"
    further: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    choices: tuple[tuple[str, ...], ...] | None = None
    history: tuple[tuple[str, ...], ...] | None = None
    groups: tuple[str, ...] | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    images: bool = False
    among: tuple[tuple[bool, ...], ...] | None = None
    columns: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        sizes = {
            "ids": len(self.ids),
            "pairs": len(self.texts if self.pairs is None else self.pairs),
            "labels": len(self.labels),
            "rows": len(self.rows),
            "choices": len(self.texts if self.choices is None else self.choices),
            "histories": len(self.texts if self.history is None else self.history),
            "groups": len(self.texts if self.groups is None else self.groups),
            "sets of classes": len(self.texts if self.among is None else self.among),
            **{f"values of {name!r}": len(values) for name, values in self.further.items()},
        }
        for name, size in sizes.items():
            if size != len(self.texts):
                raise ValueError(f"{len(self.texts)} texts but {size} {name}")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def duplicates(self) -> int:
        """The number of examples that repeat an earlier one in input and label."""
        return len(self) - len(set(_keys(self)))

    def num_shared(self, others: Examples) -> int:
        """Return the number of examples whose input one of `others` has too.

        The input is the text, the second text and the options: a question with other options, or
        with the same ones in another order, is another question.
        """
        known = set(_inputs(others))
        return sum(one in known for one in _inputs(self))

    @property
    def num_texts(self) -> int:
        """The number of different inputs."""
        return len(set(_inputs(self)))

    @property
    def input_numbers(self) -> NDArray[np.int64]:
        """[N] numbers that are equal where inputs are."""
        known: dict[Hashable, int] = {}
        return np.array([known.setdefault(key, len(known)) for key in _inputs(self)])

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Examples:
        """Return the examples at `indices` (from 0), in that order."""
        picked = [int(index) for index in indices]

        def pick(values: tuple[Any, ...] | None) -> Any:
            return None if values is None else tuple(values[i] for i in picked)

        return replace(
            self,
            **{name: pick(getattr(self, name)) for name in _BY_ROW},
            further={name: pick(values) for name, values in self.further.items()},
        )

    def strata(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what random parts of the rows keep in proportion: the labels, but no letters.

        Args:
            labels: [N] class indices.
        """
        return labels if self.choices is None else np.zeros_like(labels)

    def available(self, num_options: int | None = None) -> NDArray[np.bool_] | None:
        """Return [N, C], which classes or options each row can be of; None where all.

        Args:
            num_options: Of questions: C, at least that of any row; None for the most of a row.
        """
        if self.among is not None:
            return np.array(self.among, dtype=np.bool_)
        if self.choices is None:
            return None
        counts = np.array([len(row) for row in self.choices])
        return np.asarray(np.arange(num_options or counts.max(initial=0)) < counts[:, None])


class DataHash:
    """A hash of what decides a fit, from pieces: inputs, labels, classes and groups, in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._is_begun = False

    def add(self, examples: Examples) -> None:
        """Take in a piece."""
        pairs = examples.pairs or [None] * len(examples)
        fields: list[Sequence[Any]] = [examples.texts, pairs, examples.labels]
        # What no row has is left out, so that the hash of texts stays that of earlier versions.
        for name in ("choices", "history", "groups", "among"):
            if (values := getattr(examples, name)) is not None:
                fields.append(values)
                if not self._is_begun:
                    self._digest.update(name.encode())
        self._is_begun = True
        for part in zip(*fields, strict=True):
            self._digest.update(json.dumps(part, ensure_ascii=False).encode())

    @property
    def value(self) -> str:
        """The hash of all pieces, 32 hexadecimal digits."""
        return self._digest.hexdigest()[:32]


def data_hash(examples: Examples) -> str:
    """Return the `DataHash` of rows."""
    digest = DataHash()
    digest.add(examples)
    return digest.value


def dropped_by_split(**splits: Examples | None) -> dict[str, dict[str, int]]:
    """Return `Examples.dropped` of each split that lacks rows, by its name."""
    return {name: dict(rows.dropped) for name, rows in splits.items() if rows and rows.dropped}


_BY_ROW = ("ids", "texts", "pairs", "labels", "rows", "choices", "history", "groups", "among")


def joined(parts: Sequence[Examples]) -> Examples:
    """Return examples of one source, one part after another; there is at least one."""
    first = parts[0]

    def column(name: str) -> Any:
        return None if getattr(first, name) is None else _chain(getattr(p, name) for p in parts)

    return replace(
        first,
        **{name: column(name) for name in _BY_ROW},
        further={name: _chain(part.further[name] for part in parts) for name in first.further},
    )


def _chain(parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(parts))


def is_numbered(labels: Iterable[Label]) -> bool:
    """Return whether all labels are whole numbers from 0; rows without a label do not count."""
    return all(label is None or str(label).isdecimal() for label in labels)


def class_names(examples: Examples) -> tuple[str, ...]:
    """Return the classes that occur: sorted strings, or integers in numeric order as strings.

    Unlabelled examples are passed over. Of questions, the classes are the letters of all options.

    Raises:
        InputError: No example is labelled, all have the same label, or some labels are strings
            and others integers.
    """
    if examples.choices is not None:
        return tuple(LETTERS[: max(map(len, examples.choices))])
    where = f"{examples.source}, column {examples.label_column!r}"
    found = {label for label in examples.labels if label is not None}
    integers = sorted(label for label in found if isinstance(label, int))
    strings = sorted(label for label in found if isinstance(label, str))
    if not found:
        raise InputError(f"{where}: no row has a label; training needs labels of two classes")
    if integers and strings:
        number, string = (examples.labels.index(value) for value in (integers[0], strings[0]))
        raise InputError(
            f"{where}: row {examples.rows[number]} has the integer {integers[0]} and row "
            f"{examples.rows[string]} the string {strings[0]!r}; use one kind of label throughout"
        )
    if len(found) == 1:
        raise InputError(
            f"{where}: all {len(examples)} rows have the label {found.pop()!r}; "
            "training needs at least two classes"
        )
    return tuple(map(str, integers)) if integers else tuple(strings)


def encode_labels(
    examples: Examples,
    classes: Sequence[str],
    *,
    unknown: Literal["error", "ood"] = "error",
    advice: str = "",
) -> NDArray[np.int64]:
    """Return the index of every example's label among `classes`.

    Args:
        examples: N examples.
        classes: The names of the classes; an integer label matches its decimal form.
        unknown: What to do with a label that is not among `classes`: raise, or give it -1 so
            that the example counts as out of distribution.
        advice: What the error says at its end.

    Returns:
        [N] int64; -1 where an example is unlabelled, or its label unknown under `ood`.

    Raises:
        InputError: A label is not among `classes` and `unknown` is `error`.
    """
    if unknown not in {"error", "ood"}:
        raise InputError(f"unknown must be 'error' or 'ood', got {unknown!r}")
    index = {name: position for position, name in enumerate(classes)}
    codes = np.array(
        [-1 if label is None else index.get(str(label), -1) for label in examples.labels],
        dtype=np.int64,
    )
    if unknown == "error":
        for position in np.flatnonzero(codes < 0):
            if examples.labels[position] is not None:
                raise _unknown_label(examples, int(position), classes, advice)
    return codes


def without_duplicates(examples: Examples, *, by_label: bool = True) -> Examples:
    """Return the first of every set of examples equal in input, and in label if `by_label`."""
    first: dict[Hashable, int] = {}
    for position, key in enumerate(_keys(examples) if by_label else _inputs(examples)):
        first.setdefault(key, position)
    return examples.take(list(first.values()))


def without_overlap(examples: Examples, other: Examples) -> Examples:
    """Return the examples whose input is not in `other` under any label."""
    seen = set(_inputs(other))
    return examples.take([i for i, key in enumerate(_inputs(examples)) if key not in seen])


def _inputs(examples: Examples) -> Iterable[Hashable]:
    none = (None,) * len(examples)
    return zip(examples.texts, examples.pairs or none, examples.choices or none, strict=True)


def _keys(examples: Examples) -> Iterable[Hashable]:
    return zip(_inputs(examples), examples.labels, strict=True)


def _unknown_label(
    examples: Examples, position: int, classes: Sequence[str], advice: str
) -> InputError:
    label = str(examples.labels[position])
    near = get_close_matches(label, classes, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(
        f"{examples.source}, row {examples.rows[position]}, column {examples.label_column!r}: "
        f"unknown label {shown(examples.labels[position])}{hint}; "
        f"the classes are {listed(classes)}" + (f". {advice}" if advice else "")
    )
