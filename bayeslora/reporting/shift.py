"""Scores of rows that were made worse on purpose, by how much: what shift does to calibration."""

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
"""The scores that are kept."""

_FINGERPRINT = "model_fingerprint"


@dataclass(frozen=True)
class ShiftCurve:
    """One method under one corruption.

    Attributes:
        label: The method's label.
        kind: The corruption, such as `typos`, or `attack`.
        scores: Scores of `SHIFT_KEYS` by severity or radius, in rising order; 0 are the rows as
            they are.
    """

    label: str
    kind: str
    scores: Mapping[float, Mapping[str, Score]]

    def to_json(self) -> dict[str, Any]:
        """Return the curve as plain mappings and numbers."""
        found = [
            {"severity": severity, **{key: vars(score) for key, score in scores.items()}}
            for severity, scores in self.scores.items()
        ]
        return {"label": self.label, "corruption": self.kind, "scores": found}


def shift_curves(
    methods: Sequence[Assessed], shifted: Sequence[Source], **options: Any
) -> tuple[ShiftCurve, ...]:
    """Return a curve for each corruption and method.

    Args:
        methods: What was scored.
        shifted: Predictions of the same rows, made worse; their metadata say how (`corruption`,
            `severity`), and by the model's fingerprint or the name whose they are.
        **options: Of `evaluate`.

    Raises:
        InputError: Metadata do not say it, two say the same, or there are no labels.
    """
    found: dict[tuple[str, str], dict[int, Source]] = {}
    for source in shifted:
        kind, severity = _corruption(source)
        label = _owner(methods, source).label
        same = found.setdefault((kind, label), {})
        if severity in same:
            raise InputError(
                f"{_called(source)} is {kind} of severity {severity} of {label!r}, and so is "
                f"{_called(same[severity])}"
            )
        same[severity] = source
    by_label = {one.label: one for one in methods}
    return tuple(
        ShiftCurve(label, kind, _scores(by_label[label], sources, options))
        for (kind, label), sources in sorted(found.items())
    )


def _scores(
    one: Assessed, sources: Mapping[int, Source], options: Mapping[str, Any]
) -> dict[float, dict[str, Score]]:
    every = {0: one.scores}
    for severity in sorted(sources):
        every[severity] = evaluate(sources[severity].predictions, **options)
    for severity, scores in every.items():
        if not scores.n_labelled:
            what = one.label if severity == 0 else _called(sources[severity])
            raise InputError(f"{what} has no labels, so calibration under shift is not known")
    return {
        severity: {key: scores[key] for key in SHIFT_KEYS} for severity, scores in every.items()
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
    """Return the method whose predictions these are."""
    mine = source.predictions
    if len(methods) == 1:
        return methods[0]
    same = [
        one
        for one in methods
        if one.method.predictions.metadata.get(_FINGERPRINT) == mine.metadata.get(_FINGERPRINT, "")
    ] or [one for one in methods if mine.name in (one.label, one.method.name)]
    if len(same) != 1:
        raise InputError(
            f"{_called(source)} was made by none of the methods, or by more than one: "
            f"{', '.join(repr(one.label) for one in methods)}"
        )
    return same[0]


def _called(source: Source) -> str:
    if source.path is None:
        return f"predictions {source.predictions.name!r}"
    return shown_path(source.path)
