"""Methods side by side on the same rows: paired differences with intervals and p-values.

Two methods that are scored on the same rows err together on the hard ones. Resampling rows, and
taking both methods' scores of each resample, keeps that in the difference; intervals of the single
scores lose it, and overlap where the difference is clear. Beside the interval stands the p-value of
a permutation test, corrected for the number of comparisons (`permutation.py`).

A method may be several fits with different seeds. Its score is their mean then; where every method
has several, the intervals are those of Student's t over seeds (`differences.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.metrics.calibration import NUM_BINS, as_num_bins
from bayeslora.metrics.catalogue import SCORES, chosen_keys
from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.clusters import values_of, without_gaps
from bayeslora.metrics.differences import distances, over_rows, over_seeds_of
from bayeslora.metrics.intervals import IntervalMethod, Resampling
from bayeslora.metrics.pairing import Contest, Fits, chosen_statistic, fits_of
from bayeslora.metrics.permutation import holm, permutation_p
from bayeslora.metrics.scores import Score, without_nan
from bayeslora.option_checks import as_seed, check_count
from bayeslora.plain_text import counted, quoted, table_html
from bayeslora.predictions.collection import PredictionsLike, as_predictions, is_single
from bayeslora.predictions.names import told_apart
from bayeslora.predictions.record import Predictions

COMPARED = ("accuracy", "nll", "brier", "ece")
"""The scores that are compared where none are named."""

RANKING = tuple(key for key, info in SCORES.items() if info.goal is not None)
"""The scores that methods can be ordered by: those of which more or less is better."""


@dataclass(frozen=True)
class ComparisonRow:
    """One method of a comparison.

    Attributes:
        name: Of the predictions.
        scores: The method's own scores on the common rows, by their keys.
        differences: Its scores minus those of the reference, paired; zero for the reference.
        distances: Its distances from the method of `Comparison.distance_to`, by the keys of
            `DISTANCES`; empty where there is none.
        p: The p-value of each difference by a two-sided permutation test; empty for the reference.
        p_holm: The same corrected for the number of methods, score by score.
        seeds: The seeds whose mean the scores are; empty of a single fit.
    """

    name: str
    scores: Mapping[str, Score]
    differences: Mapping[str, Score]
    distances: Mapping[str, Score] = field(default_factory=dict)
    p: Mapping[str, float] = field(default_factory=dict)
    p_holm: Mapping[str, float] = field(default_factory=dict)
    seeds: tuple[str, ...] = ()

    def is_clear(self, key: str) -> bool:
        """Return whether a difference is more than chance.

        Its interval leaves out zero, and the corrected p-value, where there is one, is below 0.05.
        """
        score = self.differences[key]
        apart = score.low > 0 or score.high < 0
        return apart and self.p_holm.get(key, 0.0) < SIGNIFICANT


@dataclass(frozen=True, repr=False)
class Comparison:
    """Methods on the same labelled rows, best first.

    Attributes:
        by: The score that sets the order of `rows`.
        reference: The method that all are compared with.
        n: Number of labelled rows.
        num_bins: Bins of the calibration errors.
        num_resamples: Paired bootstrap resamples behind the 95 % intervals over rows.
        seed: Of the bootstrap and of the exchanges.
        rows: One a method.
        distance_to: The method that distances are measured from; None where none are.
        interval: How bootstrap intervals are made, but those of ECE and its kin, which are
            reflected.
        cluster_by: The column whose equal values mark rows that were drawn together; None where
            rows were drawn one by one.
        num_permutations: Exchanges behind the p-values; 0 where there are none.
        num_clusters: Number of clusters; None where rows were drawn one by one.
        intervals_over: `rows`: the bootstrap; `seeds`: Student's t over the fits of each method.
        same_seeds: Whether all methods have the same seeds, so that differences are paired by seed.
        nll_clamped: Rows, of all fits, whose label had a probability below 1e-12, where `nll` is
            cut off.
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
    num_clusters: int | None = None
    intervals_over: Literal["rows", "seeds"] = "rows"
    same_seeds: bool = False
    nll_clamped: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """The scores that are compared, in order."""
        return tuple(self.rows[0].scores)

    @property
    def num_comparisons(self) -> int:
        """How many methods are compared with the reference: the p-values are corrected for it."""
        return len(self.rows) - 1

    def __repr__(self) -> str:
        """Return one line: the methods, best first, with the score that orders them."""
        methods = ", ".join(
            f"{row.name} {row.scores[self.by].value:.3f}" if self.by in row.scores else row.name
            for row in self.rows
        )
        return f"<Comparison by {self.by} on {counted(self.n, 'row')}: {methods}>"

    def _repr_html_(self) -> str:
        """Return a table of the scores and differences; notebooks show it."""
        titles = [SCORES[key].title for key in self.keys]
        head = ("method", *(f"{title}{part}" for title in titles for part in ("", ", difference")))
        over = "t intervals over seeds" if self.intervals_over == "seeds" else "bootstrap intervals"
        p = "; p-values by permutation, Holm's correction" if self.num_permutations else ""
        caption = (
            f"{counted(self.n, 'labelled row')}, best {SCORES[self.by].title} first; differences"
            f" are from {self.reference}, paired; 95 % {over}{p}"
        )
        return table_html(caption, head, (self._cells(row) for row in self.rows))

    def _cells(self, row: ComparisonRow) -> list[str]:
        cells = [row.name]
        for key in self.keys:
            cells.append(" ".join(row.scores[key].said()))
            difference = row.differences[key]
            p = f" p = {row.p_holm[key]:.2g}" if key in row.p_holm else ""
            value, ends = difference.said()
            told = f"{'+' * (difference.value > 0)}{value} {ends}{p}"
            cells.append("" if row.name == self.reference else told)
        return cells

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain mappings, lists and numbers, ready for `json.dumps`."""
        return {
            **without_nan(asdict(self)),
            "rows": [without_nan({**asdict(row), "seeds": row.seeds}) for row in self.rows],
        }


def compare(
    predictions: Sequence[PredictionsLike],
    by: str = "nll",
    *,
    reference: str | None = None,
    scores: Sequence[str] | None = None,
    over_seeds: bool = True,
    distance_to: str | None = None,
    cluster_by: str | None = None,
    num_bins: int = NUM_BINS,
    interval: IntervalMethod = "percentile",
    num_resamples: int = 1000,
    num_permutations: int = 1999,
    seed: int = 0,
) -> Comparison:
    """Return paired differences of scores between methods.

    Rows are matched by id where all methods have ids, else by position. Only labelled rows count.

    Predictions of the same name whose metadata give each a seed of its own (`fit_seed`) are fits of
    one method: its scores are means over them. Where every method has several, intervals are
    Student's t over seeds, paired by seed where all have the same ones; else the bootstrap's over
    rows, which say nothing of other seeds. Fits of one method alone are compared with each other.

    Args:
        predictions: Two or more methods' predictions of the same rows, the files they are in, or
            data frames (see `Predictions.from_frame`, which names them). Files of one name are
            told apart as by the command: by seed, directory or number.
        by: The score to order the methods by, of `RANKING`.
        reference: Name of the method that the others are compared with; the first by default.
        scores: Keys of the catalogue; accuracy, NLL, Brier score and ECE by default.
        over_seeds: Whether to take fits of one method together.
        distance_to: Name of the method to measure each method's distance from, such as that of
            exact chains; None measures none. See `bayeslora.metrics.differences`.
        cluster_by: A column of the first predictions whose equal values mark rows that belong
            together; they are drawn and exchanged together.
        num_bins: Bins of the calibration errors.
        interval: `percentile`, or `bca`; the interval of ECE is the reflected one all the same.
        num_resamples: Bootstrap resamples.
        num_permutations: Exchanges behind the p-values; 0 leaves them out.
        seed: Of the bootstrap and of the exchanges.

    Raises:
        InputError: An option is wrong, names repeat, or the methods differ in their rows, classes
            or labels; the message names the first difference.
    """
    if by not in RANKING:
        raise unknown_choice("score to compare by", by, RANKING)
    check_count("num_permutations", num_permutations, least=0)
    keys = COMPARED if scores is None else chosen_keys(scores)
    num_bins, seed = as_num_bins(num_bins), as_seed(seed)
    how = Resampling(num_resamples, seed, interval)
    loaded = _loaded(predictions, cluster_by, over_seeds=over_seeds)
    methods = fits_of(loaded, over_seeds=over_seeds)
    names = [one.name for one in methods]
    base = _place("reference", names[0] if reference is None else reference, names)
    clusters = _clusters(methods, cluster_by)
    contest = Contest(methods, base, keys, num_bins, clusters)
    together = all(one.seeds for one in methods)
    measured = over_seeds_of(contest) if together else over_rows(contest, how)
    p = _p_values(contest, num_permutations, seed)
    far = _distances(methods, distance_to, how, clusters)
    rows = [
        ComparisonRow(one.name, *own, apart, *tests, seeds=one.seeds)
        for one, own, tests, apart in zip(methods, measured, p, far, strict=True)
    ]
    return Comparison(
        by=by,
        reference=names[base],
        n=len(methods[0].rows[0]),
        num_bins=num_bins,
        num_resamples=num_resamples,
        seed=seed,
        rows=tuple(rows[place] for place in _order(methods, by, num_bins)),
        distance_to=distance_to,
        interval=interval,
        cluster_by=cluster_by,
        num_permutations=num_permutations,
        num_clusters=None if clusters is None else int(clusters.max()) + 1,
        intervals_over="seeds" if together else "rows",
        same_seeds=contest.same_seeds,
        nll_clamped=sum(rows.clamped for one in methods for rows in one.rows),
    )


def _loaded(
    given: Sequence[PredictionsLike], column: str | None, *, over_seeds: bool
) -> list[Predictions]:
    if is_single(given):
        raise InputError("compare needs a list of two or more methods' predictions, got one")
    columns = [] if column is None else [column]
    found = [as_predictions(one, columns) for one in given]
    paths = [one if isinstance(one, str | Path) else None for one in given]
    return told_apart(found, paths, over_seeds=over_seeds)


def _place(option: str, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise unknown_choice(option, name, names)
    return names.index(name)


def _clusters(methods: Sequence[Fits], column: str | None) -> NDArray[np.int64] | None:
    """Return [N] the cluster of each labelled row, from 0 on without gaps."""
    if column is None:
        return None
    first = methods[0]
    return without_gaps(values_of(first.predictions[0], column)[0][first.rows[0].index])


def _distances(
    methods: Sequence[Fits],
    name: str | None,
    how: Resampling,
    clusters: NDArray[np.int64] | None,
) -> Sequence[Mapping[str, Score]]:
    if name is None:
        return [{} for _ in methods]
    place = _place("method to measure distances from", name, [one.name for one in methods])
    for one in methods:
        if one.seeds:
            raise InputError(
                f"distances are between single fits, and {quoted(one.name)} has the seeds"
                f" {', '.join(one.seeds)}; keep these apart (over_seeds=False, --no-over-seeds)"
            )
    labelled = [fit.take(fit.labelled) for one in methods for fit in one.predictions]
    return distances(labelled, place, how, clusters)


def _order(methods: Sequence[Fits], by: str, num_bins: int) -> list[int]:
    """Return the places of the methods, best first; of equal ones the first given."""
    goal = SCORES[by].goal

    def loss(method: Fits) -> float:
        each = [
            float(chosen_statistic(rows, num_bins, (by,))(np.ones(len(rows)))[0])
            for rows in method.rows
        ]
        value = sum(each) / len(each)
        return abs(value) if goal == 0 else -value if goal == math.inf else value

    losses = [loss(one) for one in methods]
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
