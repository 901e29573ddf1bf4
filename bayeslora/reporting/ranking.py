"""Who is best by one score, who cannot be told from the best, and which method to use.

Where methods were scored on the same rows, the paired difference decides: its interval knows that
the methods err together on the hard rows, and its p-value how many methods are compared. Elsewhere
methods whose intervals overlap are tied. Verdict, figures, tables, advice and findings of a report
all ask `standing_of` and `Facts`, so that they agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.scores import OODScores, Score
from bayeslora.reporting.assess import (
    GOALS,
    Assessed,
    best_index,
    doubtful,
    labelled,
    miscalibrated,
    overlaps,
)
from bayeslora.reporting.detectors import is_blind
from bayeslora.reporting.text import listed, named


@dataclass(frozen=True)
class Standing:
    """The best method by one score, and who cannot be told from it.

    Attributes:
        label: Label of the best method.
        score: Its score.
        tied: Labels of the others that may be as good.
        others: Number of the others.
        paired: What decided, where paired differences did for all others: `row by row`; else
            empty.
        equal: Labels of those of `tied` that have the very same score.
    """

    label: str
    score: Score
    tied: tuple[str, ...]
    others: int
    paired: str = ""
    equal: tuple[str, ...] = ()

    @property
    def clause(self) -> str:
        """How the others stand, as the second half of a sentence; empty where there are none."""
        if not self.others:
            return ""
        same = listed([named(label) for label in self.equal])
        has = "have" if len(self.equal) > 1 else "has"
        parts = [f"; {same} {has} exactly the same"] if same else []
        behind = [label for label in self.tied if label not in self.equal]
        if behind:
            everyone = len(behind) == self.others > 1
            whom = "all others" if everyone else listed([named(label) for label in behind])
            how = f"compared {self.paired}" if self.paired else "intervals overlap"
            parts.append(f"; its lead over {whom} may be chance ({how})")
        elif len(self.equal) < self.others:
            how = f" ({self.paired})" if self.paired else ""
            parts.append(f"; every other method is worse by more than chance explains{how}")
        return "".join(parts)

    def is_top(self, label: str) -> bool:
        """Return whether a method is the best or tied with it."""
        return label == self.label or label in self.tied

    def marks(self, labels: Sequence[str]) -> list[bool]:
        """Return for each method whether a table marks it: those at the top.

        Nothing is marked where that would tell nothing, because no method is worse.
        """
        some_are_worse = len(self.tied) < self.others
        return [some_are_worse and self.is_top(label) for label in labels]


def standing(
    key: str, labels: Sequence[str], scores: Sequence[Score], wide: Sequence[Score] | None = None
) -> Standing:
    """Find the best score and those whose intervals overlap it; there is at least one score.

    Args:
        key: Key of the score.
        labels: Of the methods.
        scores: Theirs.
        wide: The same with the intervals that must not overlap, where they are others.
    """
    apart = scores if wide is None else wide
    place = best_index(key, scores)
    if place is None:
        raise ValueError("no scores to choose from")
    tied = tuple(
        label
        for index, (label, score) in enumerate(zip(labels, apart, strict=True))
        if index != place and overlaps(score, apart[place])
    )
    equal = tuple(
        label
        for label, score in zip(labels, scores, strict=True)
        if label in tied and same_value(score, scores[place])
    )
    return Standing(labels[place], scores[place], tied, len(scores) - 1, equal=equal)


def best_or_tied(key: str, scores: Sequence[Score | None]) -> list[bool]:
    """Return for each score whether a table marks it, by intervals alone; see `Standing.marks`."""
    labels = [str(place) for place in range(len(scores))]
    present = {label: one for label, one in zip(labels, scores, strict=True) if one is not None}
    if key not in GOALS or not present:
        return [False] * len(scores)
    return standing(key, list(present), list(present.values())).marks(labels)


def over_rows_too(score: Score, of_fits: Sequence[Score]) -> Score:
    """Return a mean over seeds with an interval that holds those of its fits over rows as well.

    Seeds on the same rows say nothing of other rows.
    """
    every = [score, *of_fits]
    return Score(score.value, min(one.low for one in every), max(one.high for one in every))


def same_value(one: Score, other: Score) -> bool:
    """Return whether two scores are the same but for rounding errors."""
    return math.isclose(one.value, other.value, rel_tol=1e-12, abs_tol=1e-15)


def standing_of(
    key: str, methods: Sequence[Assessed], comparison: Comparison | None = None
) -> Standing:
    """Find the best of methods by one of their scores.

    Args:
        key: Key of the score.
        methods: At least one method; all have the score.
        comparison: Paired differences from one of them: where the best method and another one are
            paired, their difference decides.
    """
    labels, scores = [one.label for one in methods], [one.scores[key] for one in methods]
    wide = [
        over_rows_too(one.scores[key], [fit.scores[key] for fit in one.fits]) for one in methods
    ]
    alone = standing(key, labels, scores, wide)
    others = [label for label in labels if label != alone.label]
    pairs = {label: _pair(comparison, key, alone.label, label) for label in others}
    tied = tuple(
        label
        for label, pair in pairs.items()
        if (label in alone.tied if pair is None else not pair.is_clear(key))
    )
    how = ""
    if comparison is not None and None not in pairs.values():
        how = "over seeds and row by row" if comparison.intervals_over == "seeds" else "row by row"
    equal = tuple(label for label in alone.equal if label in tied)
    return replace(alone, tied=tied, equal=equal, paired=how)


def _pair(comparison: Comparison | None, key: str, best: str, other: str) -> ComparisonRow | None:
    """Return the row that holds the difference of two methods; None where it was not measured."""
    if comparison is None or key not in comparison.keys:
        return None
    if comparison.reference not in (best, other):
        return None
    apart = other if comparison.reference == best else best
    return next((row for row in comparison.rows if row.name == apart), None)


def best_detector(methods: Sequence[Assessed], name: str) -> tuple[Standing, OODScores]:
    """Return who separates a set best, and its results on that set."""
    results = {one.label: one.scores.ood[name] for one in methods if name in one.scores.ood}
    tested = [one for one in methods if one.label in results]
    wide = [
        over_rows_too(results[one.label].auroc, [fit.scores.ood[name].auroc for fit in one.fits])
        for one in tested
    ]
    aurocs = [result.auroc for result in results.values()]
    best = standing("auroc", list(results), aurocs, wide)
    return best, results[best.label]


@dataclass(frozen=True)
class Choice:
    """Which method to use.

    Attributes:
        label: Label of the method; a report speaks of it.
        equal: Labels of others that are as good by every reason.
        reasons: Why these, in a few words each; empty where nothing shows which is better.
    """

    label: str
    equal: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Facts that several sections of a report state, computed once for all of them.

    Attributes:
        methods: All methods.
        labelled: Those that have labelled rows.
        comparison: Paired differences from the method of lowest NLL, if there are any.
        sets: Label of each out-of-distribution set by its name.
        nll: Who has the lowest NLL; None where no row has a label, or classes differ.
        accuracy: Who has the highest accuracy; None in the same cases.
        detectors: Who separates each set best, and its results on that set, by the set's name.
        choice: Which method to use; None where no row has a label.
        same_classes: Whether all labelled methods have the same classes; where they have not, no
            score of one is compared with another's, and the first is the one to speak of.
    """

    methods: Sequence[Assessed]
    labelled: Sequence[Assessed]
    comparison: Comparison | None
    sets: Mapping[str, str]
    nll: Standing | None
    accuracy: Standing | None
    detectors: Mapping[str, tuple[Standing, OODScores]]
    choice: Choice | None
    same_classes: bool = True

    @property
    def leader(self) -> Assessed | None:
        """The method to use, which the page speaks of."""
        if self.choice is None:
            return None
        return next(one for one in self.labelled if one.label == self.choice.label)

    def marks(self, key: str) -> list[bool]:
        """Return for each of `methods` whether a table marks its score."""
        scored = [one for one in self.methods if key in one.scores]
        if key not in GOALS or not scored or not self.same_classes:
            return [False] * len(self.methods)
        best = standing_of(key, scored, self.comparison)
        return best.marks([one.label for one in self.methods])

    def marks_on(self, name: str) -> list[bool]:
        """Return for each of `methods` whether a table marks its detection of a set."""
        if not self.same_classes:
            return [False] * len(self.methods)
        labels = [one.label for one in self.methods]
        return self.detectors[name][0].marks(labels)


def facts_of(
    methods: Sequence[Assessed], comparison: Comparison | None, sets: Mapping[str, str]
) -> Facts:
    """Find out what the sections of a report say.

    Args:
        methods: At least one method.
        comparison: Paired differences from the method of lowest NLL; None where methods were not
            scored on the same rows.
        sets: Label of each out-of-distribution set by its name.
    """
    known = labelled(methods)
    same = len({frozenset(one.method.predictions.classes) for one in known}) < 2
    ranked = known if same else []
    nll = standing_of("nll", ranked, comparison) if ranked else None
    accuracy = standing_of("accuracy", ranked, comparison) if ranked else None
    detectors = {
        name: best_detector(methods, name)
        for name in sets
        if any(name in one.scores.ood for one in methods)
    }
    choice = Choice(known[0].label) if known else None
    if nll is not None and accuracy is not None:
        choice = _choice(known, nll, accuracy, detectors, sets)
    return Facts(methods, known, comparison, sets, nll, accuracy, detectors, choice, same)


def _choice(
    methods: Sequence[Assessed],
    nll: Standing,
    accuracy: Standing,
    detectors: Mapping[str, tuple[Standing, OODScores]],
    sets: Mapping[str, str],
) -> Choice:
    """Choose a method of lowest NLL, if possible one without a sign of miscalibration.

    Of several, those that detect best; of several still, the one of lowest NLL.
    """
    # Without intervals nothing tells the methods apart, and no cost should decide on a handful.
    if not nll.others or not all(one.scores["nll"].has_interval for one in methods):
        return Choice(nll.label)
    leaders = [one for one in methods if nll.is_top(one.label)]
    reasons = ["lowest NLL" + (" (tied)" if len(leaders) > 1 else "")]
    sound = [one for one in leaders if not miscalibrated(one)]
    chosen = sound or leaders
    judged = {name: best for name, (best, result) in detectors.items() if not is_blind(result)}
    detecting = [one for one in chosen if all(best.is_top(one.label) for best in judged.values())]
    if len(chosen) == 1 and accuracy.label == chosen[0].label and not accuracy.tied:
        reasons.append("highest accuracy")
    if sound:
        clear = "clear " if any(doubtful(one) for one in chosen) else ""
        reasons.append(f"no {clear}sign of miscalibration")
    if detecting and len(detecting) < len(chosen):
        chosen = detecting
        reasons.append(f"best detection of {listed([named(sets[name]) for name in judged])}")
    first = min(chosen, key=lambda one: one.scores["nll"].value)
    equal = tuple(one.label for one in chosen if one is not first)
    return Choice(first.label, equal, tuple(reasons))
