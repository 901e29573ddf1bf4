"""Who is best by one score, and who cannot be told from the best.

Where methods were scored on the same rows, the interval of the paired difference decides: it knows
that the methods err together on the hard rows. Elsewhere methods whose intervals overlap are tied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bayeslora.metrics.compare import Comparison
from bayeslora.metrics.scores import Score
from bayeslora.reporting.assess import Assessed, best_index, overlaps
from bayeslora.reporting.text import listed, named


@dataclass(frozen=True)
class Standing:
    """The best method by one score, and who cannot be told from it.

    Attributes:
        label: Label of the best method.
        score: Its score.
        tied: Labels of the others that may be as good.
        others: Number of the others.
        paired: Whether paired differences decided.
    """

    label: str
    score: Score
    tied: tuple[str, ...]
    others: int
    paired: bool = False

    @property
    def clause(self) -> str:
        """How the others stand, as the second half of a sentence; empty where there are none."""
        if not self.others:
            return ""
        if not self.tied:
            how = "every other method is worse by more than chance explains"
            return f"; row by row, {how}" if self.paired else "; no other interval overlaps it"
        everyone = len(self.tied) == self.others > 1
        whom = "all others" if everyone else listed([named(label) for label in self.tied])
        how = "compared row by row" if self.paired else "intervals overlap"
        return f"; its lead over {whom} may be chance ({how})"


def standing(key: str, labels: Sequence[str], scores: Sequence[Score]) -> Standing:
    """Find the best score and those whose intervals overlap it; there is at least one score."""
    place = best_index(key, scores)
    if place is None:
        raise ValueError("no scores to choose from")
    tied = tuple(
        label
        for index, (label, score) in enumerate(zip(labels, scores, strict=True))
        if index != place and overlaps(score, scores[place])
    )
    return Standing(labels[place], scores[place], tied, len(scores) - 1)


def standing_of(
    key: str, methods: Sequence[Assessed], comparison: Comparison | None = None
) -> Standing:
    """Find the best of labelled methods by one of their scores.

    Args:
        key: Key of the score.
        methods: At least one method.
        comparison: Paired differences, used where their reference is the best method.
    """
    alone = standing(key, [one.label for one in methods], [one.scores[key] for one in methods])
    if comparison is None or comparison.reference != alone.label:
        return alone
    tied = tuple(
        row.name
        for row in comparison.rows
        if row.name != alone.label
        and not (row.differences[key].low > 0 or row.differences[key].high < 0)
    )
    return Standing(alone.label, alone.score, tied, alone.others, paired=True)
