"""Methods side by side on the same rows: paired differences with intervals.

Two methods that are scored on the same rows err together on the hard ones. Resampling rows, and
taking both methods' scores of each resample, keeps that in the difference; intervals of the single
scores lose it, and overlap where the difference is clear. Beside the interval stands the p-value of
a permutation test, corrected for the number of comparisons (`permutation.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.metrics.bootstrap import Rows, Statistic
from bayeslora.metrics.calibration import NUM_BINS, bin_sums, equal_width_edges
from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.clusters import values_of, without_gaps
from bayeslora.metrics.distances import distances
from bayeslora.metrics.intervals import Method, Resampling, Spread
from bayeslora.metrics.pairing import paired
from bayeslora.metrics.permutation import SCORES_TESTED, holm, permutation_p
from bayeslora.metrics.rowwise import LabelledRows, row_scores
from bayeslora.metrics.scores import Score, without_nan
from bayeslora.metrics.top_label import top_label
from bayeslora.predictions.record import Predictions

COMPARED = SCORES_TESTED
"""The scores that are compared; for the first higher is better, for the others lower."""

# A row on which two methods differ moves the difference of their ECEs by at most 2/n.
_FARTHEST = {key: 2.0 if key == "ece" else SCORES[key].high for key in COMPARED}


@dataclass(frozen=True)
class ComparisonRow:
    """One method of a comparison.

    Attributes:
        name: Of the predictions.
        scores: The method's own scores on the common rows, by the keys of `COMPARED`.
        differences: Its scores minus those of the reference, paired; zero for the reference.
        distances: Its distances from the method of `Comparison.distance_to`, by the keys of
            `DISTANCES`; empty where there is none.
        p: The p-value of each difference by a two-sided permutation test; empty for the reference.
        p_holm: The same corrected for the number of methods, score by score.
    """

    name: str
    scores: Mapping[str, Score]
    differences: Mapping[str, Score]
    distances: Mapping[str, Score] = field(default_factory=dict)
    p: Mapping[str, float] = field(default_factory=dict)
    p_holm: Mapping[str, float] = field(default_factory=dict)


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
        interval: How bootstrap intervals are made, but those of ECE, which are reflected.
        cluster_by: The column whose equal values mark rows that were drawn together; None where
            rows were drawn one by one.
        num_permutations: Exchanges behind the p-values; 0 where there are none.
    """

    by: str
    reference: str
    n: int
    num_bins: int
    num_resamples: int
    seed: int
    rows: tuple[ComparisonRow, ...]
    distance_to: str | None = None
    interval: str = "percentile"
    cluster_by: str | None = None
    num_permutations: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain mappings, lists and numbers, ready for `json.dumps`."""
        return {
            **without_nan(asdict(self)),
            "rows": [without_nan(asdict(row)) for row in self.rows],
        }


def compare(
    predictions: Sequence[Predictions],
    by: str = "nll",
    *,
    reference: str | None = None,
    distance_to: str | None = None,
    cluster_by: str | None = None,
    num_bins: int = NUM_BINS,
    interval: Method = "percentile",
    num_resamples: int = 1000,
    num_permutations: int = 1999,
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
        cluster_by: A column of the first predictions whose equal values mark rows that belong
            together; they are drawn and exchanged together.
        num_bins: Bins of `ece`.
        interval: `percentile`, or `bca`; the interval of ECE is the reflected one all the same.
        num_resamples: Bootstrap resamples.
        num_permutations: Exchanges behind the p-values; 0 leaves them out.
        seed: Of the bootstrap and of the exchanges.

    Raises:
        InputError: An option is wrong, names repeat, or the methods differ in their rows, classes
            or labels; the message names the first difference.
    """
    if by not in COMPARED:
        raise unknown_choice("score to compare by", by, COMPARED)
    if num_permutations < 0:
        raise InputError(f"num_permutations must be at least 0, got {num_permutations}")
    equal_width_edges(num_bins)
    how = Resampling(num_resamples, seed, interval)
    aligned = paired(predictions)
    names = [one.name for one in aligned]
    chosen = names[0] if reference is None else reference
    for option, name in (("reference", chosen), ("method to measure distances from", distance_to)):
        if name is not None and name not in names:
            raise unknown_choice(option, name, names)
    methods = [row_scores(one) for one in aligned]
    base = names.index(chosen)
    clusters = None
    if cluster_by is not None:
        clusters = without_gaps(values_of(aligned[0], cluster_by)[0][methods[0].index])
    far: list[Mapping[str, Score]] = [{} for _ in names]
    if distance_to is not None:
        labelled = [one.take(one.labelled) for one in aligned]
        far = distances(labelled, names.index(distance_to), how, clusters)
    if num_permutations:
        p = permutation_p(methods, base, num_bins, num_permutations, seed=seed, clusters=clusters)
        plain, corrected = _p_values(p, base)
    else:
        plain = corrected = [{} for _ in names]
    scores, differences = _scores(methods, base, num_bins, how, clusters)
    rows = [
        ComparisonRow(name, scores[m], differences[m], far[m], plain[m], corrected[m])
        for m, name in enumerate(names)
    ]
    sign = -1 if by == "accuracy" else 1
    rows.sort(key=lambda row: sign * row.scores[by].value)
    return Comparison(
        by=by,
        reference=chosen,
        n=len(methods[0]),
        num_bins=num_bins,
        num_resamples=num_resamples,
        seed=seed,
        rows=tuple(rows),
        distance_to=distance_to,
        interval=interval,
        cluster_by=cluster_by,
        num_permutations=num_permutations,
    )


def _scores(
    methods: Sequence[LabelledRows],
    base: int,
    num_bins: int,
    how: Resampling,
    clusters: NDArray[np.int64] | None,
) -> tuple[list[dict[str, Score]], list[dict[str, Score]]]:
    """Return each method's scores and its differences from the reference."""

    def prepare(kept: Rows) -> Statistic:
        return _statistic([method.take(kept) for method in methods], base, num_bins)

    n, width = len(methods[0]), len(methods) * len(COMPARED)
    values = prepare(np.arange(n))(np.ones(n))
    spread = how.spread(prepare, [n], [clusters])
    starts = range(0, width, len(COMPARED))
    scores = [_intervals(values, spread, start, signed=False) for start in starts]
    differences = [_intervals(values, spread, width + start, signed=True) for start in starts]
    differences[base] = dict.fromkeys(COMPARED, Score(0.0, 0.0, 0.0))
    return scores, differences


def _statistic(methods: Sequence[LabelledRows], base: int, num_bins: int) -> Statistic:
    """Return the function from counts to scores and differences, [2 · methods · scores]."""
    means = np.stack([method.means[:, :3].T for method in methods])
    binned = [bin_sums(top_label(one.confidence, one.correct), num_bins) for one in methods]

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        linear = means @ counts / counts.sum(axis=0)
        errors = np.stack([sums(counts).ece for sums in binned])
        table = np.concatenate([linear, errors[:, None]], axis=1)
        both = np.concatenate([table, table - table[base]])
        return np.asarray(both.reshape(-1, *counts.shape[1:]))

    return scores


def _intervals(
    values: NDArray[np.float64], spread: Spread, start: int, *, signed: bool
) -> dict[str, Score]:
    return {
        key: spread.score(
            start + k,
            float(values[start + k]),
            -_FARTHEST[key] if signed else SCORES[key].low,
            _FARTHEST[key] if signed else SCORES[key].high,
            reflected=key == "ece",
            kind="mean" if signed else SCORES[key].kind,
        )
        for k, key in enumerate(COMPARED)
    }


def _p_values(
    p: NDArray[np.float64], base: int
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Return each method's p-values and the corrected ones; empty for the reference.

    Args:
        p: [methods, scores].
        base: Place of the reference.
    """
    others = [m for m in range(len(p)) if m != base]
    corrected = p.copy()
    for k in range(len(COMPARED)):
        corrected[others, k] = holm(p[others, k])
    plain, fixed = (
        [
            dict(zip(COMPARED, row.tolist(), strict=True)) if m != base else {}
            for m, row in enumerate(table)
        ]
        for table in (p, corrected)
    )
    return plain, fixed
