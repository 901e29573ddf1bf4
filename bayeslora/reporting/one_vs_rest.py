"""Reliability of each class's probability: one class against the rest, on demand.

The top-label diagram looks at the likeliest class alone. A class that is rare, or that a method
confuses with one neighbour, can be off where the top label hides it (Kull et al. 2019,
arXiv:1910.12656, class-wise calibration).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bayeslora.errors import unknown_choice
from bayeslora.metrics.calibration import ece, reliability_bins
from bayeslora.metrics.top_label import TopLabel, top_label
from bayeslora.plain_text import clean, shorten
from bayeslora.reporting.assess import Assessed, clusters_of, occupied
from bayeslora.reporting.reliability import Words, reliability_panel
from bayeslora.reporting.text import number

if TYPE_CHECKING:
    from bayeslora.reporting.inputs import Method
    from bayeslora.reporting.svg import Panel

MOST_CLASSES = 12
"""Classes that are drawn where none are named: those with the largest error of any method."""

CLASS_SLOT = "bayesloraClass"

ONE_CLASS = Words(
    f"Reliability diagram of {{}} for the class {CLASS_SLOT}",
    "probability of the class",
    "share of rows of the class",
    "share of rows of the class",
)

PerClass = bool | Sequence[str]
"""Whether to draw one class against the rest, or the names of the classes to draw."""


def check_classes(per_class: PerClass, methods: Sequence[Method]) -> None:
    """Complain about a class that no method has.

    Raises:
        InputError: A name is not that of a class.
    """
    if isinstance(per_class, bool):
        return
    known = {name for method in methods for name in method.predictions.classes}
    for name in [per_class] if isinstance(per_class, str) else per_class:
        if name not in known:
            raise unknown_choice("class in per_class", name, known)


def class_panels(methods: Sequence[tuple[int, Assessed]], per_class: PerClass) -> Iterator[Panel]:
    """Yield a diagram for each labelled method and each class that is drawn.

    Args:
        methods: Labelled methods with their places in the report.
        per_class: As in `report`.
    """
    chosen = _chosen(methods, per_class)
    for index, one in methods:
        classes = one.method.predictions.classes
        for name in chosen:
            if name in classes:
                place = classes.index(name)
                yield _panel(f"reliability-{index}-class-{place + 1}", one, place)


def _panel(name: str, one: Assessed, place: int) -> Panel:
    rows = _against_rest(one, place)
    bins = one.scores.num_bins
    error, count = ece(rows, bins), int(rows.correct.sum())
    return reliability_panel(
        name,
        one.label,
        occupied(reliability_bins(rows, bins, clusters=clusters_of(one))),
        f"{CLASS_SLOT}: {count:,} of {len(rows):,} rows, error {number(error)}",
        words=ONE_CLASS,
        names={CLASS_SLOT: shorten(clean(one.method.predictions.classes[place]), 20)},
    )


def _against_rest(one: Assessed, place: int) -> TopLabel:
    predictions = one.method.predictions
    if predictions.labels is None:
        raise ValueError("a reliability diagram needs labels")
    kept = predictions.labelled
    return top_label(predictions.probs[kept, place], predictions.labels[kept] == place)


def _chosen(methods: Sequence[tuple[int, Assessed]], per_class: PerClass) -> list[str]:
    if isinstance(per_class, str):
        return [per_class]
    if not isinstance(per_class, bool):
        return list(dict.fromkeys(per_class))
    known = [name for _, one in methods for name in one.method.predictions.classes]
    names = list(dict.fromkeys(known)) if per_class else []
    if len(names) <= MOST_CLASSES:
        return names
    worst = dict.fromkeys(names, 0.0)
    for _, one in methods:
        for place, name in enumerate(one.method.predictions.classes):
            error = ece(_against_rest(one, place), one.scores.num_bins)
            worst[name] = max(worst[name], error)
    kept = sorted(names, key=lambda name: -worst[name])[:MOST_CLASSES]
    return [name for name in names if name in kept]
