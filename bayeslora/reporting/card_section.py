"""The reliability section of a Hugging Face model card, in Markdown between two markers."""

from __future__ import annotations

from collections.abc import Mapping

from bayeslora._version import __version__
from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.scores import Score, Scores
from bayeslora.reporting.assess import miscalibration_p, occupied
from bayeslora.reporting.detectors import detector_notes, score_words
from bayeslora.reporting.tables import escape_markdown
from bayeslora.reporting.text import brief, interval, number, p_text, shown_points

START = "<!-- bayeslora reliability: start -->"
"""Opens the section; everything up to `END` is replaced when the card is updated."""

END = "<!-- bayeslora reliability: end -->"
"""Closes the section."""

DATASET = "evaluation rows"
"""What the rows are called where no name is given."""

CARD_SCORES: Mapping[str, str] = {
    "accuracy": "Accuracy ↑",
    "nll": "NLL (nats) ↓",
    "brier": "Brier score ↓",
    "ece": "Calibration error (ECE) ↓",
    "overconfidence": "Overconfidence →0",
    "aurc": "Risk over coverage (AURC) ↓",
    "coverage": "Coverage of prediction sets",
    "set_size": "Size of prediction sets ↓",
}
"""Scores of the section, those that are there, in words."""


def model_card_section(scores: Scores, *, dataset: str = DATASET) -> str:
    """Return the section, markers included, without a trailing newline.

    It holds the scores with their 95 % intervals, what they say about confidence, the bins of the
    reliability diagram, and out-of-distribution detection where it was measured.

    Args:
        scores: What `evaluate` returned for the model.
        dataset: What the rows are called.
    """
    rows = f"{scores.n_labelled or scores.n:,} {'' if scores.n_labelled else 'un'}labelled rows"
    blocks = [
        START,
        "## Reliability",
        f"Measured on {rows} ({escape_markdown(brief(dataset))}), {scores.num_classes} classes,"
        f" {scores.num_bins} bins. Brackets hold 95 % confidence intervals.",
        _score_table(scores),
    ]
    if "overconfidence" in scores:
        blocks.append(_bias(scores))
    if scores.bins:
        blocks += ["### How often it is right, given how sure it is", _bin_table(scores)]
    if scores.ood:
        blocks += ["### Unfamiliar rows", _ood_table(scores), *_ood_notes(scores)]
    blocks += [f"Made by bayeslora {__version__}.", END]
    return "\n\n".join(blocks)


def _score_table(scores: Scores) -> str:
    words = CARD_SCORES if scores.n_labelled else {"mean_confidence": "Mean confidence"}
    lines = ["| Score | Value | 95 % interval |", "| --- | ---: | ---: |"]
    lines += [
        f"| {title} | {_value(scores[key], key)} | {_ends(scores[key], key)} |"
        for key, title in words.items()
        if key in scores
    ]
    return "\n".join(lines)


def _value(score: Score, key: str) -> str:
    return number(score.value, signed=key == "overconfidence")


def _ends(score: Score, key: str = "") -> str:
    return interval(score.low, score.high, signed=key == "overconfidence")


def _bias(scores: Scores) -> str:
    bias, together = scores["overconfidence"], miscalibration_p(scores)
    points = shown_points(bias, signed=True)
    perhaps = "" if together < SIGNIFICANT else ", or this is chance"
    if bias.low > 0:
        words = f"The model is overconfident{perhaps}: mean confidence minus accuracy is {points}."
    elif bias.high < 0:
        words = f"The model is underconfident{perhaps}: mean confidence minus accuracy is {points}."
    elif bias.has_interval:
        words = f"Mean confidence and accuracy agree within the interval: {points}."
    else:
        words = f"Mean confidence minus accuracy is {points}."
    if scores.ece_if_calibrated is not None:
        floor = number(scores.ece_if_calibrated)
        words += f" On as many rows, a calibrated model would have an ECE of about {floor}"
        p = scores.calibration_p
        words += "." if p is None else f", and at least this one with a probability of {p_text(p)}."
    if together < SIGNIFICANT:
        words += " Its confidence is further off than chance explains: recalibrate it."
    return words


def _bin_table(scores: Scores) -> str:
    lines = ["| Confidence | Accuracy | 95 % interval | Rows |", "| ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {number(bin_.confidence, digits=2)} | {number(bin_.accuracy, digits=2)} |"
        f" {interval(bin_.accuracy_low, bin_.accuracy_high, digits=2)} | {bin_.count:,} |"
        for bin_ in occupied(scores.bins)
    ]
    return "\n".join(lines)


def _ood_table(scores: Scores) -> str:
    lines = [
        "| Set | Rows | Uncertainty | AUROC ↑ | FPR95 ↓ |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    lines += [
        f"| {escape_markdown(brief(name))} | {one.n_out:,} |"
        f" {escape_markdown(score_words(one.score))} |"
        f" {number(one.auroc.value)} {_ends(one.auroc)} |"
        f" {number(one.fpr95.value)} {_ends(one.fpr95)} |"
        for name, one in scores.ood.items()
    ]
    return "\n".join(lines)


def _ood_notes(scores: Scores) -> list[str]:
    return [
        f"{escape_markdown(brief(name))}: {escape_markdown(note)}"
        for name, one in scores.ood.items()
        for note in detector_notes(one)
    ]
