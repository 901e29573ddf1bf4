"""What methods are called, and which predictions are seeds of one method.

Seeds are fits that differ in nothing but their random numbers.

Predictions are taken together where they have the same method's name, the same classes, as many
rows, the same `fit_options` and recalibration in the metadata (or none), and each has a seed of its
own. `fit_options` is a hash of everything that decides the fit but the seed. The seed is that
of the fit in the metadata, `fit_seed`; where it is not stored, what the end of the file's name or
of a directory above it says, such as `lora-seed-1.csv` or `lora/seed-1/test.csv`; and else `seed`
in the metadata, which is often that of the draws alone.

Where several methods have one name, the seed or the place of their file tells them apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from bayeslora.files import shown_path
from bayeslora.plain_text import LABEL_COLUMNS, clean, display_columns, shorten
from bayeslora.predictions.record import Predictions

_TELLING = ("fit_options", "recalibration_before", "recalibration")
_SEED = re.compile(r"(?P<name>.*?)[-_. ]*seed[-_ ]*(?P<seed>\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Seeds:
    """The seeds of one method; of a method with one fit, that fit.

    Attributes:
        name: The method's.
        members: Positions among what was given, by rising seed.
        seeds: The seed of each member; empty where it is not known.
    """

    name: str
    members: tuple[int, ...]
    seeds: tuple[str, ...]


def places_of(path: str | Path) -> list[str]:
    """Return what a file and the directories above it are called, without what says a seed.

    The root has no name and is left out; a name that says nothing but a seed is empty.

    Args:
        path: Of a predictions file.
    """
    parts = _parts(path)[:-1]
    found = [_SEED.fullmatch(part) for part in parts]
    return [part if seed is None else seed["name"] for part, seed in zip(parts, found, strict=True)]


def seed_of(
    name: str, metadata: Mapping[str, str], path: str | Path | None = None
) -> tuple[str, str]:
    """Return the name of the method and the seed; an empty seed where nothing says it.

    Args:
        name: Of the predictions.
        metadata: Theirs.
        path: The file they were read from, if there is one.
    """
    stored = metadata.get("seed", "")
    if "fit_seed" in metadata:
        return name, metadata["fit_seed"]
    if path is None:
        return name, stored
    parts = _parts(path)
    for place, part in enumerate(parts[:-1]):
        if found := _SEED.fullmatch(part):
            said = found["name"] or parts[place + 1]
            return (said if name == parts[0] else name), found["seed"]
    return name, stored


def _parts(path: str | Path) -> list[str]:
    """Return the stem of a file and the names of the directories above it, the root's last."""
    file = Path(path).absolute()
    above = file.parents if shown_path(file) == str(file) else file.parents[-1:]
    return [file.stem, *(folder.name for folder in above)]


def group_seeds(
    items: Sequence[Predictions], paths: Sequence[str | Path | None] | None = None
) -> list[Seeds]:
    """Return what belongs together, in order of first appearance; every item is in one group.

    Items with the same seed, or without one, are never taken together: they may be the same fit
    twice, or two methods that share a name.

    Args:
        items: Predictions of one or more methods.
        paths: The file of each, None for an object in memory.
    """
    files = [None] * len(items) if paths is None else list(paths)
    said = [seed_of(one.name, one.metadata, file) for one, file in zip(items, files, strict=True)]
    together: dict[object, list[int]] = {}
    for place, (one, (name, _)) in enumerate(zip(items, said, strict=True)):
        notes = [one.metadata.get(note, "") for note in _TELLING]
        key = (name, frozenset(one.classes), len(one), *notes)
        together.setdefault(key, []).append(place)
    groups = []
    for places in together.values():
        seeds = [said[place][1] for place in places]
        is_one_method = all(seeds) and len(set(seeds)) == len(seeds)
        groups += [places] if is_one_method else [[place] for place in places]
    return [_ordered(places, said) for places in sorted(groups, key=min)]


def _ordered(places: Sequence[int], said: Sequence[tuple[str, str]]) -> Seeds:
    rising = sorted(places, key=lambda place: by_number(said[place][1]))
    name = said[rising[0]][0]
    return Seeds(name, tuple(rising), tuple(said[place][1] for place in rising))


def by_number(seed: str) -> tuple[int, str]:
    """Return a key that sorts seeds as numbers where they are numbers."""
    return (int(seed) if seed.isdecimal() else 0, seed)


@dataclass(frozen=True)
class Called:
    """What one of several predictions is called.

    Attributes:
        label: Short, distinct name for tables and figures.
        group: The method's name without its seed: the same for the seeds of one method, the label
            where there is but one.
        seed: Its seed among those of its group; empty where it is not known.
    """

    label: str
    group: str
    seed: str


def names_of(items: Sequence[Predictions]) -> list[str]:
    """Return the names of predictions; one without a name is called by its number."""
    return [one.name or f"method {number}" for number, one in enumerate(items, 1)]


def called_like(items: Sequence[Predictions], paths: Sequence[str | Path | None]) -> list[Called]:
    """Return what predictions are called; a name that two groups share gives way to labels.

    Args:
        items: Of one method or several.
        paths: The file of each, None for an object in memory.
    """
    notes = [(name, one.metadata) for name, one in zip(names_of(items), items, strict=True)]
    labels = file_labels(notes, paths)
    groups = group_seeds(items, paths)
    found: dict[int, Called] = {}
    for group, name in zip(groups, _group_labels(groups, labels, paths), strict=True):
        for place, seed in zip(group.members, group.seeds, strict=True):
            found[place] = Called(labels[place], name, seed)
    return [found[place] for place in range(len(items))]


def under_label(item: Predictions, called: Called, *, over_seeds: bool) -> Predictions:
    """Return predictions named for a comparison.

    Args:
        item: The predictions.
        called: What they are called.
        over_seeds: Whether they are to be taken together with others of their group: they have the
            group's name then, and their seed in the metadata.
    """
    if not over_seeds or called.group == called.label:
        return item.replace(name=called.label)
    return item.replace(name=called.group, metadata={**item.metadata, "fit_seed": called.seed})


def told_apart(
    items: Sequence[Predictions], paths: Sequence[str | Path | None], *, over_seeds: bool
) -> list[Predictions]:
    """Return predictions for a comparison; where files have one name, all get labels.

    Args:
        items: Of several methods.
        paths: The file of each; with an object in memory, whose name is its owner's to choose,
            nothing is renamed.
        over_seeds: Whether fits of one method are to be taken together.
    """
    groups = group_seeds(items)
    if over_seeds and len(groups) > 1:
        keys: list[object] = [group.name for group in groups]
    else:
        keys = [seed_of(one.name, one.metadata) for one in items]
    if None in paths or len(set(keys)) == len(keys):
        return list(items)
    called = called_like(items, paths)
    several = over_seeds and len({one.group for one in called}) > 1
    return [
        under_label(one, how, over_seeds=several) for one, how in zip(items, called, strict=True)
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
    return [] if path is None else places_of(path)


def _group_labels(
    groups: Sequence[Seeds], labels: Sequence[str], paths: Sequence[str | Path | None]
) -> list[str]:
    """Return a label for each group; a method with one fit keeps its own."""
    alone = {one.members: labels[one.members[0]] for one in groups if len(one.members) == 1}
    several = [one for one in groups if one.members not in alone]
    places = [[_places(paths[place]) for place in one.members] for one in several]
    found = unique_labels(
        [*alone.values(), *(one.name or labels[one.members[0]] for one in several)],
        places=[*([[]] * len(alone)), *map(_shared, places)],
    )
    told = {one.members: name for one, name in zip(several, found[len(alone) :], strict=True)}
    return [(alone | told)[one.members] for one in groups]


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return the parts that paths share at each depth, empty where they differ."""
    levels = zip_longest(*paths, fillvalue="")
    return [level[0] if len(set(level)) == 1 else "" for level in levels]


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
    whole = [clean(name) for name in names]
    cut_alike = Counter(map(shorten, set(whole)))
    shown = [shorten(name, middle=cut_alike[shorten(name)] > 1) for name in whole]
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
