"""One row of predictions, with names in place of indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PredictedRow:
    """What is predicted for one row.

    Attributes:
        id: Name of the row; None where rows have no names.
        label: Its class; None where it is unlabelled.
        prediction: The most probable class.
        confidence: The probability of that class.
        probs: The probability of every class by name.
        total: Nats, or None.
        aleatoric: Nats, or None.
        epistemic: Nats, or None.
        scores: Further uncertainties by name, higher = more uncertain.
        set: The classes in the row's prediction set, or None.
        columns: Further values by the name of their column; None where unknown.
    """

    id: str | None
    label: str | None
    prediction: str
    confidence: float
    probs: Mapping[str, float]
    total: float | None = None
    aleatoric: float | None = None
    epistemic: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    set: tuple[str, ...] | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
