"""Scores of corrupted rows by severity, and of attacked rows by the radius of the attack."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bayeslora.errors import InputError
from bayeslora.io.files import shown_path
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.robustness import KEYS, SPACES, Robustness, check_curves
from bayeslora.metrics.scores import Score
from bayeslora.plain_text import clean, counted, listed, shorten
from bayeslora.predictions.collection import Source
from bayeslora.predictions.names import unique_labels
from bayeslora.reporting.assess import Assessed, Evaluation
from bayeslora.reporting.tables import Cell, Column, Row, Table

logger = logging.getLogger(__name__)

SHIFT_KEYS = ("accuracy", "nll", "ece")
"""The scores to keep."""

_FINGERPRINT = "model_fingerprint"


@dataclass(frozen=True)
class ShiftCurve:
    """A method under a corruption such as `typos`, or `attack`.

    `scores` holds those of `SHIFT_KEYS` by severity or radius, ascending; 0: uncorrupted rows.
    """

    label: str
    kind: str
    scores: Mapping[float, Mapping[str, Score]]


def shift_curves(
    methods: Sequence[Assessed], shifted: Sequence[Source], options: Evaluation
) -> tuple[ShiftCurve, ...]:
    """Return a curve for each corruption and method.

    `shifted` are predictions of the same rows, corrupted. Their metadata hold `corruption` and
    `severity`; the model's fingerprint or the name identifies the method.

    Raises:
        InputError: Metadata are missing, two sets are the same corruption and severity, or there
            are no labels.
    """
    groups: dict[tuple[str, str], dict[int, Source]] = {}
    for source in shifted:
        kind, severity = _corruption(source)
        label = _owner(methods, source).label
        by_severity = groups.setdefault((kind, label), {})
        if severity in by_severity:
            raise InputError(
                f"{_called(source)} is {kind} of severity {severity} of {label!r}, and so is "
                f"{_called(by_severity[severity])}"
            )
        by_severity[severity] = source
    by_label = {method.label: method for method in methods}
    curves = []
    for (kind, label), sources in sorted(groups.items()):
        names, results = {0: label}, {0: by_label[label].scores}
        for severity, source in sorted(sources.items()):
            names[severity] = _called(source)
            results[severity] = evaluate(source.predictions, **options.sizes)
        scores: dict[float, dict[str, Score]] = {}
        for severity, result in results.items():
            if not result.n_labelled:
                raise InputError(
                    f"{names[severity]} has no labels, so calibration under shift is not known"
                )
            scores[severity] = {key: result[key] for key in SHIFT_KEYS}
        curves.append(ShiftCurve(label, kind, scores))
    return tuple(curves)


def _corruption(source: Source) -> tuple[str, int]:
    notes = source.predictions.metadata
    kind, severity = notes.get("corruption", ""), notes.get("severity", "")
    if not kind or not (severity.isdecimal() and 0 < int(severity[:3]) < 100):
        raise InputError(
            f"{_called(source)} does not say its corruption and severity, as the Parquet files of "
            "`bayeslora predict --corrupt` do"
        )
    return kind, int(severity[:3])


def _owner(methods: Sequence[Assessed], source: Source) -> Assessed:
    """Return the method that made these predictions."""
    predictions = source.predictions
    if len(methods) == 1:
        return methods[0]
    matches = [
        assessed
        for assessed in methods
        if assessed.method.predictions.metadata.get(_FINGERPRINT)
        == predictions.metadata.get(_FINGERPRINT, "")
    ] or [
        assessed
        for assessed in methods
        if predictions.name in (assessed.label, assessed.method.name)
    ]
    if len(matches) != 1:
        raise InputError(
            f"{_called(source)} was made by none of the methods, or by more than one: "
            f"{', '.join(repr(method.label) for method in methods)}"
        )
    return matches[0]


def _called(source: Source) -> str:
    if source.path is None:
        return f"predictions {source.predictions.name!r}"
    return shown_path(source.path)


_ATTACK_COLUMNS = tuple(map(Column, ("Accuracy", "NLL", "ECE", "Confidence"), ("↑", "↓", "↓", "")))
RobustnessLike = Robustness | str | Path | Sequence[Robustness | str | Path]


def robustness_curves(
    robustness: RobustnessLike | None, names: Collection[str]
) -> tuple[Robustness, ...]:
    """Return the robustness curves of classifiers, read from files if paths are given.

    Logs curves without a method of the same name.

    Raises:
        InputError: A file holds no curve, or the curves are of different inputs.
    """
    if robustness is None:
        return ()
    items = [robustness] if isinstance(robustness, Robustness | str | Path) else list(robustness)
    curves = []
    for item in items:
        if not isinstance(item, Robustness | str | Path):
            raise InputError(f"robustness must be what clf.robustness returns, got {item!r:.80}")
        curves.append(item if isinstance(item, Robustness) else Robustness.load(item))
    check_curves(curves)
    if others := [curve.name for curve in curves if curve.name not in names]:
        logger.warning(
            "the report has the robustness of %s, but no predictions of that name", listed(others)
        )
    return tuple(curves)


def robustness_table(curves: Sequence[Robustness]) -> Table:
    """Return the table of scores of every classifier by the radius of the perturbation."""
    first = curves[0]
    labels = unique_labels([curve.name for curve in curves])
    rows = tuple(
        Row(
            (label if not index else "", f"{point.eps:.4g}"),
            tuple(Cell(*point.scores[key].said()) for key in KEYS),
        )
        for label, curve in zip(labels, curves, strict=True)
        for index, point in enumerate(curve.points)
    )
    scores = ", ".join(
        f"{clean(shorten(label))} {curve.score:.3f}"
        for label, curve in zip(labels, curves, strict=True)
    )
    unit = "the mean norm of an embedding" if first.space == "embeddings" else "the pixels' range"
    no_words = " No text need have these embeddings." if first.space == "embeddings" else ""
    notes = (
        f"ε is a share of {unit}; {counted(first.steps, 'step')} up the loss of the label, the "
        f"worst of {counted(first.restarts, 'random start')} counts.{no_words} Mean accuracy over "
        f"the radii above 0: {scores}."
    )
    caption = f"{SPACES[first.space].capitalize()}: scores by the radius ε of the perturbation."
    return Table(caption, ("Method", "ε"), _ATTACK_COLUMNS, rows, notes)
