"""Detection averaged over out-of-distribution sets of one kind: near ones and far ones apart.

The mean is over sets, each counting alike (Yang et al. 2022, arXiv:2210.07242, OpenOOD), not over
the rows of all of them. All sets are compared with the same resamples of the in-distribution rows,
so the intervals know what the sets have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bayeslora.errors import InputError, unknown_choice
from bayeslora.metrics.intervals import Spread
from bayeslora.metrics.ood import DETECTION, Detected, common_first, detection_scores
from bayeslora.metrics.scores import OODGroup

KINDS = ("near", "far")
"""What groups of sets are called."""


def check_kinds(kinds: Mapping[str, Sequence[str]], sets: Sequence[str]) -> None:
    """Raise InputError if a group names a set that is not there, or a set is in both.

    Raises:
        InputError: It is so.
    """
    seen: dict[str, str] = {}
    for kind, names in kinds.items():
        for name in names:
            if not sets:
                raise InputError(f"{kind} set {name!r}: no out-of-distribution set is given")
            if name not in sets:
                raise unknown_choice(f"{kind} set", name, sets)
            if seen.setdefault(name, kind) != kind:
                raise InputError(f"OOD set {name!r} is called both {seen[name]} and {kind}")


def grouped(
    detected: Mapping[str, Detected], kinds: Mapping[str, Sequence[str]]
) -> dict[str, OODGroup]:
    """Return the mean detection scores of each group of sets.

    Args:
        detected: What `detect` found, by name of the set.
        kinds: Names of sets by kind; kinds without any are left out.
    """
    return {
        kind: _group(detected, tuple(dict.fromkeys(names)))
        for kind, names in kinds.items()
        if names
    }


def _group(detected: Mapping[str, Detected], sets: tuple[str, ...]) -> OODGroup:
    members = [detected[name] for name in sets]
    shared = [score for score in members[0].names if all(score in other.names for other in members)]
    units = min(one.spread.units for one in members)
    by_score = {}
    for score in shared:
        places = [one.names.index(score) for one in members]
        values = np.mean([one.values[place] for one, place in zip(members, places, strict=True)], 0)
        width = len(DETECTION)
        deviations = np.mean(
            [
                one.spread.deviations[:, place * width : (place + 1) * width]
                for one, place in zip(members, places, strict=True)
            ],
            axis=0,
        )
        spread = Spread(deviations, np.zeros(width), "percentile", units)
        by_score[score] = detection_scores(values, spread, 0)
    score = common_first(one.score for one in members)
    return OODGroup(sets, score, by_score[score], by_score)
