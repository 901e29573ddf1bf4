"""What methods are called where several have one name: by seed, by the place of their file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from bayeslora.plain_text import LABEL_COLUMNS, clean, display_columns, shorten


def unique_labels(
    names: Sequence[str],
    hints: Sequence[str] | None = None,
    places: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """Return one short, distinct label for each name.

    Args:
        names: Names as they were given; equal ones are allowed.
        hints: What tells equal names apart, such as `seed 3`; an empty hint says nothing.
        places: What tells them apart where that does not: of each, the name of its file and of the
            directories above. What is still the same gets a number.
    """
    shown = [shorten(clean(name)) for name in names]
    marks = [
        shorten(clean(hint), 10) if hint and shown.count(short) > 1 else ""
        for short, hint in zip(shown, hints or [""] * len(shown), strict=True)
    ]
    if places is not None:
        marks = _with_places(shown, marks, places)
    unique: list[str] = []
    for short, mark in zip(shown, marks, strict=True):
        label = candidate = f"{short} ({mark})" if mark else short
        count = 2
        while candidate in unique:
            candidate, count = f"{label} ({count})", count + 1
        unique.append(candidate)
    return unique


def _with_places(
    shown: Sequence[str], marks: Sequence[str], places: Sequence[Sequence[str]]
) -> list[str]:
    """Return the marks; for names that these leave equal, with a part of a path.

    It is the part that tells most of them apart, of such the one nearest to the file. A mark that
    all of one name share says nothing beside it.
    """
    found = list(marks)
    both = list(zip(shown, marks, strict=True))
    for one in {pair for pair in both if both.count(pair) > 1}:
        name, mark = one
        same = [index for index, pair in enumerate(both) if pair == one and places[index]]
        told = _telling([places[index] for index in same], LABEL_COLUMNS - display_columns(name))
        beside = mark if shown.count(name) > both.count(one) else ""
        if len(set(told)) > 1 or len(same) < both.count(one):
            for index, part in zip(same, told, strict=True):
                found[index] = ", ".join(filter(None, (part, beside))) or mark
    return found


def _telling(paths: Sequence[Sequence[str]], columns: int) -> list[str]:
    """Return the part of each path, of one depth, that tells most of the paths apart."""
    levels = [
        [part and shorten(clean(part), max(10, columns)) for part in level]
        for level in zip_longest(*paths, fillvalue="")
    ]
    return max(levels, key=lambda level: (len(set(level)), all(level)), default=[])
