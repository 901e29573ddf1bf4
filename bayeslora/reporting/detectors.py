"""The uncertainties that detect out-of-distribution inputs, in words, and whether to use them."""

from __future__ import annotations

from typing import Literal

from bayeslora.metrics.ood import EPISTEMIC, FALLBACK, NEGLIGIBLE
from bayeslora.metrics.scores import OODScores
from bayeslora.plain_text import clean, shorten
from bayeslora.reporting.text import number, percent

MOST_FLAGGED = 0.2
"""Largest share of in-distribution examples flagged at 95 % of a set for an advised threshold.

Out-of-distribution inputs are rare in practice: with an alarm on every fifth other input nearly all
alarms are false, and people stop looking at them.
"""

SCORE_WORDS = {
    "max_probability": "1\N{NO-BREAK SPACE}−\N{NO-BREAK SPACE}max probability",
    "entropy": "entropy of the probabilities",
    "total": "total uncertainty",
    "aleatoric": "aleatoric uncertainty",
    "epistemic": "epistemic uncertainty",
    "logit_variance": "logit variance",
    "max_logit": "negative max logit",
    "log_density": "negative log density of the features",
    "mahalanobis": "Mahalanobis distance",
    "relative_mahalanobis": "relative Mahalanobis distance",
    "middle_mahalanobis": "Mahalanobis distance in the middle of the backbone",
    "knn": "distance to the nearest neighbours",
    "unfamiliarity": "probability and distance combined",
}
"""Uncertainty scores in words; other scores are shown by name."""

_DOUBTS = {
    "negligible": (
        f"is at most {percent(NEGLIGIBLE)} of the total uncertainty, as with a point estimate"
    ),
    "noise": "varies no more than the Monte Carlo error of its draws",
}


def score_words(score: str) -> str:
    """Return an uncertainty score in words, or its name on one line."""
    return SCORE_WORDS.get(score) or shorten(clean(score).replace("_", " "))


def better_score(result: OODScores) -> str:
    """Return the score that separates the set better, if it detects the set; else empty."""
    if not result.better or result.by_score[result.better]["auroc"].low <= 0.5:
        return ""
    return result.better


def is_usable(result: OODScores) -> bool:
    """Return whether the score is suitable for flagging rows: not doubtful, and none is better."""
    return not better_score(result) and not (result.doubt and result.score == EPISTEMIC)


def is_blind(result: OODScores) -> bool:
    """Return whether the rows are not shown to be more uncertain than in-distribution rows."""
    return result.auroc.low <= 0.5


def is_reversed(result: OODScores) -> bool:
    """Return whether the rows are shown to be less uncertain than in-distribution rows."""
    return result.auroc.high < 0.5


def verdict(result: OODScores) -> Literal["beaten", "blind", "doubtful", "costly", "usable"]:
    """Return whether to flag rows by the judged score, and if not, the first reason against it.

    Reasons: another score separates them better; it is blind to them; its values are uninformative;
    or flagging 95 % of them flags more than `MOST_FLAGGED` of the in-distribution examples.
    """
    if better_score(result):
        return "beaten"
    if is_blind(result):
        return "blind"
    if not is_usable(result):
        return "doubtful"
    return "costly" if result.fpr95.value > MOST_FLAGGED else "usable"


def instead_of(result: OODScores) -> str:
    """Return a sentence that recommends a better score than the judged one; empty if none."""
    better = better_score(result)
    if not better:
        return ""
    auroc = result.by_score[better]["auroc"]
    return (
        f"Use {score_words(better)} instead (AUROC {number(auroc.value)}; --ood-score"
        f" {better}), and confirm it on other examples."
    )


def detector_notes(result: OODScores) -> list[str]:
    """Return sentences on the choice of the score: why not the default, and any better score."""
    notes = []
    if result.doubt:
        why = f"epistemic uncertainty {_DOUBTS.get(result.doubt, result.doubt)}"
        if result.score == EPISTEMIC:
            notes.append(f"{why}: do not rely on it.")
        elif result.score == FALLBACK:
            notes.append(f"judged by {score_words(result.score)}, because {why}.")
    better = better_score(result)
    if better:
        auroc, better_auroc = (
            number(result.by_score[name]["auroc"].value) for name in (result.score, better)
        )
        notes.append(
            f"{score_words(better)} separates the set better than"
            f" {score_words(result.score)} (AUROC {better_auroc} against {auroc}, paired, beyond"
            f" chance); confirm it on other examples (--ood-score {better})."
        )
    return notes
