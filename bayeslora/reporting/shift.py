"""Scores of corrupted rows by severity: calibration under distribution shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bayeslora.errors import InputError
from bayeslora.files import shown_path
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.scores import Score
from bayeslora.predictions.collection import Source
from bayeslora.reporting.assess import Assessed

SHIFT_KEYS = ("accuracy", "nll", "ece")
"""The scores to keep."""

_FINGERPRINT = "model_fingerprint"


@dataclass(frozen=True)
class ShiftCurve:
    """A method under a corruption.

    Attributes:
        label: The method's label.
        kind: The corruption, such as `typos`, or `attack`.
        scores: Scores of `SHIFT_KEYS` by severity or radius, ascending; 0: uncorrupted rows.
    """

    label: str
    kind: str
    scores: Mapping[float, Mapping[str, Score]]

    def to_json(self) -> dict[str, Any]:
        """Return the curve as a JSON-serialisable dictionary."""
        points = [
            {"severity": severity, **{key: vars(score) for key, score in scores.items()}}
            for severity, scores in self.scores.items()
        ]
        return {"label": self.label, "corruption": self.kind, "scores": points}


def shift_curves(
    methods: Sequence[Assessed], shifted: Sequence[Source], **options: Any
) -> tuple[ShiftCurve, ...]:
    """Return a curve for each corruption and method.

    Args:
        methods: Methods with their scores.
        shifted: Predictions of the same rows, corrupted. Their metadata hold `corruption` and
            `severity`; the model's fingerprint or the name identifies the method.
        **options: Options of `evaluate`.

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
    return tuple(
        ShiftCurve(label, kind, _scores(by_label[label], sources, options))
        for (kind, label), sources in sorted(groups.items())
    )


def _scores(
    assessed: Assessed, sources: Mapping[int, Source], options: Mapping[str, Any]
) -> dict[float, dict[str, Score]]:
    by_severity = {0: assessed.scores}
    for severity in sorted(sources):
        by_severity[severity] = evaluate(sources[severity].predictions, **options)
    for severity, scores in by_severity.items():
        if not scores.n_labelled:
            name = assessed.label if severity == 0 else _called(sources[severity])
            raise InputError(f"{name} has no labels, so calibration under shift is not known")
    return {
        severity: {key: scores[key] for key in SHIFT_KEYS}
        for severity, scores in by_severity.items()
    }


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
