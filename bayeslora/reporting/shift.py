"""Scores of corrupted rows by severity, or by the radius of an attack."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bayeslora.errors import InputError
from bayeslora.io.files import shown_path
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.scores import Score, Scores
from bayeslora.predictions.collection import Source
from bayeslora.reporting.assess import Assessed, EvaluateOptions, shared_options

logger = logging.getLogger(__name__)

SHIFT_KEYS = ("accuracy", "nll", "ece")
"""The scores to keep."""

_FINGERPRINT = "model_fingerprint"
_NUMBER = re.compile(r"\d{1,2}(\.\d{1,6})?")


@dataclass(frozen=True)
class ShiftCurve:
    """A method under a corruption such as `typos`.

    `scores` holds those of `SHIFT_KEYS` by severity or radius, ascending; 0: uncorrupted rows.
    """

    label: str
    kind: str
    scores: Mapping[float, Mapping[str, Score]]


def shift_curves(
    methods: Sequence[Assessed], shifted: Sequence[Source], options: EvaluateOptions
) -> tuple[ShiftCurve, ...]:
    """Return a curve for each corruption and method.

    `shifted` are predictions of the same rows, corrupted. Their metadata hold `corruption` and
    `severity`; the model's fingerprint or the name identifies the method.

    Raises:
        InputError: Metadata are missing, two sets are the same corruption and severity, or there
            are no labels.
    """
    groups: dict[tuple[str, str], dict[float, Source]] = {}
    for source in shifted:
        kind, severity = _corruption(source)
        label = _owner(methods, source).label
        by_severity = groups.setdefault((kind, label), {})
        if severity in by_severity:
            raise InputError(
                f"{_called(source)} is {kind} of severity {severity:g} of {label!r}, and so is "
                f"{_called(by_severity[severity])}"
            )
        by_severity[severity] = source
    by_label = {method.label: method for method in methods}
    curves = []
    for (kind, label), sources in sorted(groups.items()):
        scores = {0.0: _shift_scores(by_label[label].scores, label)}
        for severity, source in sorted(sources.items()):
            result = evaluate(source.predictions, **shared_options(options))
            scores[severity] = _shift_scores(result, _called(source))
        curves.append(ShiftCurve(label, kind, scores))
    return tuple(curves)


def _shift_scores(scores: Scores, name: str) -> dict[str, Score]:
    if not scores.n_labelled:
        raise InputError(f"{name} has no labels, so calibration under shift is not known")
    return {key: scores[key] for key in SHIFT_KEYS}


def _corruption(source: Source) -> tuple[str, float]:
    notes = source.predictions.metadata
    kind, severity = notes.get("corruption", ""), notes.get("severity", "")
    if not kind or not _NUMBER.fullmatch(severity) or not float(severity):
        raise InputError(
            f"{_called(source)} does not say its corruption and severity, as the Parquet files of "
            "`bayeslora predict --corrupt` do"
        )
    return kind, float(severity)


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
