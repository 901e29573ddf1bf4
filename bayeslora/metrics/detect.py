"""Scores of OOD detection for every uncertainty that two sets of predictions share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.metrics.bootstrap import Rows, Statistic
from bayeslora.metrics.catalogue import Kind
from bayeslora.metrics.detector import FALLBACK, default_detector, doubt
from bayeslora.metrics.intervals import Resampling, Spread
from bayeslora.metrics.ood import DETECTION, detection, thresholds
from bayeslora.metrics.scores import OODScores, Score
from bayeslora.metrics.standard import detection_areas
from bayeslora.predictions.record import Predictions

_KINDS: Mapping[str, Kind] = {
    "auroc": "share",
    "aupr": "mean",
    "fpr95": "share",
    "aupr_in": "mean",
}


@dataclass(frozen=True, eq=False)
class Detected:
    """How well each uncertainty tells one OOD set from the in-distribution rows.

    Attributes:
        n_in: Number of in-distribution rows.
        n_out: Number of OOD rows.
        score: The uncertainty that is reported first.
        names: The S uncertainties that both sets have.
        values: [S, 4] in the order of `DETECTION`.
        spread: Their resampled deviations, [R, S · 4].
        doubt: Why the epistemic uncertainty says nothing, or empty.
    """

    n_in: int
    n_out: int
    score: str
    names: tuple[str, ...]
    values: NDArray[np.float64]
    spread: Spread
    doubt: str = ""

    def scores(self) -> OODScores:
        """Return the scores with their intervals."""
        by_score = {
            name: detection_scores(self.values[place], self.spread, place * len(DETECTION))
            for place, name in enumerate(self.names)
        }
        return OODScores(
            n_in=self.n_in,
            n_out=self.n_out,
            score=self.score,
            by_score=by_score,
            doubt=self.doubt,
            better=FALLBACK if self._is_beaten() else "",
            **by_score[self.score],
        )

    def _is_beaten(self) -> bool:
        """Return whether the highest probability has a higher AUROC than `score`, beyond chance.

        Both are resampled with the same rows, so the interval of their difference is a paired one.
        """
        auroc = DETECTION.index("auroc")
        ours, simple = (
            self.names.index(name) * len(DETECTION) + auroc for name in (self.score, FALLBACK)
        )
        known = self.spread.deviations
        gained = known[:, [simple]] - known[:, [ours]]
        value = float(self.values.flat[simple] - self.values.flat[ours])
        difference = Spread(gained, np.zeros(1), "percentile", self.spread.units)
        return difference.score(0, value, -1.0, 1.0, kind="mean").low > 0


def detect(
    inside: Predictions,
    outside: Mapping[str, Predictions],
    ood_score: str | None = None,
    how: Resampling | None = None,
    *,
    clusters: Mapping[str, NDArray[np.int64]] | None = None,
    inside_clusters: NDArray[np.int64] | None = None,
) -> dict[str, Detected]:
    """Return how well the uncertainties tell the rows of each OOD set from those of `inside`.

    Both sets are resampled, each by itself, and `inside` alike for all sets; labels play no part.

    Args:
        inside: In-distribution predictions.
        outside: Out-of-distribution predictions, the positive class, by name of the set.
        ood_score: The uncertainty that is reported first; by default that of `default_detector`.
        how: How the intervals are made.
        clusters: Clusters of the rows of OOD sets, by name of the set, where they have some.
        inside_clusters: [N_in] cluster of each in-distribution row, or None.

    Raises:
        InputError: One of the sets lacks `ood_score`.
    """
    groups = clusters or {}
    return {
        name: _detect(
            name,
            (inside, other),
            ood_score,
            how or Resampling(),
            clusters=[inside_clusters, groups.get(name)],
            stream=stream,
        )
        for stream, (name, other) in enumerate(outside.items())
    }


def detection_scores(values: NDArray[np.float64], spread: Spread, start: int) -> dict[str, Score]:
    """Return scores by the keys of `DETECTION`.

    Where resamples cannot tell, as of two sets that do not overlap, AUROC is treated as a share of
    as many rows as the smaller set has: its variance is at most that (Birnbaum and Klose 1957,
    Annals of Mathematical Statistics 28).

    Args:
        values: [4].
        spread: Holds their deviations.
        start: Their first place in it.
    """
    return {
        key: spread.score(start + place, float(values[place]), 0.0, 1.0, kind=_KINDS[key])
        for place, key in enumerate(DETECTION)
    }


def _detect(
    name: str,
    sets: tuple[Predictions, Predictions],
    ood_score: str | None,
    how: Resampling,
    *,
    clusters: list[NDArray[np.int64] | None],
    stream: int,
) -> Detected:
    inside, outside = sets
    shared = [score for score in inside.uncertainty_names if score in outside.uncertainty_names]
    if ood_score is None:
        ood_score = default_detector(inside, outside)
    elif ood_score not in shared:
        problem = unknown_choice("uncertainty score", ood_score, shared)
        raise InputError(f"OOD set {name!r}: {problem}")
    pairs = [(inside.uncertainty(score), outside.uncertainty(score)) for score in shared]
    values = np.array([detection(thresholds(*pair)) for pair in pairs])
    values[:, [DETECTION.index(key) for key in ("auroc", "aupr", "aupr_in")]] = [
        detection_areas(*pair) for pair in pairs
    ]

    def prepare(rows_in: Rows, rows_out: Rows) -> Statistic:
        kept = [thresholds(of_in[rows_in], of_out[rows_out]) for of_in, of_out in pairs]
        return lambda *counts: np.concatenate([detection(one, *counts) for one in kept])

    spread = how.spread(prepare, [len(inside), len(outside)], clusters, stream=stream)
    return Detected(
        len(inside),
        len(outside),
        ood_score,
        tuple(shared),
        values,
        spread,
        doubt(inside, outside),
    )
