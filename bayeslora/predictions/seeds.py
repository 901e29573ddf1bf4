"""Which predictions are seeds of one method: fits that differ in nothing but their random numbers.

Predictions are taken together where they have the same method's name, the same classes, as many
rows, the same `fit_options` and recalibration in the metadata (or none), and each has a seed of its
own. `fit_options` is a hash of everything that decides the fit but the seed. The seed is that
of the fit in the metadata, `fit_seed`; where it is not stored, what the end of the file's name or
of a directory above it says, such as `lora-seed-1.csv` or `lora/seed-1/test.csv`; and else `seed`
in the metadata, which is often that of the draws alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bayeslora.files import shown_path
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
