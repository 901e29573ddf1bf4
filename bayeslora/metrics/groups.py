"""Scores of each group of rows, such as all rows of one source.

Rows are drawn within their group, so that every resample holds as many of each as the data; all
groups and resamples are summed by one sparse product. Shares have Wilson intervals, unless rows
come in clusters; ECE has the reflected bootstrap interval and the others the percentile one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.bootstrap import block_size
from bayeslora.metrics.calibration import bin_places
from bayeslora.metrics.catalogue import ALL_SCORES
from bayeslora.metrics.cells import cell_matrix
from bayeslora.metrics.chance import SIGNIFICANT, ece_by_chance, p_values
from bayeslora.metrics.clusters import clusters_in, without_gaps
from bayeslora.metrics.few_mistakes import with_few_mistakes
from bayeslora.metrics.intervals import IntervalMethod, from_zero, interval_of, wilson
from bayeslora.metrics.rowwise import LabelledRows
from bayeslora.metrics.scores import PartScores, Score
from bayeslora.metrics.scoring import Scoring

GROUP_KEYS = ("accuracy", "nll", "brier", "ece", "overconfidence", "coverage", "set_size")
"""The scores of a group, in order; the last two where there are prediction sets."""


def group_scores(
    rows: LabelledRows,
    codes: NDArray[np.int64],
    names: tuple[str, ...],
    scoring: Scoring,
    sets: NDArray[np.bool_] | None = None,
) -> dict[str, PartScores]:
    """Return the scores of each group that has rows.

    Args:
        rows: N labelled rows.
        codes: [N] the group of each, as a place in `names`.
        names: What the groups are called.
        scoring: Bins, intervals and clusters.
        sets: [N, C] prediction sets, or None.
    """
    present, group = np.unique(codes, return_inverse=True)
    statistic = _statistic(rows, group, scoring, sets)
    values = statistic(np.ones((len(rows), 1)))[..., 0]
    deviations = _resampled(statistic, group, scoring) - values
    sizes = np.bincount(group)
    units = clusters_in(group, scoring.clusters).tolist()
    cell = group * scoring.num_bins + bin_places(rows.confidence, scoring.num_bins, scoring.closed)
    how = scoring.how
    by_chance = ece_by_chance(rows.confidence, cell, scoring.num_bins, how.num_resamples, how.seed)
    chance = p_values(by_chance, values[GROUP_KEYS.index("ece")])
    keys = GROUP_KEYS if sets is not None else GROUP_KEYS[:-2]
    found = {}
    for place, code in enumerate(present.tolist()):
        scores = {}
        for key, value, drawn in zip(
            keys, values[:, place].tolist(), deviations[:, :, place].T, strict=True
        ):
            info = ALL_SCORES[key]
            if info.kind == "share" and scoring.clusters is None:
                scores[key] = share_score(value, int(sizes[place]))
            else:
                low, high = info.bounds(rows.probs.shape[1])
                method: IntervalMethod = "reflected" if key == "ece" else "percentile"
                scores[key] = interval_of(
                    value, drawn, method, low, high, units=units[place], kind=info.kind
                )
        scores = with_few_mistakes(scores, units[place])
        if chance[place] > SIGNIFICANT:
            scores["ece"] = from_zero(scores["ece"])
        found[names[code]] = PartScores(int(sizes[place]), scores)
    return found


def share_score(share: float, trials: int) -> Score:
    """Return a share of `trials` rows with its Wilson interval."""
    low, high = wilson(round(share * trials), trials)
    return Score(share, min(float(low), share), max(float(high), share))


def _statistic(
    rows: LabelledRows,
    group: NDArray[np.int64],
    scoring: Scoring,
    sets: NDArray[np.bool_] | None,
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the function from counts [N, R] to scores [K, G, R], K as in `GROUP_KEYS`."""
    features = [np.ones(len(rows)), rows.correct, rows.nll, rows.brier, rows.confidence]
    if sets is not None:
        held = np.take_along_axis(sets, rows.labels[:, None], 1)[:, 0]
        features += [held.astype(np.float64), sets.sum(1).astype(np.float64)]
    groups, num_bins = int(group.max()) + 1, scoring.num_bins
    place = group * num_bins + bin_places(rows.confidence, num_bins, scoring.closed)
    cells = [group + part * groups for part in range(len(features))]
    cells.append(len(features) * groups + place)
    values = [*features, rows.correct - rows.confidence]
    matrix = cell_matrix(
        np.concatenate(cells),
        np.tile(np.arange(len(rows)), len(cells)),
        np.concatenate(values),
        (groups * (len(features) + num_bins), len(rows)),
    )

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = matrix @ counts
        plain = sums[: len(features) * groups].reshape(len(features), groups, -1)
        gaps = sums[len(features) * groups :].reshape(groups, num_bins, -1)
        size = plain[0]
        accuracy, nll, brier, confidence = plain[1:5] / size
        ece = np.abs(gaps).sum(axis=1) / size
        return np.stack([accuracy, nll, brier, ece, confidence - accuracy, *(plain[5:] / size)])

    return scores


def _resampled(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    group: NDArray[np.int64],
    scoring: Scoring,
) -> NDArray[np.float64]:
    """Return scores of resamples drawn within each group, [R, K, G]."""
    how, own = scoring.how, scoring.clusters
    if own is None:
        own = np.arange(len(group))
    unit = without_gaps(group * (own.max() + 1) + own)  # numbered group by group
    of_unit = np.zeros(unit.max() + 1, dtype=np.int64)
    of_unit[unit] = group
    size = np.bincount(of_unit)
    start, size = (np.cumsum(size) - size)[of_unit], size[of_unit]
    generator = np.random.default_rng([how.seed, 5])
    block = block_size(len(group))
    parts = []
    for done in range(0, how.num_resamples, block):
        resamples = min(block, how.num_resamples - done)
        drawn = start + (generator.random((resamples, len(start))) * size).astype(np.int64)
        drawn += len(start) * np.arange(resamples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=resamples * len(start))
        of_rows = counts.reshape(resamples, -1).T.astype(np.float64)[unit]
        parts.append(np.moveaxis(statistic(of_rows), -1, 0))
    return np.concatenate(parts)
