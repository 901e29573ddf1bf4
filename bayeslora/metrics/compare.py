"""Methods side by side on the same rows: paired differences with intervals.

Two methods that are scored on the same rows err together on the hard ones. Resampling rows, and
taking both methods' scores of each resample, keeps that in the difference; intervals of the single
scores lose it, and overlap where the difference is clear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import unknown_choice
from bayeslora.metrics.bootstrap import Rows, Statistic, bootstrap_deviations
from bayeslora.metrics.calibration import NUM_BINS, ece
from bayeslora.metrics.distances import distances
from bayeslora.metrics.intervals import bootstrap_interval
from bayeslora.metrics.pairing import paired
from bayeslora.metrics.rowwise import LabelledRows, row_scores
from bayeslora.metrics.scores import Score
from bayeslora.metrics.top_label import top_label
from bayeslora.predictions import Predictions

COMPARED = ("accuracy", "nll", "brier", "ece")
"""The scores that are compared; for the first higher is better, for the others lower."""


@dataclass(frozen=True)
class ComparisonRow:
    """One method of a comparison.

    Attributes:
        name: Of the predictions.
        scores: The method's own scores on the common rows, by the keys of `COMPARED`.
        differences: Its scores minus those of the reference, paired; zero for the reference.
        distances: Its distances from the method of `Comparison.distance_to`, by the keys of
            `DISTANCES`; empty where there is none.
    """

    name: str
    scores: Mapping[str, Score]
    differences: Mapping[str, Score]
    distances: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Methods on the same labelled rows, best first.

    Attributes:
        by: The score that sets the order of `rows`.
        reference: The method that all are compared with.
        n: Number of labelled rows.
        num_bins: Bins of `ece`.
        num_resamples: Paired bootstrap resamples behind the 95 % intervals.
        seed: Of the bootstrap.
        rows: One a method.
        distance_to: The method that distances are measured from; None where none are.
    """

    by: str
    reference: str
    n: int
    num_bins: int
    num_resamples: int
    seed: int
    rows: tuple[ComparisonRow, ...]
    distance_to: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain mappings, lists and numbers, ready for `json.dumps`."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}


def compare(
    predictions: Sequence[Predictions],
    by: str = "nll",
    *,
    reference: str | None = None,
    distance_to: str | None = None,
    num_bins: int = NUM_BINS,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Return paired differences of accuracy, NLL, Brier score and ECE between methods.

    Rows are matched by id where all methods have ids, else by position. Only labelled rows count.

    Args:
        predictions: Two or more methods' predictions of the same rows, with distinct names.
        by: The score to order the methods by: `accuracy`, `nll`, `brier` or `ece`.
        reference: Name of the method that the others are compared with; the first by default.
        distance_to: Name of the method to measure each method's distance from, such as that of
            exact chains; None measures none. See `bayeslora.metrics.distances`.
        num_bins: Bins of `ece`.
        num_resamples: Bootstrap resamples.
        seed: Of the bootstrap.

    Raises:
        InputError: An option is wrong, names repeat, or the methods differ in their rows, classes
            or labels; the message names the first difference.
    """
    if by not in COMPARED:
        raise unknown_choice("score to compare by", by, COMPARED)
    aligned = paired(predictions)
    names = [one.name for one in aligned]
    chosen = names[0] if reference is None else reference
    for option, name in (("reference", chosen), ("method to measure distances from", distance_to)):
        if name is not None and name not in names:
            raise unknown_choice(option, name, names)
    methods = [row_scores(one) for one in aligned]
    base = names.index(chosen)

    def prepare(kept: Rows) -> Statistic:
        return _statistic([method.take(kept) for method in methods], base, num_bins)

    n = len(methods[0])
    shape = (2, len(methods), len(COMPARED))
    values = prepare(np.arange(n))(np.ones(n, dtype=np.int64)).reshape(shape)
    deviations = bootstrap_deviations(prepare, [n], num_resamples, seed).reshape(-1, *shape)
    far: list[Mapping[str, Score]] = [{} for _ in names]
    if distance_to is not None:
        labelled = [one.take(one.labelled) for one in aligned]
        place = names.index(distance_to)
        far = distances(labelled, place, num_resamples=num_resamples, seed=seed)
    rows = [
        ComparisonRow(
            name,
            scores=_intervals(values[0, m], deviations[:, 0, m], floor=0.0),
            differences=_intervals(values[1, m], deviations[:, 1, m], floor=-math.inf),
            distances=far[m],
        )
        for m, name in enumerate(names)
    ]
    sign = -1 if by == "accuracy" else 1
    rows.sort(key=lambda row: sign * row.scores[by].value)
    return Comparison(by, chosen, n, num_bins, num_resamples, seed, tuple(rows), distance_to)


def _statistic(methods: Sequence[LabelledRows], base: int, num_bins: int) -> Statistic:
    """Return the function from counts to scores and differences, [2 · methods · scores]."""
    means = np.stack([method.means[:, :3] for method in methods])
    surest = [top_label(method.confidence, method.correct) for method in methods]

    def scores(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        linear = counts @ means / counts.sum()
        errors = np.array([[ece(rows, num_bins, counts)] for rows in surest])
        table = np.concatenate([linear, errors], axis=1)
        return np.concatenate([table, table - table[base]]).ravel()

    return scores


def _intervals(
    values: NDArray[np.float64], deviations: NDArray[np.float64], floor: float
) -> dict[str, Score]:
    return {
        key: bootstrap_interval(
            float(values[k]), deviations[:, k], "reflected" if key == "ece" else "percentile", floor
        )
        for k, key in enumerate(COMPARED)
    }
