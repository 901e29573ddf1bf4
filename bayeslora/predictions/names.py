"""Labels of methods, and grouping of predictions into seeds of one method.

Seeds are fits that differ only in their random numbers.

Predictions are grouped if they have the same method name, classes, number of rows, `fit_options`
and recalibration in the metadata (or none), and distinct seeds. `fit_options` is a hash of
everything that determines the fit except the seed. The seed is `fit_seed` in the metadata; else the
one at the end of the file's name, such as `lora-seed-1.csv`; else `seed` in the metadata, which is
often only that of the draws.

Methods that share a name are distinguished by their seed or the location of their file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from bayeslora.io.files import STDIN, shown_path
from bayeslora.plain_text import LABEL_COLUMNS, as_label, clean, display_columns, shorten
from bayeslora.predictions.record import Predictions

QUESTION_FORMAT = "question_format"
"""Key in the metadata: how questions were answered, by `options` or by `letters`."""

_TELLING = ("fit_options", "recalibration_before", "recalibration")
_SEED = re.compile(r"(?P<name>.+?)[-_. ]*seed[-_ ]*(?P<seed>\d+)", re.IGNORECASE)


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
    files = [None] * len(items) if paths is None else list(paths)
    named_seeds = [
        seed_of(item.name, item.metadata, file) for item, file in zip(items, files, strict=True)
    ]
    by_key: dict[object, list[int]] = {}
    for index, (item, (name, _)) in enumerate(zip(items, named_seeds, strict=True)):
        notes = [item.metadata.get(note, "") for note in _TELLING]
        key = (name, frozenset(item.classes), len(item), *notes)
        by_key.setdefault(key, []).append(index)
    groups = []
    for indices in by_key.values():
        seeds = [named_seeds[index][1] for index in indices]
        is_one_method = all(seeds) and len(set(seeds)) == len(seeds)
        groups += [indices] if is_one_method else [[index] for index in indices]
    return [_ordered(indices, named_seeds) for indices in sorted(groups, key=min)]


def _ordered(indices: Sequence[int], named_seeds: Sequence[tuple[str, str]]) -> Seeds:
    rising = sorted(indices, key=lambda index: by_number(named_seeds[index][1]))
    name = named_seeds[rising[0]][0]
    return Seeds(name, tuple(rising), tuple(named_seeds[index][1] for index in rising))


def by_number(seed: str) -> tuple[int, str]:
    """Return a sort key that orders numeric seeds as numbers."""
    return (int(seed) if seed.isdecimal() else 0, seed)


@dataclass(frozen=True)
class Called:
    """Names of one of several predictions.

    Attributes:
        label: Short, distinct name for tables and figures.
        group: The method's name without its seed, shared by all its seeds; the label for a method
            with a single fit.
        seed: Its seed within the group; empty if unknown.
    """

    label: str
    group: str
    seed: str


def names_of(items: Sequence[Predictions]) -> list[str]:
    """Return the names of predictions; unnamed ones are numbered."""
    return [item.name or f"method {number}" for number, item in enumerate(items, 1)]


def called_like(items: Sequence[Predictions], paths: Sequence[str | Path | None]) -> list[Called]:
    """Return label, group and seed of predictions; groups that share a name get distinct labels.

    Args:
        items: Predictions of one or more methods.
        paths: The file of each, None for an object in memory.
    """
    notes = [(name, item.metadata) for name, item in zip(names_of(items), items, strict=True)]
    labels = file_labels(notes, paths)
    groups = group_seeds(items, paths)
    called: dict[int, Called] = {}
    for group, name in zip(groups, _group_labels(groups, labels, paths), strict=True):
        for index, seed in zip(group.members, group.seeds, strict=True):
            called[index] = Called(labels[index], name, seed)
    return [called[index] for index in range(len(items))]


def under_label(item: Predictions, called: Called, *, over_seeds: bool) -> Predictions:
    """Return predictions named for a comparison.

    Args:
        item: The predictions.
        called: Their label, group and seed.
        over_seeds: Whether they are pooled with the other seeds of their group: if so, they get the
            group's name, and their seed in the metadata.
    """
    if not over_seeds or called.group == called.label:
        return item.replace(name=called.label)
    return item.replace(name=called.group, metadata={**item.metadata, "fit_seed": called.seed})


def told_apart(
    items: Sequence[Predictions], paths: Sequence[str | Path | None], *, over_seeds: bool
) -> list[Predictions]:
    """Return predictions for a comparison; if files share a name, all are renamed to labels.

    Args:
        items: Predictions of several methods.
        paths: The file of each; if any is None (an object in memory, named by the caller), nothing
            is renamed.
        over_seeds: Whether the fits of each method are pooled.
    """
    groups = group_seeds(items)
    if over_seeds and len(groups) > 1:
        keys: list[object] = [group.name for group in groups]
    else:
        keys = [seed_of(item.name, item.metadata) for item in items]
    if None in paths or len(set(keys)) == len(keys):
        return list(items)
    namings = called_like(items, paths)
    several = over_seeds and len({naming.group for naming in namings}) > 1
    return [
        under_label(item, naming, over_seeds=several)
        for item, naming in zip(items, namings, strict=True)
    ]


def file_labels(
    notes: Sequence[tuple[str, Mapping[str, str]]], paths: Sequence[str | Path | None]
) -> list[str]:
    """Return a label for each of several predictions.

    Args:
        notes: Name and metadata of each.
        paths: The file of each, None for an object in memory.
    """
    seeds = [seed_of(*note, path)[1] for note, path in zip(notes, paths, strict=True)]
    hints = [f"seed {seed}" if seed else "" for seed in seeds]
    return unique_labels([name for name, _ in notes], hints, [_places(path) for path in paths])


def _places(path: str | Path | None) -> list[str]:
    """Return the stem of a file and the names of the directories above it, the root's last."""
    if path is None or shown_path(path) == STDIN:
        return []
    file = Path(path).absolute()
    return [file.stem, *(folder.name for folder in file.parents)]


def _group_labels(
    groups: Sequence[Seeds], labels: Sequence[str], paths: Sequence[str | Path | None]
) -> list[str]:
    """Return a label for each group; a method with one fit keeps its own."""
    single = {
        group.members: labels[group.members[0]] for group in groups if len(group.members) == 1
    }
    several = [group for group in groups if group.members not in single]
    places = [[_places(paths[index]) for index in group.members] for group in several]
    unique = unique_labels(
        [*single.values(), *(group.name or labels[group.members[0]] for group in several)],
        places=[*([[]] * len(single)), *map(_shared, places)],
    )
    multiple = {
        group.members: name for group, name in zip(several, unique[len(single) :], strict=True)
    }
    return [(single | multiple)[group.members] for group in groups]


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return the common part of the paths at each depth, empty where they differ."""
    levels = zip_longest(*paths, fillvalue="")
    return [level[0] if len(set(level)) == 1 else "" for level in levels]


def unique_labels(
    names: Sequence[str],
    hints: Sequence[str] | None = None,
    places: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """Return one short, distinct label for each name.

    Args:
        names: Original names; duplicates are allowed.
        hints: Suffixes that distinguish duplicates, such as `seed 3`; may be empty.
        places: Further suffixes: for each name, the names of its file and of the directories above.
            Names that are still equal are numbered.
    """
    cleaned = [clean(name) for name in names]
    cut_alike = Counter(map(shorten, set(cleaned)))
    shown = [shorten(name, middle=cut_alike[shorten(name)] > 1) for name in cleaned]
    marks = [
        as_label(hint, 10) if hint and shown.count(short) > 1 else ""
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
    """Return the marks, with a part of the path for names that they leave equal.

    The part is the one that distinguishes most of the names, the nearest to the file if tied. It
    replaces a mark shared by all duplicates of a name.
    """
    result = list(marks)
    pairs = list(zip(shown, marks, strict=True))
    for duplicate in {pair for pair in pairs if pairs.count(pair) > 1}:
        name, mark = duplicate
        same = [index for index, pair in enumerate(pairs) if pair == duplicate and places[index]]
        parts = _telling([places[index] for index in same], LABEL_COLUMNS - display_columns(name))
        beside = mark if shown.count(name) > pairs.count(duplicate) else ""
        if len(set(parts)) > 1 or len(same) < pairs.count(duplicate):
            for index, part in zip(same, parts, strict=True):
                result[index] = ", ".join(filter(None, (part, beside))) or mark
    return result


def _telling(paths: Sequence[Sequence[str]], columns: int) -> list[str]:
    """Return the part of each path at the depth that distinguishes most of the paths."""
    levels = [
        [part and as_label(part, max(10, columns)) for part in level]
        for level in zip_longest(*paths, fillvalue="")
    ]
    return max(levels, key=lambda level: (len(set(level)), all(level)), default=[])
