"""What page, model card and terminal say about the facts, in the words of `sentences.toml`.

No sentence claims more than the intervals allow: a method is called best only together with those
tied with it, and biased only if its interval excludes zero. Sentences on a single method are about
the method to use, and its first seed; names are marked by `text.named`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.ood import EPISTEMIC, FALLBACK, NEGLIGIBLE
from bayeslora.metrics.scores import LEAST_ROWS, NO_INTERVAL, OODScores, Scores
from bayeslora.plain_text import counted
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import Assessed, Point, Share, every_fit
from bayeslora.reporting.blocks import Finding, Kind, Overview, Tile
from bayeslora.reporting.facts import (
    CHANCE,
    MISCALIBRATED,
    SURE,
    Calibration,
    Facts,
    Standing,
    Verdict,
    better_score,
    calibration_of,
    detection_of,
    is_blind,
)
from bayeslora.reporting.text import (
    hundredths,
    listed,
    listed_names,
    named,
    number,
    percent,
    phrase,
    say,
    score_words,
    share_interval,
    shown_ece,
    whole_percent,
    words,
)


def verdict_of(scores: Scores) -> tuple[str, Kind]:
    """Return whether labelled probabilities can be used as they are, in a few words."""
    calibration = calibration_of(scores)
    entry, gap = words()["verdicts"][calibration.verdict], scores["overconfidence"]
    if calibration.verdict == "few" and not gap.has_interval and scores.n_labelled >= LEAST_ROWS:
        return say("no_interval"), entry["kind"]
    return phrase(entry["badge"], **_values(scores, calibration)), entry["kind"]


def calibration_sentence(scores: Scores) -> str:
    """Return the evidence on calibration, the same for every verdict, without its subject."""
    gap, digits = scores["overconfidence"], scores.gap_digits
    ends = f"({NO_INTERVAL})"
    if gap.has_interval:
        ends = share_interval(gap.low, gap.high, signed=True, digits=digits)
    return say(
        "evidence",
        gap=f"{hundredths(gap.value, signed=True, digits=digits)} points {ends}",
        bins=bins_that_miss(calibration_of(scores).points),
        ece=shown_ece(scores),
        chance="" if scores.calibration_p is None else say("by_chance", scores=scores),
    )


def bins_that_miss(points: Sequence[Point]) -> str:
    """Return how many bins miss the diagonal, and how many are expected to."""
    missed = sum(point.off_diagonal for point in points)
    return say(
        "bins",
        missed=missed,
        bins=len(points),
        miss="misses" if 1 in (missed, len(points)) else "miss",
        expected=number(CHANCE * len(points), digits=1),
    )


def _values(scores: Scores, calibration: Calibration) -> dict[str, object]:
    """Return the values in the words of a verdict, but `of`."""
    gap, chance = scores["overconfidence"], scores.ece_if_calibrated
    return {
        "scores": scores,
        "calibration": calibration,
        "gap": hundredths(abs(gap.value), digits=scores.gap_digits),
        "ends": " to ".join(hundredths(end, signed=True) for end in (gap.low, gap.high)),
        "ece": hundredths(scores["ece"].value),
        "chance": "" if chance is None else f" (chance: {hundredths(chance)})",
        "confident": calibration.sure and say("confident", sure=calibration.sure),
    }


def overview(facts: Facts) -> Overview:
    """Return the first screen."""
    leader = facts.leader
    if leader is None:
        return _unlabelled(facts)
    fit = leader.each[0]
    verdict, kind = verdict_of(fit.scores)
    one_of_several = len(facts.methods) > 1 or bool(leader.fits)
    judged = [calibration_of(each.scores) for each in leader.each]
    if len({each.way for each in judged if each.verdict in MISCALIBRATED}) > 1:
        verdict, kind = say("seeds_disagree", name=leader.label), "warning"
    elif one_of_several:
        verdict = f"{named(fit.label)}: {verdict[0].lower()}{verdict[1:]}"
    fits = enumerate(every_fit(facts.methods), start=1)
    return Overview(
        verdict,
        kind,
        _about(facts) if one_of_several else "",
        tuple(_tiles(fit)),
        f"reliability-{next(index for index, other in fits if other is fit)}",
        say("reliability_caption", bins=bins_that_miss(fit.points)),
    )


def _unlabelled(facts: Facts) -> Overview:
    """Return the first screen of the first method if no row has a label."""
    first = facts.methods[0].each[0]
    predictions, mean = first.method.predictions, first.scores["mean_confidence"]
    sure = float((predictions.confidence >= SURE).mean())
    tiles = (
        Tile("Examples", f"{len(predictions):,}", "none labelled"),
        Tile("Mean confidence", percent(mean.value), share_interval(mean.low, mean.high)),
        Tile(f"Confidence {SURE:g} or more", percent(sure), "of examples"),
    )
    about = named(first.label) if len(facts.methods) > 1 else ""
    caption = say("unlabelled_caption")
    return Overview(say("unlabelled_verdict"), "open", about, tiles, "confidence-1", caption)


def _about(facts: Facts) -> str:
    """Return why the first screen shows this fit, and which methods are tied."""
    choice, leader, reason = facts.choice, facts.leader, ""
    if not facts.same_classes:
        reason = say("classes_differ", count=len(facts.methods))
    elif facts.are_samples:
        reason = say("first_sample", count=len(facts.methods))
    elif choice is not None and leader is not None and len(facts.labelled) > 1:
        sound = choice.reasons and not facts.verdicts(leader) & {*MISCALIBRATED, "sure"}
        reason = "Recommended" if sound else "Lowest NLL"
        if choice.equal:
            reason += f", tied with {listed_names(choice.equal, 3)}"
        elif sound:
            reason += f": {choice.reasons[0]}"
        if facts.comparison is None:
            reason += ", on examples that may differ"
    if leader is None or not leader.fits:
        return reason
    seeds = say("first_seed", name=leader.fits[0].label, count=len(leader.fits))
    return "; ".join(filter(None, (reason, seeds)))


def _tiles(fit: Assessed) -> Iterator[Tile]:
    accuracy, gap = fit.scores["accuracy"], fit.scores["overconfidence"]
    ends = share_interval(accuracy.low, accuracy.high)
    yield Tile("Accuracy", percent(accuracy.value), ends)
    stated = percent(fit.scores["mean_confidence"].value)
    yield Tile("Mean confidence", stated, "stated on average")
    digits = fit.scores.gap_digits
    value = hundredths(gap.value, signed=True, digits=digits)
    ends = share_interval(gap.low, gap.high, signed=True, digits=digits)
    yield Tile("Calibration gap", value, f"points {ends}")
    surest = fit.answers.surest()
    if surest is not None:
        sure, rest = surest
        title = f"least confident {whole_percent(rest.size / (rest.size + sure.size))}"
        task = "Hand to a person: " if _should_be_checked(sure, rest) else ""
        title = f"{task}{title}" if task else title.capitalize()
        # Short: on a phone it stands beside the value.
        yield Tile(title, percent(rest.value), f"correct; rest: {percent(sure.value)}")


WIDE = 0.02
"""Half-width of the interval of the gap between confidence and accuracy from which to advise more
labels."""

USABLE = 0.5
"""Accuracy below which passing the least confident examples to a person does not help."""


def advice(facts: Facts) -> Finding | None:
    """Return what to do, or None if the scores do not show it."""
    leader, choice = facts.leader, facts.choice
    sentences: list[str] = []
    if leader is not None and choice is not None:
        if choice.reasons:
            fact, names = "choose" if choice.equal else "prefer", (choice.label, *choice.equal)
            sentences.append(say(fact, names=names, reasons=listed(choice.reasons)))
        sentences += [*_face_value(facts), *_person(leader, _of([leader.label], facts))]
    sentences += [_flag(facts, *named_set) for named_set in facts.sets.items()]
    if leader is not None:
        sentences += _more_labels(leader, _of([leader.label], facts))
    return Finding("advice", "What to do", tuple(sentences), "advice") if sentences else None


def _of(labels: Sequence[str], facts: Facts) -> str:
    several = len(facts.methods) > 1 or any(method.fits for method in facts.methods)
    return f" of {listed_names(labels)}" if several else ""


def _face_value(facts: Facts) -> Iterator[str]:
    """Say what to do with the probabilities of the methods to use and of miscalibrated ones.

    Of several seeds, the worst verdict counts.
    """
    choice, groups = facts.choice, dict[tuple[int, Verdict, str], list[Assessed]]()
    for method in facts.labelled:
        place, verdict = min(
            (place, verdict)
            for place, verdict in enumerate(words()["verdicts"])
            if verdict in facts.verdicts(method)
        )
        to_use = choice is not None and method.label in (choice.label, *choice.equal)
        if to_use or verdict in MISCALIBRATED:
            notes = method.method.predictions.metadata
            # A model can get a posterior; a file of probabilities can only be recalibrated.
            verb = "calibrate" if notes.get("calibrated") == "no" else "recalibrate"
            verb = "" if "recalibration" in notes or notes.get("calibrated") == "yes" else verb
            groups.setdefault((place, verdict, verb), []).append(method)
    for (_, verdict, verb), methods in sorted(groups.items(), key=lambda group: group[0]):
        entry, scores = words()["verdicts"][verdict], methods[0].each[0].scores
        if scores["overconfidence"].has_interval or verdict != "few":
            sentence = entry["advice"] if verb else entry.get("recalibrated", entry["advice"])
            of = _of([method.label for method in methods], facts)
            values = _values(scores, calibration_of(scores))
            yield phrase(sentence, of=of, recalibrate=verb, **values)
            if verdict in MISCALIBRATED and values["confident"] and len(methods) == 1:
                yield say("limit_sure", confident=values["confident"])


def _should_be_checked(sure: Share, rest: Share) -> bool:
    """Return whether a person should check the least confident examples, the `rest`."""
    return sure.low > rest.high and sure.value >= USABLE


def _person(leader: Assessed, whose: str) -> list[str]:
    """Advise passing on the least confident examples if their accuracy is clearly lower."""
    surest = leader.answers.surest()
    if surest is None or not _should_be_checked(*surest):
        return []
    sure, rest = surest
    passed = whole_percent(rest.size / (sure.size + rest.size))
    return [say("person", whose=whose, passed=passed, rest=rest, sure=sure)]


def _flag(facts: Facts, name: str, label: str) -> str:
    """Return how to flag inputs like those of a set, or why not to.

    The detector is that of the method to use unless another is clearly better.
    """
    best, result = facts.detectors[name]
    leader = facts.leader
    if leader is not None and best.is_top(leader.label):
        best, result = replace(best, label=leader.label), leader.scores.ood[name]
    end = f"highest {score_words(result.score)}"
    return phrase(
        words()["flags"][detection_of(result)],
        label=label,
        result=result,
        better=result.by_score[result.better]["auroc"].value if result.better else 0,
        whose=f" of {named(best.label)}" if best.others else "",
        end="lowest confidence" if result.score == "max_probability" else end,
    )


def _more_labels(leader: Assessed, whose: str) -> list[str]:
    clusters = leader.each[0].answers.clusters
    # Examples of the same clusters tell little more.
    size = counted(leader.scores.n_labelled, "labelled example")
    if clusters is not None:
        size = f"{counted(len({*clusters}), 'cluster')} of labelled examples"
    gaps = [fit.scores["overconfidence"] for fit in leader.each]
    half_widths = [(gap.high - gap.low) / 2 for gap in gaps if gap.has_interval]
    if not half_widths:
        return [say("label_more", size=size)]
    if max(half_widths) < WIDE:
        return []
    return [say("label_more_if", size=size, whose=whose, points=hundredths(max(half_widths)))]


def findings(facts: Facts) -> tuple[Finding, ...]:
    """Return all findings, in order."""
    leader = facts.leader
    if leader is None:
        first = [Finding("unlabelled", "No labels", (say("unlabelled"),))]
    else:
        fits = every_fit(facts.labelled)
        first = [*_ranking(facts), _accuracy(leader.each[0]), *_calibration(fits)]
        first.append(_limits(leader.each[0], facts))
    sets = (
        Finding("sets", f"Prediction sets: {named(fit.label)}", tuple(sentences))
        for fit in every_fit(facts.methods)
        if (sentences := set_sentences(fit.method.predictions, fit.scores))
    )
    return (*first, *sets, *(_detection(facts, name) for name in facts.sets))


def _ranking(facts: Facts) -> list[Finding]:
    """Return the ranking of methods; empty for a single method."""
    if facts.are_samples:
        return [_samples(facts)]
    nll, accuracy = facts.standing("nll"), facts.standing("accuracy")
    if nll is None or accuracy is None:
        return [Finding("ranking", "Different classes", (say("not_compared"),), "warning")]
    if not nll.others:
        return []
    standings = {"lowest_nll": nll, "highest_accuracy": accuracy}
    sentences = [say(fact, best=best, lead=_lead(best)) for fact, best in standings.items()]
    return [Finding("ranking", "Best predictions", tuple(sentences))]


def _samples(facts: Facts) -> Finding:
    """Return what changed between samples of one model."""
    first, sentences = facts.labelled[0].label, []
    for other in facts.labelled[1:]:
        changes = [
            say(
                "change",
                key="NLL" if change.key == "nll" else change.key.replace("_", " "),
                value=number(change.value, signed=True),
                p=change.p,
            )
            for change in facts.changes
            if change.label == other.label
        ]
        sentences.append(say("changes", first=first, other=other.label, changes=listed(changes)))
    changed = any(change.p < SIGNIFICANT for change in facts.changes)
    sentences.append(say("samples_changed" if changed else "samples_alike"))
    kind: Kind = "warning" if changed else "plain"
    return Finding("samples", "Samples of one model", tuple(sentences), kind)


def _lead(best: Standing) -> str:
    """Return the comparison with the other methods, the second half of a sentence, if any."""
    if best.tied:
        whom = "all others" if len(best.tied) == best.others > 1 else listed_names(best.tied)
        reason = f"compared {best.paired}" if best.paired else "intervals overlap"
        return say("tied", whom=whom, reason=reason)
    return say("lead", reason=f" ({best.paired})" if best.paired else "") if best.others else ""


def _accuracy(leader: Assessed) -> Finding:
    """Return the baseline of the accuracy, which the first screen states."""
    counts = leader.answers.class_counts
    common = float(counts.max() / counts.sum())
    sentence = say(
        "baseline",
        name=leader.label,
        better="better" if leader.scores["accuracy"].low > common else "not shown to be better",
        common=common,
        size=len(leader.answers.rows),
    )
    return Finding("accuracy", "Accuracy", (sentence,))


def _calibration(fits: Sequence[Assessed]) -> Iterator[Finding]:
    """Yield the fits of every verdict, the worst first."""
    verdicts: dict[Verdict, Any] = words()["verdicts"]

    def place(fit: Assessed) -> tuple[int, str]:
        calibration = calibration_of(fit.scores)
        way = calibration.way if calibration.verdict in ("biased", "slight") else ""
        return list(verdicts).index(calibration.verdict), way

    for (index, _), group in groupby(sorted(fits, key=place), key=place):
        verdict = list(verdicts)[index]
        entry = verdicts[verdict]
        fits = list(group)
        sentences = [f"{named(fit.label)}: {calibration_sentence(fit.scores)}" for fit in fits]
        topic = phrase(entry["topic"], calibration=calibration_of(fits[0].scores))
        kind: Kind = "plain" if entry["kind"] == "open" else entry["kind"]
        yield Finding(verdict, topic, tuple(sentences), kind)


def _limits(leader: Assessed, facts: Facts) -> Finding:
    """Return the limits that the examples show, and that nothing else is known.

    It is a warning only if the confidence is shown to be wrong, or out-of-distribution inputs go
    unnoticed: other limits hold for calibrated methods too.
    """
    calibration, sure = calibration_of(leader.scores), leader.scores.sure
    sentences = []
    if sure is not None and sure.accuracy is not None and sure.accuracy < 1:
        confident = say("confident", sure=Point(**vars(sure)))
        sentences.append(say("limit_sure", confident=confident))
    tested = [name for name in facts.sets if name in leader.scores.ood]
    for name in tested:
        confidence = leader.method.ood[name].predictions.confidence
        sentences.append(
            say(
                "limit_ood",
                name=facts.sets[name],
                mean=confidence.mean(),
                share=(confidence >= SURE).mean(),
                size=len(confidence),
            )
        )
    unnoticed = any(is_blind(leader.scores.ood[name]) for name in tested)
    wrong = calibration.sure is not None and calibration.verdict in MISCALIBRATED
    kind: Kind = "warning" if wrong or unnoticed else "plain"
    topic = f"Limits of {named(leader.label)}"
    return Finding("limits", topic, (*sentences, say("unseen")), kind)


def _detection(facts: Facts, name: str) -> Finding:
    """Return how well the methods detect an out-of-distribution set."""
    best, result = facts.detectors[name]
    tested = [method for method in facts.methods if name in method.scores.ood]
    results = {method.label: method.scores.ood[name] for method in tested}
    detects = "detects the set best" if best.others else "detects the set"
    sentences = [
        say(
            "detects",
            best=best,
            result=result,
            detects="does not detect the set" if is_blind(result) else detects,
            lead=_lead(best),
        )
    ]
    for label, each in results.items():
        sentences += [f"{named(label)}: {note}" for note in detector_notes(each)]
    blind = [label for label, each in results.items() if is_blind(each)]
    unfit = len(blind) == len(results) or detection_of(result) in ("beaten", "doubtful")
    topic = f"Out of distribution: {named(facts.sets[name])}"
    return Finding("ood", topic, tuple(sentences), "warning" if unfit else "plain")


def detector_notes(result: OODScores) -> list[str]:
    """Return sentences on the choice of the score: why not the default, and any better score."""
    notes = []
    if result.doubt:
        why = say(result.doubt, share=NEGLIGIBLE)
        if result.score == EPISTEMIC:
            notes.append(say("do_not_rely", why=why))
        elif result.score == FALLBACK:
            notes.append(say("judged_by", result=result, why=why))
    if better := better_score(result):
        auroc, best = (result.by_score[name]["auroc"].value for name in (result.score, better))
        notes.append(say("separates_better", result=result, better=best, auroc=auroc))
    return notes


def set_sentences(predictions: Predictions, scores: Scores) -> list[str]:
    """Return sentences on the prediction sets; empty without sets."""
    sets, available = predictions.sets, predictions.available
    if "set_size" not in scores or sets is None:
        return []
    options = f"{predictions.num_classes} classes"
    if available is not None:
        options = f"{number(float(predictions.num_options.mean()), digits=2)} options"
    if sets.all() if available is None else (sets == available).all():
        return [say("all_in_sets", options=options)]
    share = scores["empty_sets"].value
    size = say(
        "set_size",
        size=number(scores["set_size"].value, digits=2),
        options=options,
        singletons=scores["singletons"].value,
        empty=f" and {percent(share)} none" if share else "",
    )
    if "coverage" not in scores:
        return [size]
    alpha = predictions.metadata.get("conformal_alpha")
    compared = "" if alpha is None else f"; {percent(1 - float(alpha))} was requested"
    covered = say("covered", covered=scores["coverage"], n=scores.n_labelled, compared=compared)
    return [covered, size]
