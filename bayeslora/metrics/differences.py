"""Scores of methods and their differences, with intervals over rows or over seeds.

Over rows: the paired bootstrap, which scores all fits on the same resamples. Over seeds, if every
method has several fits: Student's t, for the paired differences if all methods have the same seeds
(Student 1908), else for the difference of two means with unequal variances (Welch 1947, Biometrika
34).

*Permutation tests*: under the null hypothesis the two predictions of a row are exchangeable between
the methods. The predictions of each row (or cluster) are swapped with a probability of one half, R
times; the p-value is the share of permutations in which the score differs at least as much,
including the observed assignment: (1 + #)/(1 + R). Two-sided. Fisher (1935), The Design of
Experiments, section 21; Good (2005), Permutation, Parametric and Bootstrap Tests of Hypotheses.

For methods with several fits the score is the mean over fits, and a row is swapped in all fits at
once: fits are paired in order if both methods have equally many, else each with each. The p-value
is about the rows, not about other seeds.

Comparing several methods with a reference gives some small p-values by chance: `holm` corrects for
their number (Holm 1979, Scandinavian Journal of Statistics 6).

Align several methods and their fits on the same rows, in the same order.

A compared method has one fit, or several fits with different seeds that are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.errors import InputError
from bayeslora.metrics.calibration import bin_sums, top_label
from bayeslora.metrics.evaluate import statistic
from bayeslora.metrics.intervals import Resampling, Rows, Spread, Statistic, blocks, num_units
from bayeslora.metrics.rowwise import LabelledRows, row_scores
from bayeslora.metrics.scores import SCORE_KEYS, SCORES, Kind, Score
from bayeslora.metrics.seeds import t_interval, welch_interval
from bayeslora.plain_text import quoted
from bayeslora.predictions.collection import Seeds, group_seeds
from bayeslora.predictions.record import Predictions


def paired(predictions: Sequence[Predictions]) -> list[Predictions]:
    """Return the predictions with rows and classes in the order of the first.

    Rows are matched by id where all have ids, else by position.

    Raises:
        InputError: Fewer than two predictions, an empty or repeated name, or different rows,
            classes or labels; the message names the first difference.
    """
    names = [record.name for record in predictions]
    if len(names) < 2:
        raise InputError(f"a comparison needs at least two sets of predictions, got {len(names)}")
    for index, name in enumerate(names):
        if not name or name in names[:index]:
            raise InputError(
                f"every method needs a unique name, got {names!r}; set one with "
                "predictions.replace(name=...)"
            )
    first = predictions[0]
    if not first.labelled.any():
        raise InputError(f"{quoted(first.name)} has no labels, so it cannot be compared")
    by_id = all(record.ids is not None for record in predictions)
    return [first, *(_like(first, other, by_id) for other in predictions[1:])]


def _like(first: Predictions, other: Predictions, by_id: bool) -> Predictions:
    names = f"{quoted(first.name)} and {quoted(other.name)}"
    if len(first) != len(other):
        raise InputError(f"{names} have different rows: {len(first)} and {len(other)} of them")
    if set(first.classes) != set(other.classes):
        unmatched = min(set(first.classes) ^ set(other.classes))
        raise InputError(f"{names} have different classes; only one has {unmatched!r}")
    if by_id:
        other = _rows_of(first, other, names)
    other = _classes_of(first, other)
    _check_labels(first, other, names)
    return other


def are_same_rows(first: Predictions, other: Predictions) -> bool:
    """Return whether two predictions have the same rows in the same order, as far as they tell."""
    if first.ids is not None and other.ids is not None:
        return np.array_equal(first.ids, other.ids)
    return len(first) == len(other)


def _rows_of(first: Predictions, other: Predictions, names: str) -> Predictions:
    ids = np.asarray(first.ids)
    other_ids = np.asarray(other.ids)
    order = np.argsort(other_ids)
    positions = np.minimum(np.searchsorted(other_ids, ids, sorter=order), len(order) - 1)
    rows = order[positions]
    missing = other_ids[rows] != ids
    if missing.any():
        row = int(np.argmax(missing))
        raise InputError(
            f"{names} have different rows: id {str(ids[row])!r} (row {row + 1} of "
            f"{quoted(first.name)}) is missing from {quoted(other.name)}"
        )
    return other.take(rows)


def _classes_of(first: Predictions, other: Predictions) -> Predictions:
    if other.classes == first.classes:
        return other
    columns = np.array([other.classes.index(name) for name in first.classes])
    labels = None
    if other.labels is not None:
        to_first = np.append(np.argsort(columns), -1)  # -1, unlabelled, stays -1
        labels = to_first[other.labels]
    return other.replace(
        classes=first.classes,
        probs=other.probs[:, columns],
        labels=labels,
        sets=None if other.sets is None else other.sets[:, columns],
        available=None if other.available is None else other.available[:, columns],
        intervals=None if other.intervals is None else other.intervals[:, columns],
    )


def _check_labels(first: Predictions, other: Predictions, names: str) -> None:
    unlabelled = np.full(len(first), -1)
    pair = [unlabelled if record.labels is None else record.labels for record in (first, other)]
    different = pair[0] != pair[1]
    if different.any():
        row = int(np.argmax(different))
        shown = [
            repr(first.classes[labels[row]]) if labels[row] >= 0 else "none" for labels in pair
        ]
        at = f"row {row + 1}" + ("" if first.ids is None else f" (id {first.ids[row]!r})")
        raise InputError(
            f"{names} have different labels in {at}: {shown[0]} and {shown[1]}; rows that differ: "
            f"{int(different.sum())}"
        )


MEANS = ("accuracy", *(key for key, info in SCORES.items() if info.kind == "mean"))
"""Scores that are means over rows, in the order of `row_means`."""


@dataclass(frozen=True, eq=False)
class Fits:
    """One method.

    Attributes:
        name: Name of the method.
        seeds: Seed of each fit; empty for a single fit.
        predictions: Predictions of each fit; rows and classes have the same order in all methods.
        rows: Labelled rows of each fit.
    """

    name: str
    seeds: tuple[str, ...]
    predictions: tuple[Predictions, ...]
    rows: tuple[LabelledRows, ...]


@dataclass(frozen=True, eq=False)
class Contest:
    """The compared methods, their scores and the clusters of rows.

    Attributes:
        methods: Two or more methods.
        base: Index of the reference.
        keys: Catalogue keys of the scores.
        num_bins: Bins of the calibration errors.
        clusters: [N] cluster of each labelled row, numbered from 0 without gaps, or None.
    """

    methods: Sequence[Fits]
    base: int
    keys: Sequence[str]
    num_bins: int
    clusters: NDArray[np.int64] | None = None

    @property
    def same_seeds(self) -> bool:
        """Whether all methods have several fits, with the same seeds."""
        return bool(self.methods[0].seeds) and len({method.seeds for method in self.methods}) == 1


def fits_of(predictions: Sequence[Predictions], *, over_seeds: bool) -> list[Fits]:
    """Group predictions into methods, with rows and classes in the order of the first.

    Fits of one method with different seeds are grouped (`group_seeds`). If this leaves a single
    method, each of its fits becomes a method.

    Args:
        predictions: Predictions of two or more fits.
        over_seeds: Whether to group the fits of one method.

    Raises:
        InputError: As for `paired`, or two methods have the same name.
    """
    groups = group_seeds(predictions)
    seed_of = {
        index: seed
        for group in groups
        for index, seed in zip(group.members, group.seeds, strict=True)
    }
    if not over_seeds or len(groups) == 1:
        groups = [Seeds(record.name, (index,), ("",)) for index, record in enumerate(predictions)]
    names = [record.name for record in predictions]
    aligned = paired(
        [
            record.replace(name=f"{record.name} (seed {seed_of[index]})")
            if names.count(record.name) > 1 and seed_of[index] and record.name
            else record
            for index, record in enumerate(predictions)
        ]
    )
    methods = []
    for group in groups:
        fits = tuple(aligned[index] for index in group.members)
        several = len(fits) > 1
        name, seeds = (group.name, group.seeds) if several else (fits[0].name, ())
        methods.append(Fits(name, seeds, fits, tuple(row_scores(fit) for fit in fits)))
    _check_names([method.name for method in methods])
    return methods


def _check_names(names: Sequence[str]) -> None:
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise InputError(
            f"two methods are named {quoted(repeated[0])}, but their fits differ in more than the "
            "seed (fit_options in the metadata); give each method a unique name"
        )


def seed_pairs(num_first: int, num_second: int) -> list[tuple[int, int]]:
    """Return the pairs of fits of two methods to compare.

    Fits are paired in order if both methods have equally many, else each with each.
    """
    if num_first == num_second:
        return [(index, index) for index in range(num_first)]
    return list(product(range(num_first), range(num_second)))


def row_means(rows: LabelledRows) -> NDArray[np.float64]:
    """Return the contribution of each row to the scores of `MEANS`, [6, N]."""
    means = rows.means.T
    return np.concatenate([means[:4], means[3:4] - means[:1], means[4:]])


def chosen_statistic(rows: LabelledRows, num_bins: int, keys: Sequence[str]) -> Statistic:
    """Return the function from row counts, [N] or [N, R], to the chosen scores, [K] or [K, R].

    Means over rows and ECE alone are far cheaper than all scores.

    Args:
        rows: At least one labelled row.
        num_bins: Bins of the calibration errors.
        keys: Catalogue keys of the scores, in order.
    """
    if _beyond_means(keys):
        indices = [SCORE_KEYS.index(key) for key in keys]
        everything = statistic(rows, num_bins)
        return lambda counts: everything(counts)[indices]
    means = row_means(rows)
    binned = bin_sums(top_label(rows.confidence, rows.correct), num_bins)

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        linear = means @ counts / counts.sum(axis=0)
        by_key = dict(zip(MEANS, linear, strict=True))
        if "ece" in keys:
            by_key["ece"] = binned(counts).ece
        return np.stack([by_key[key] for key in keys])

    return scores


def numbers_kept(rows: LabelledRows, num_bins: int, keys: Sequence[str]) -> int:
    """Return how many numbers `chosen_statistic` stores per resample, to bound memory."""
    return max(len(rows), 2 * num_bins * rows.probs.shape[1] if _beyond_means(keys) else 1)


def _beyond_means(keys: Sequence[str]) -> bool:
    return not {*keys} <= {*MEANS, "ece"}


Measured = tuple[dict[str, Score], dict[str, Score]]
"""A method's own scores, and their differences from the reference."""


def over_rows(contest: Contest, resampling: Resampling) -> list[Measured]:
    """Return mean scores over the fits of each method, and differences, with bootstrap intervals.

    Args:
        contest: The compared methods.
        resampling: Options of the intervals.
    """

    def prepare(indices: Rows) -> Statistic:
        return _means_and_differences(contest, indices)

    first, keys = contest.methods[0].rows[0], contest.keys
    n, width = len(first), len(contest.methods) * len(keys)
    values = prepare(np.arange(n))(np.ones(n))
    numbers = numbers_kept(first, contest.num_bins, keys)
    spread = resampling.spread(prepare, [n], [contest.clusters], width=numbers)
    results = [
        (
            _intervals(values, spread, start, keys, signed=False),
            _intervals(values, spread, width + start, keys, signed=True),
        )
        for start in range(0, width, len(keys))
    ]
    probs = [[rows.probs for rows in method.rows] for method in contest.methods]
    for index, fits in enumerate(probs):
        if index == contest.base or _are_equal(fits, probs[contest.base]):
            results[index] = results[index][0], dict.fromkeys(keys, Score(0.0, 0.0, 0.0))
    return results


def _are_equal(first: Sequence[NDArray[np.float64]], second: Sequence[NDArray[np.float64]]) -> bool:
    """Return whether the probabilities show that two methods are identical.

    Probabilities that agree in every bit are no coincidence, unless all are 0 or 1: such methods
    may differ on other rows and keep their bootstrap interval.
    """
    same = len(first) == len(second) and all(map(np.array_equal, first, second))
    return same and any(((probs > 0) & (probs < 1)).any() for probs in first)


def over_seeds_of(contest: Contest) -> list[Measured]:
    """Return means over seeds and differences of means, with t intervals over seeds.

    Args:
        contest: The compared methods, with at least two fits each.
    """
    tables = [_of_fits(method, contest.keys, contest.num_bins) for method in contest.methods]
    base = tables[contest.base]
    results = []
    for table in tables:
        scores, differences = {}, {}
        for key, values, base_values in zip(contest.keys, table.T, base.T, strict=True):
            scores[key] = t_interval(values, SCORES[key].low, SCORES[key].high)
            by_seed = contest.same_seeds or table is base
            differences[key] = (
                t_interval(values - base_values) if by_seed else welch_interval(values, base_values)
            )
        results.append((scores, differences))
    return results


def _of_fits(method: Fits, keys: Sequence[str], num_bins: int) -> NDArray[np.float64]:
    """Return the scores of each fit, [fits, K]."""
    return np.stack(
        [chosen_statistic(rows, num_bins, keys)(np.ones(len(rows))) for rows in method.rows]
    )


def _means_and_differences(contest: Contest, indices: Rows) -> Statistic:
    """Return the function from row counts to scores and differences, [2 · methods · K]."""
    scored = [
        [
            chosen_statistic(rows.take(indices), contest.num_bins, contest.keys)
            for rows in method.rows
        ]
        for method in contest.methods
    ]

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        table = np.stack([np.mean([fit(counts) for fit in fits], axis=0) for fits in scored])
        both = np.concatenate([table, table - table[contest.base]])
        return np.asarray(both.reshape(-1, *counts.shape[1:]))

    return scores


def _intervals(
    values: NDArray[np.float64], spread: Spread, start: int, keys: Sequence[str], *, signed: bool
) -> dict[str, Score]:
    intervals = {}
    for k, key in enumerate(keys):
        info = SCORES[key]
        ends = (-_farthest(key), _farthest(key)) if signed else (info.low, info.high)
        intervals[key] = spread.score(
            start + k,
            float(values[start + k]),
            *ends,
            reflected=info.reflected,
            kind=_kind_of_difference(key) if signed else info.kind,
        )
    return intervals


def _farthest(key: str) -> float:
    """Return the largest contribution of a row to n times the difference of two methods."""
    # Both the confidence and the correctness of a row enter ECE.
    return 2.0 if key == "ece" else SCORES[key].high - SCORES[key].low


def _kind_of_difference(key: str) -> Kind:
    return "mean" if key == "ece" or SCORES[key].kind in {"share", "mean"} else "other"


Exchange = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From swaps [N, R], 1 where a row's predictions are swapped, to differences, [methods, K, R]."""


def permutation_p(contest: Contest, num_permutations: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Return the p-value of each method's difference from the reference, [methods, K].

    The p-values of the reference are 1.

    Args:
        contest: The compared methods; whole clusters are swapped.
        num_permutations: Number of permutations, shared by all methods.
        seed: Seed of the generator.
    """
    first, clusters = contest.methods[0].rows[0], contest.clusters
    n = len(first)
    units = num_units(clusters, n)
    generator = np.random.default_rng([seed, 7])
    differences = _differences(contest)
    observed = differences(np.zeros((n, 1)))
    # equal differences may differ by a rounding error
    least = np.abs(observed) - 1e-12 * np.maximum(1, np.abs(observed))
    reached = np.zeros(observed.shape[:2], dtype=np.int64)
    for size in blocks(num_permutations, numbers_kept(first, contest.num_bins, contest.keys)):
        exchanged = generator.integers(2, size=(size, units), dtype=np.int8).T.astype(np.float64)
        rows = exchanged if clusters is None else exchanged[clusters]
        reached += (np.abs(differences(rows)) >= least).sum(axis=-1)
    return np.asarray((1 + reached) / (1 + num_permutations))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return p-values with Holm's correction for their number.

    The k-th smallest of m is multiplied by m − k + 1, raised to at least the one before it, and
    clipped at 1. This controls the family-wise error rate.

    Args:
        p: [m] p-values.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return corrected


def _differences(contest: Contest) -> Exchange:
    """Return the function from swaps to differences of scores.

    Rows are swapped by choosing one half of the stacked rows of both methods.
    """
    base = contest.methods[contest.base]
    scored = [
        [
            chosen_statistic(method.rows[i].then(base.rows[j]), contest.num_bins, contest.keys)
            for i, j in seed_pairs(len(method.rows), len(base.rows))
            if method is not base
        ]
        for method in contest.methods
    ]

    def differences(exchanged: NDArray[np.float64]) -> NDArray[np.float64]:
        first = np.concatenate([1 - exchanged, exchanged])
        zero = np.zeros((len(contest.keys), exchanged.shape[1]))
        by_method = [
            [statistic(first) - statistic(1 - first) for statistic in statistics] or [zero]
            for statistics in scored
        ]
        return np.stack([np.mean(values, axis=0) for values in by_method])

    return differences
