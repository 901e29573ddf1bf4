"""Compare methods on the same rows: paired differences with intervals and p-values.

Methods scored on the same rows make errors on the same hard rows. The paired bootstrap scores all
methods on each resample and so accounts for this correlation; intervals of the single scores ignore
it and may overlap even if the difference is clear. Each difference also has the p-value of a
permutation test, corrected for the number of comparisons (`permutation.py`).

A method may have several fits with different seeds. Its score is then their mean; if every method
has several fits, the intervals are Student's t over seeds (`differences.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.metrics.calibration import NUM_BINS, as_num_bins
from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.differences import (
    Contest,
    Fits,
    chosen_statistic,
    fits_of,
    holm,
    over_rows,
    over_seeds_of,
    permutation_p,
)
from bayeslora.metrics.intervals import Bootstrap, Resampling, num_units, values_of, without_gaps
from bayeslora.metrics.scores import SCORES, Score, chosen_keys, difference_digits, without_nan
from bayeslora.option_checks import as_integer
from bayeslora.plain_text import counted
from bayeslora.predictions import collection
from bayeslora.predictions.collection import PredictionsLike
from bayeslora.predictions.record import Predictions

_MOST_DIGITS = 6
"""Most decimals of a difference; anything smaller is a rounding error."""

COMPARED = ("accuracy", "nll", "brier", "ece")
"""Scores compared by default."""

RANKING = tuple(key for key, info in SCORES.items() if info.goal is not None)
"""Scores that methods can be ordered by: those with a goal."""


@dataclass(frozen=True)
class ComparisonRow:
    """One method of a comparison.

    Attributes:
        name: Name of the predictions.
        scores: The method's own scores on the common rows, by their keys.
        differences: Its scores minus those of the reference, paired; zero for the reference.
        p: The p-value of each difference by a two-sided permutation test; empty for the reference.
        p_holm: The p-values corrected for the number of methods, per score.
        seeds: Seeds that the scores are averaged over; empty for a single fit.
    """

    name: str
    scores: Mapping[str, Score]
    differences: Mapping[str, Score]
    p: Mapping[str, float] = field(default_factory=dict)
    p_holm: Mapping[str, float] = field(default_factory=dict)
    seeds: tuple[str, ...] = ()

    def is_clear(self, key: str) -> bool:
        """Return whether a difference is significant.

        Its interval excludes zero, and the corrected p-value, if there is one, is below 0.05.
        """
        score = self.differences[key]
        excludes_zero = score.low > 0 or score.high < 0
        return excludes_zero and self.p_holm.get(key, 0.0) < SIGNIFICANT


@dataclass(frozen=True, repr=False)
class Comparison:
    """Methods on the same labelled rows, best first.

    Attributes:
        by: Score that orders `rows`.
        reference: Method that the others are compared with.
        n: Number of labelled rows.
        num_bins: Bins of the calibration errors.
        num_resamples: Paired bootstrap resamples behind the 95 % intervals over rows.
        seed: Seed of the bootstrap and of the permutations.
        rows: One row per method.
        cluster_by: Column whose equal values mark rows that are resampled together; None if rows
            are resampled independently.
        num_permutations: Permutations behind the p-values; 0 without p-values.
        num_clusters: Number of clusters; None without clusters.
        intervals_over: `rows`: the bootstrap; `seeds`: Student's t over the fits of each method.
        same_seeds: Whether all methods have the same seeds, so that differences are paired by seed.
        nll_clamped: Number of rows, over all fits, whose label had a probability below 1e-12, where
            `nll` is clamped.
    """

    by: str
    reference: str
    n: int
    num_bins: int
    num_resamples: int
    seed: int
    rows: tuple[ComparisonRow, ...]
    cluster_by: str | None = None
    num_permutations: int = 0
    num_clusters: int | None = None
    intervals_over: Literal["rows", "seeds"] = "rows"
    same_seeds: bool = False
    nll_clamped: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the compared scores, in order."""
        return tuple(self.rows[0].scores)

    @property
    def num_comparisons(self) -> int:
        """Number of methods compared with the reference, which the p-values are corrected for."""
        return len(self.rows) - 1

    @property
    def base(self) -> ComparisonRow:
        """The row of the reference."""
        return next(row for row in self.rows if row.name == self.reference)

    def digits(self, row: ComparisonRow, key: str) -> int:
        """Return the decimals of a difference, as of `difference_digits`.

        There are more, up to `_MOST_DIGITS`, if an end of the interval would be rounded to zero
        though it is not zero.
        """
        difference = row.differences[key]
        least = difference_digits(
            difference.value, row.scores[key].value, self.base.scores[key].value
        )
        ends = [end for end in (difference.low, difference.high) if end]
        return next(
            (
                digits
                for digits in range(least, _MOST_DIGITS + 1)
                if all(round(end, digits) for end in ends)
            ),
            least,
        )

    def __repr__(self) -> str:
        """Return one line: the methods, best first, with the score that orders them."""
        methods = ", ".join(
            f"{row.name} {row.scores[self.by].value:.3f}" if self.by in row.scores else row.name
            for row in self.rows
        )
        return f"<Comparison by {self.by} on {counted(self.n, 'row')}: {methods}>"

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain mappings, lists and numbers, ready for `json.dumps`."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain


def compare(
    predictions: Sequence[PredictionsLike],
    by: str = "nll",
    *,
    reference: str | None = None,
    scores: Sequence[str] | None = None,
    over_seeds: bool = True,
    cluster_by: str | None = None,
    num_bins: int = NUM_BINS,
    num_permutations: int = 1999,
    **bootstrap: Unpack[Bootstrap],
) -> Comparison:
    """Return paired differences of scores between methods.

    Rows are matched by id where all methods have ids, else by position. Only labelled rows count.

    Predictions with the same name and different seeds in their metadata (`fit_seed`) are fits of
    one method, whose scores are averaged. If every method has several fits, intervals are Student's
    t over seeds, paired by seed if all methods have the same seeds; otherwise they are bootstrap
    intervals over rows, which do not cover other seeds. If there is only one method, its fits are
    compared with each other.

    Args:
        predictions: Predictions of two or more methods on the same rows, their files, or data
            frames (see `Predictions.from_frame`, which names them). Files with the same name are
            distinguished as by the command: by seed, directory or number.
        by: Score to order the methods by, such as `accuracy` or `ece`; `nll` by default.
        reference: Name of the method that the others are compared with; the first by default.
        scores: Keys of the catalogue; accuracy, NLL, Brier score and ECE by default.
        over_seeds: Whether to average the fits of one method.
        cluster_by: A column of the first predictions whose equal values mark related rows, which
            are resampled and permuted together.
        num_bins: Bins of the calibration errors.
        num_permutations: Permutations behind the p-values; 0 skips them.
        **bootstrap: As for `evaluate`; `seed` is also that of the permutations.

    Raises:
        InputError: An option is wrong, names repeat, or the methods differ in their rows, classes
            or labels; the message names the first difference.
    """
    if by not in RANKING:
        raise unknown_choice("score to compare by", by, RANKING)
    as_integer("num_permutations", num_permutations, 0)
    keys = COMPARED if scores is None else chosen_keys(scores)
    num_bins = as_num_bins(num_bins)
    resampling = Resampling(**bootstrap)
    loaded = _loaded(predictions, cluster_by, over_seeds=over_seeds)
    methods = fits_of(loaded, over_seeds=over_seeds)
    names = [method.name for method in methods]
    base = _index_of("reference", names[0] if reference is None else reference, names)
    clusters = _clusters(methods, cluster_by)
    contest = Contest(methods, base, keys, num_bins, clusters)
    use_seeds = all(method.seeds for method in methods)
    measured = over_seeds_of(contest) if use_seeds else over_rows(contest, resampling)
    p = _p_values(contest, num_permutations, resampling.seed)
    rows = [
        ComparisonRow(method.name, *results, *tests, seeds=method.seeds)
        for method, results, tests in zip(methods, measured, p, strict=True)
    ]
    return Comparison(
        by=by,
        reference=names[base],
        n=len(methods[0].rows[0]),
        num_bins=num_bins,
        num_resamples=resampling.num_resamples,
        seed=resampling.seed,
        rows=tuple(rows[index] for index in _order(methods, by, num_bins)),
        cluster_by=cluster_by,
        num_permutations=num_permutations,
        num_clusters=None if clusters is None else num_units(clusters, 0),
        intervals_over="seeds" if use_seeds else "rows",
        same_seeds=contest.same_seeds,
        nll_clamped=sum(rows.clamped for method in methods for rows in method.rows),
    )


def _loaded(
    predictions: Sequence[PredictionsLike], column: str | None, *, over_seeds: bool
) -> list[Predictions]:
    if collection.is_single(predictions):
        raise InputError("compare needs the predictions of two or more methods, got one")
    columns = [] if column is None else [column]
    if not all(isinstance(source, str | Path) for source in predictions):
        return [collection.as_predictions(source, columns) for source in predictions]
    methods = collection.gather(predictions, needed=columns)
    several = over_seeds and len({method.group for method in methods}) > 1
    return [collection.named_predictions(method, over_seeds=several) for method in methods]


def _index_of(option: str, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise unknown_choice(option, name, names)
    return names.index(name)


def _clusters(methods: Sequence[Fits], column: str | None) -> NDArray[np.int64] | None:
    """Return the cluster of each labelled row, [N], numbered from 0 without gaps."""
    if column is None:
        return None
    first = methods[0]
    return without_gaps(values_of(first.predictions[0], column)[0][first.rows[0].index])


def _order(methods: Sequence[Fits], by: str, num_bins: int) -> list[int]:
    """Return the indices of the methods, best first; ties keep their order."""

    def loss(method: Fits) -> float:
        scores = [
            float(chosen_statistic(rows, num_bins, (by,))(np.ones(len(rows)))[0])
            for rows in method.rows
        ]
        return SCORES[by].loss(sum(scores) / len(scores))

    losses = [loss(method) for method in methods]
    return sorted(range(len(methods)), key=losses.__getitem__)


def _p_values(
    contest: Contest, num_permutations: int, seed: int
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return each method's p-values and the corrected ones; empty for the reference."""
    if not num_permutations:
        return [({}, {}) for _ in contest.methods]
    keys, base = contest.keys, contest.base
    p = permutation_p(contest, num_permutations, seed=seed)
    others = [m for m in range(len(p)) if m != base]
    corrected = p.copy()
    for k in range(len(keys)):
        corrected[others, k] = holm(p[others, k])
    plain, fixed = (
        [
            dict(zip(keys, row.tolist(), strict=True)) if m != base else {}
            for m, row in enumerate(table)
        ]
        for table in (p, corrected)
    )
    return list(zip(plain, fixed, strict=True))
