"""Detection scores averaged separately over near and far out-of-distribution sets.

The mean gives each set equal weight (Yang et al. 2022, arXiv:2210.07242, OpenOOD), rather than each
row. All sets share the resamples of the in-distribution rows, so the intervals account for the
correlation between sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bayeslora.errors import InputError, unknown_choice
from bayeslora.metrics.intervals import Spread
from bayeslora.metrics.ood import DETECTION, Detected, common_first, detection_scores
from bayeslora.metrics.scores import OODGroup

KINDS = ("near", "far")
"""Names of the groups of sets."""


def check_kinds(kinds: Mapping[str, Sequence[str]], sets: Sequence[str]) -> None:
    """Raise InputError if a group names an unknown set, or a set is in both groups.

    Raises:
        InputError: A set is unknown or in both groups.
    """
    seen: dict[str, str] = {}
    for kind, names in kinds.items():
        for name in names:
            if not sets:
                raise InputError(f"{kind} set {name!r}: no out-of-distribution set is given")
            if name not in sets:
                raise unknown_choice(f"{kind} set", name, sets)
            if seen.setdefault(name, kind) != kind:
                raise InputError(f"OOD set {name!r} is listed as both {seen[name]} and {kind}")


def grouped(
    detected: Mapping[str, Detected], kinds: Mapping[str, Sequence[str]]
) -> dict[str, OODGroup]:
    """Return the mean detection scores of each group of sets.

    Args:
        detected: Results of `detect`, by name of the set.
        kinds: Names of the sets by kind; empty kinds are omitted.
    """
    return {
        kind: _group(detected, tuple(dict.fromkeys(names)))
        for kind, names in kinds.items()
        if names
    }


def _group(detected: Mapping[str, Detected], sets: tuple[str, ...]) -> OODGroup:
    members = [detected[name] for name in sets]
    shared = [score for score in members[0].names if all(score in other.names for other in members)]
    units = min(member.spread.units for member in members)
    by_score = {}
    for score in shared:
        indices = [member.names.index(score) for member in members]
        values = np.mean(
            [member.values[index] for member, index in zip(members, indices, strict=True)], 0
        )
        width = len(DETECTION)
        deviations = np.mean(
            [
                member.spread.deviations[:, index * width : (index + 1) * width]
                for member, index in zip(members, indices, strict=True)
            ],
            axis=0,
        )
        spread = Spread(deviations, np.zeros(width), "percentile", units)
        by_score[score] = detection_scores(values, spread, 0)
    score = common_first(member.score for member in members)
    return OODGroup(sets, score, by_score[score], by_score)
