"""Fits of one method with several seeds as one method of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bayeslora.errors import InputError
from bayeslora.metrics.pairing import paired
from bayeslora.metrics.seeds import over_seeds
from bayeslora.predictions.names import unique_labels
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.inputs import by_group


def pool(fits: Sequence[Assessed]) -> list[Assessed]:
    """Return one entry a method: means over its seeds with t intervals, where it has several.

    Fits are taken together where `by_group` says that they are seeds of one method, and all have
    the same labelled rows. Others stay as they are.

    Args:
        fits: What was scored.
    """
    by_label = {one.label: one for one in fits}
    found = []
    for group, members in by_group([one.method for one in fits]).items():
        own = [by_label[one.label] for one in members]
        found += [_mean(group, own)] if len(own) > 1 and _on_the_same_rows(own) else own
    labels = unique_labels([one.label for one in found])
    return [
        replace(one, method=replace(one.method, label=label)) if one.fits else one
        for one, label in zip(found, labels, strict=True)
    ]


def every_fit(methods: Sequence[Assessed]) -> list[Assessed]:
    """Return the fits of all methods, one after the other."""
    return [fit for one in methods for fit in one.each]


def _mean(label: str, fits: Sequence[Assessed]) -> Assessed:
    scores = over_seeds([one.scores for one in fits], label)
    return Assessed(replace(fits[0].method, label=label), scores, tuple(fits))


def _on_the_same_rows(fits: Sequence[Assessed]) -> bool:
    try:
        paired([one.method.predictions.replace(name=one.label) for one in fits])
    except InputError:
        return False
    return True
