"""Which predictions are seeds of one method: fits that differ in nothing but their random numbers.

Predictions are taken together where they have the same method's name, the same classes and as many
rows, and each has a seed of its own. The seed is the stored one (`fit_seed`, else `seed`, in the
metadata). Where none is stored, a name such as `seed-1` at the end of the file's name or of a
directory above it says it: `lora-seed-1.csv`, `lora/seed-1/test.csv`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bayeslora.predictions import Predictions

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


def seed_of(predictions: Predictions, path: str | Path | None = None) -> tuple[str, str]:
    """Return the name of the method and the seed; an empty seed where nothing says it.

    Args:
        predictions: What was predicted.
        path: The file they were read from, if there is one.
    """
    name = predictions.name
    stored = predictions.metadata.get("fit_seed", predictions.metadata.get("seed", ""))
    if stored or path is None:
        return name, stored
    file = Path(path).absolute()
    parts = [file.stem, *(folder.name for folder in file.parents)]
    for place, part in enumerate(parts[:-1]):
        if found := _SEED.fullmatch(part):
            said = found["name"] or parts[place + 1]
            return (said if name == file.stem else name), found["seed"]
    return name, ""


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
    said = [seed_of(one, file) for one, file in zip(items, files, strict=True)]
    together: dict[object, list[int]] = {}
    for place, (one, (name, _)) in enumerate(zip(items, said, strict=True)):
        key = (name, frozenset(one.classes), len(one))
        together.setdefault(key, []).append(place)
    groups = []
    for places in together.values():
        seeds = [said[place][1] for place in places]
        is_one_method = all(seeds) and len(set(seeds)) == len(seeds)
        groups += [places] if is_one_method else [[place] for place in places]
    return [_ordered(places, said) for places in sorted(groups, key=min)]


def _ordered(places: Sequence[int], said: Sequence[tuple[str, str]]) -> Seeds:
    rising = sorted(places, key=lambda place: _by_number(said[place][1]))
    name = said[rising[0]][0]
    return Seeds(name, tuple(rising), tuple(said[place][1] for place in rising))


def _by_number(seed: str) -> tuple[int, str]:
    return (int(seed) if seed.isdecimal() else 0, seed)
