"""For readers who know no scores: how right, how sure, where not to trust it, what to do.

The words are about one method, the one of lowest NLL; of its seeds, about the first. As everywhere
in the report, a difference is stated only where its interval leaves out chance, and what the rows
cannot show is said to be open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bayeslora.metrics.compare import Comparison
from bayeslora.plain_text import counted
from bayeslora.reporting.answers import Answers, answers_of
from bayeslora.reporting.assess import (
    Assessed,
    clusters_of,
    doubtful,
    miscalibrated,
    misses_more_than_chance,
)
from bayeslora.reporting.findings import Finding, bias
from bayeslora.reporting.limits import where_not_to_trust
from bayeslora.reporting.standing import Standing, standing_of
from bayeslora.reporting.steps import steps
from bayeslora.reporting.text import listed, named, number, percent


def in_plain_words(
    methods: Sequence[Assessed], comparison: Comparison | None, sets: Mapping[str, str]
) -> tuple[Finding, ...]:
    """Return the answers to a reader's questions; nothing where no row has a label.

    Args:
        methods: At least one method.
        comparison: Paired differences from the method of lowest NLL, if there are any.
        sets: Label of each out-of-distribution set by its name.
    """
    labelled = [one for one in methods if "nll" in one.scores]
    if not labelled:
        return ()
    standing = standing_of("nll", labelled, comparison)
    method = next(one for one in labelled if one.label == standing.label)
    leader = method.each[0]
    answers = answers_of(leader.method.predictions, clusters_of(leader))
    found = [
        Finding("How right is it?", (_how_right(leader, answers),)),
        Finding("How sure is it, and may it be?", (_how_sure(leader),)),
        where_not_to_trust(leader, answers, sets),
        Finding("What to do", tuple(steps(leader, answers, sets)), "advice"),
    ]
    if standing.others or method.fits:
        found.insert(0, Finding("Which method is this about?", (_which(method, standing),)))
    return tuple(found)


def _which(method: Assessed, standing: Standing) -> str:
    about = f"About {named(method.label)}"
    if method.fits:
        about = (
            f"About {named(method.fits[0].label)}, the first of the {len(method.fits)} seeds of"
            f" {named(method.label)}"
        )
    if not standing.others:
        return f"{about}."
    fit = "whose probabilities fit the true classes best"
    opening = f"{about}, {fit}"
    if standing.equal:
        opening += f", as those of {listed([named(label) for label in standing.equal])} do"
    behind = [named(label) for label in standing.tied if label not in standing.equal]
    if behind:
        return f"{opening}; on these rows {listed(behind)} cannot be told from it."
    if len(standing.equal) == standing.others:
        return f"{opening} equally well."
    return f"{opening}, by more than chance explains."


def _how_right(leader: Assessed, answers: Answers) -> str:
    score = leader.scores["accuracy"]
    common = float(answers.class_counts.max() / answers.class_counts.sum())
    found = (
        f"It names the right class for {percent(score.value)} of the"
        f" {counted(len(answers.correct), 'row')} that it was tried on. On all rows of this kind"
        f" the share is likely between {percent(score.low)} and {percent(score.high)}."
    )
    always = f"Always naming the most common class would be right for {percent(common)}"
    if score.low <= common:
        return f"{found} {always}, so it is not shown to be any better than that."
    return f"{found} {always}."


def _how_sure(leader: Assessed) -> str:
    scores = leader.scores
    gap = scores["overconfidence"]
    said = percent(scores["mean_confidence"].value)
    opening = (
        f"On average it says that it is {said} sure, and it is right for"
        f" {percent(scores['accuracy'].value)}"
    )
    if not gap.has_interval:
        further = miscalibrated(leader)
        but = ", but level by level its confidence is further off than chance explains" * further
        return f"{opening}. These are too few rows to judge that average{but}."
    ends = sorted((abs(gap.low), abs(gap.high)))
    size = f"{_points(abs(gap.value))} points (likely {_points(ends[0])} to {_points(ends[1])})"
    if bias(leader) != "none":
        way = "too sure" if bias(leader) == "over" else "less sure than it could be"
        perhaps = "" if miscalibrated(leader) else ", though that may be chance"
        return f"{opening}: {way}, by {size}{perhaps}."
    if miscalibrated(leader) and misses_more_than_chance(leader.points):
        return (
            f"{opening}, which is no difference beyond chance. But that is an average: at some"
            " levels it is surer than it is right, at others less."
        )
    if miscalibrated(leader):
        return (
            f"{opening}, which is no difference beyond chance. But that is an average: level by"
            " level, its confidence is further off than chance explains."
        )
    if doubtful(leader):
        return (
            f"{opening}, which is no difference beyond chance. Level by level, its confidence is"
            " somewhat off, or that is chance."
        )
    return (
        f"{opening}. That is no sign that its confidence is wrong. But it is no proof that it is"
        f" right either: with {counted(scores.n_labelled, 'row')}, its average confidence could"
        f" still be off by up to {_points(ends[1])} points without showing."
    )


def _points(share: float) -> str:
    return number(100 * np.abs(share), digits=1)
