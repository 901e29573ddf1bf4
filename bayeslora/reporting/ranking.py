"""Who is best by one score, and who cannot be told from the best.

Where methods were scored on the same rows, the paired difference decides: its interval knows that
the methods err together on the hard rows, and its p-value how many methods are compared. Elsewhere
methods whose intervals overlap are tied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bayeslora.metrics.compare import Comparison
from bayeslora.metrics.scores import OODScores, Score
from bayeslora.reporting.assess import Assessed, best_index, labelled, overlaps
from bayeslora.reporting.text import listed, named


@dataclass(frozen=True)
class Standing:
    """The best method by one score, and who cannot be told from it.

    Attributes:
        label: Label of the best method.
        score: Its score.
        tied: Labels of the others that may be as good.
        others: Number of the others.
        paired: What decided, where paired differences did: `row by row`; else empty.
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
            how = "every other method is worse by more than chance explains"
            parts.append(
                f"; {self.paired}, {how}" if self.paired else "; no other interval overlaps it"
            )
        return "".join(parts)


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
    """Find the best of labelled methods by one of their scores.

    Args:
        key: Key of the score.
        methods: At least one method.
        comparison: Paired differences, used where their reference is the best method.
    """
    labels, scores = [one.label for one in methods], [one.scores[key] for one in methods]
    wide = [
        over_rows_too(one.scores[key], [fit.scores[key] for fit in one.fits]) for one in methods
    ]
    alone = standing(key, labels, scores, wide)
    if comparison is None or comparison.reference != alone.label:
        return alone
    tied = tuple(
        row.name for row in comparison.rows if row.name != alone.label and not row.is_clear(key)
    )
    how = "over seeds and row by row" if comparison.intervals_over == "seeds" else "row by row"
    return replace(alone, tied=tied, paired=how)


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
class Facts:
    """What several sections of a report say, found out once for all of them.

    Attributes:
        methods: All methods.
        labelled: Those that have labelled rows.
        comparison: Paired differences from the method of lowest NLL, if there are any.
        sets: Label of each out-of-distribution set by its name.
        nll: Who has the lowest NLL; None where no row has a label.
        accuracy: Who has the highest accuracy; None where no row has a label.
        detectors: Who separates each set best, and its results on that set, by the set's name.
    """

    methods: Sequence[Assessed]
    labelled: Sequence[Assessed]
    comparison: Comparison | None
    sets: Mapping[str, str]
    nll: Standing | None
    accuracy: Standing | None
    detectors: Mapping[str, tuple[Standing, OODScores]]

    @property
    def leader(self) -> Assessed | None:
        """The method of lowest NLL."""
        if self.nll is None:
            return None
        return next(one for one in self.labelled if one.label == self.nll.label)


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
    return Facts(
        methods=methods,
        labelled=known,
        comparison=comparison,
        sets=sets,
        nll=standing_of("nll", known, comparison) if known else None,
        accuracy=standing_of("accuracy", known, comparison) if known else None,
        detectors={
            name: best_detector(methods, name)
            for name in sets
            if any(name in one.scores.ood for one in methods)
        },
    )
