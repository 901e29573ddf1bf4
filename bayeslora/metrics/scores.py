"""Scores: the catalogue, and the results of `evaluate` with intervals and reliability bins.

`scores.toml` is the catalogue; tables, help and documentation use it in its order.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import clean, counted

Kind = Literal["share", "mean", "other"]
"""How a score is computed from rows: a share of them, another mean over them, or neither."""


@dataclass(frozen=True)
class ScoreInfo:
    """Description of a score.

    Attributes:
        key: Its key in `Scores` and in JSON.
        title: Its name in tables.
        meaning: One-line description.
        source: Source of the printed computation, or of the definition.
        goal: Best value: ∞ if higher is better, −∞ if lower is better, 0 if zero is best; None
            without a direction.
        low: Lowest possible value.
        high: Highest possible value; ∞ stands for the number of classes.
        reflected: Whether noise only increases (or only decreases) it, so that its interval is the
            reflected one.
        listed: Whether tables show it by default.
        kind: How it is computed from rows; decides its interval if resamples do not vary.
        percent: Percentage of the rows it is computed on.
        details: Formula and conventions, for the documentation.
    """

    key: str
    title: str
    meaning: str
    source: str
    goal: float | None = None
    low: float = 0.0
    high: float = 1.0
    reflected: bool = False
    listed: bool = True
    kind: Kind = "other"
    percent: int = 100
    details: str = ""

    @property
    def arrow(self) -> str:
        """`↑` if higher is better, `↓` if lower is, `→0` if zero is; empty without a direction."""
        return {None: "", 0.0: "→0"}.get(self.goal, "↑" if (self.goal or 0) > 0 else "↓")

    def loss(self, value: float) -> float:
        """Return a value as a loss, of which less is better; for scores with a goal."""
        if self.goal == 0:
            return abs(value)
        return -value if self.goal == math.inf else value

    def bounds(self, num_classes: int) -> tuple[float, float]:
        """Return the lowest and the highest possible value for a number of classes."""
        return self.low, self.high if math.isfinite(self.high) else float(num_classes)


def _read() -> dict[str, dict[str, ScoreInfo]]:
    """Return the scores of each table of `scores.toml` by key, in order."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return {
        table: {key: ScoreInfo(key, **fields) for key, fields in entries.items()}
        for table, entries in tomllib.loads(text).items()
    }


_TABLES = _read()

SCORES: Mapping[str, ScoreInfo] = _TABLES["labelled"]
"""All scores of labelled predictions by key, in order."""

SCORE_KEYS = tuple(SCORES)
"""The keys of `Scores`, in order."""

SET_SCORES: Mapping[str, ScoreInfo] = _TABLES["sets"]
"""All scores of prediction sets by key, in order."""

DETECTION_SCORES: Mapping[str, ScoreInfo] = _TABLES["detection"]
"""All scores of out-of-distribution detection by key, in order."""

SOFT_SCORES: Mapping[str, ScoreInfo] = _TABLES["soft"]
"""All scores under soft labels by key, in order."""

ORDERED_SCORES: Mapping[str, ScoreInfo] = _TABLES["ordered"]
"""All scores of ordered classes by key, in order."""

ALL_SCORES: Mapping[str, ScoreInfo] = {**SCORES, **SOFT_SCORES, **ORDERED_SCORES, **SET_SCORES}
"""Scores of labelled predictions, under soft labels, of ordered classes, and of sets."""

REFLECTED = frozenset(key for key, info in SCORES.items() if info.reflected)
"""Scores with reflected intervals, because noise changes them in one direction only."""

UNLABELLED_KEYS = ("mean_confidence", "sharpness")
"""Scores that need no labels."""


def chosen_keys(names: Sequence[str], known: Iterable[str] = SCORES) -> tuple[str, ...]:
    """Return the distinct chosen keys, in the given order.

    Args:
        names: Chosen keys.
        known: Allowed keys.

    Raises:
        InputError: There are no keys, or one is unknown.
    """
    allowed = tuple(known)
    for name in names:
        if name not in allowed:
            raise unknown_choice("score", name, allowed)
    if not names:
        raise InputError(f"name at least one score; choose from {', '.join(allowed)}")
    return tuple(dict.fromkeys(names))


LEAST_ROWS = 10
"""Number of rows or clusters below which there is no bootstrap interval: percentile intervals of
fewer rows are too narrow."""

NO_INTERVAL = "no interval"
"""Text for a missing interval."""

DIGITS = 3
"""Decimals of a score in a table; a percentage has two fewer."""


def difference_digits(difference: float, first: float, second: float) -> int:
    """Return the decimals of the difference first − second, beside both with `DIGITS` decimals.

    It needs one more where the rounded numbers differ by another one, which would read as a
    mistake: 0.831 − 0.819 beside +0.011, if these are 0.8308, 0.8194 and 0.0114.

    Example:
        >>> difference_digits(0.0114, 0.8308, 0.8194), difference_digits(0.012, 0.831, 0.819)
        (4, 3)
    """
    apart = round(round(first, DIGITS) - round(second, DIGITS), DIGITS)
    return DIGITS if apart == round(difference, DIGITS) else DIGITS + 1


@dataclass(frozen=True)
class Score:
    """A value with its 95 % confidence interval.

    Attributes:
        value: Score of all rows.
        low: Lower end of the interval, at most `value`; NaN, null in JSON, if there are too few
            rows for an interval (`LEAST_ROWS`).
        high: Upper end of the interval, at least `value`; NaN if `low` is.
    """

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def said(self, digits: int = DIGITS) -> tuple[str, str]:
        """Return the value and its interval as text with `digits` decimals."""
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        ends = f"[{low}, {high}]" if self.has_interval else NO_INTERVAL
        return f"{self.value:.{digits}f}", ends

    @classmethod
    def alone(cls, value: float) -> Score:
        """Return a score without an interval."""
        return cls(value, math.nan, math.nan)


@dataclass(frozen=True)
class Bin:
    """The rows whose confidence lies in one bin of a reliability diagram.

    Attributes:
        low: Left edge, included in the bin.
        high: Right edge, excluded from all but the last bin.
        count: Number of rows.
        confidence: Their mean confidence; None for an empty bin, as are the three below.
        accuracy: Their share of correct predictions.
        accuracy_low: Lower end of the accuracy's 95 % Wilson interval.
        accuracy_high: Upper end of the accuracy's 95 % Wilson interval.
    """

    low: float
    high: float
    count: int
    confidence: float | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None


@dataclass(frozen=True)
class OODScores:
    """How well an uncertainty separates out-of-distribution rows (the positive class) from others.

    Attributes:
        n_in: Number of in-distribution rows.
        n_out: Number of out-of-distribution rows.
        score: Uncertainty that `auroc`, `aupr` and `fpr95` are computed for.
        auroc: Probability that the OOD row of a random pair is more uncertain; ties count half.
        aupr: Average precision; a random score gives n_out / (n_in + n_out).
        fpr95: Share of in-distribution rows flagged when at least 95 % of OOD rows are.
        by_score: The four scores for every uncertainty that both sets have.
        aupr_in: Average precision in the other direction: in-distribution rows are the positive
            class, least uncertain first. None in JSON of older versions.
        doubt: Why the epistemic uncertainty is uninformative, `negligible` or `noise`; empty
            otherwise. See `bayeslora.metrics.ood`.
        better: A simpler score that separates these rows significantly better than `score`, by the
            paired bootstrap; empty if there is none.
    """

    n_in: int
    n_out: int
    score: str
    auroc: Score
    aupr: Score
    fpr95: Score
    by_score: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    aupr_in: Score | None = None
    doubt: str = ""
    better: str = ""


@dataclass(frozen=True)
class PartScores:
    """Scores of a subset of the rows: those with one value of a column, or of one class.

    Attributes:
        n: Number of rows.
        scores: Scores by key, without those that are undefined for these rows.
    """

    n: int
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class CoveragePoint:
    """A point of the risk-coverage curve.

    Attributes:
        coverage: Share of rows that are answered, most confident first.
        risk: Share of errors among them.
    """

    coverage: float
    risk: float


MAIN = ("accuracy", "nll", "brier", "ece", "overconfidence", "aurc", "coverage", "set_size")
"""Scores that `print` shows, if present."""

MOST_LINES = 30
"""Most lines that `print` shows."""


@dataclass(frozen=True, repr=False)
class Scores(Mapping[str, Score]):
    """All scores of one set of predictions; a mapping from a score's key to its `Score`.

    Keys are those of `bayeslora.metrics.scores`, including `accuracy`, `nll` (nats), `brier` and
    `ece`, and for prediction sets `coverage`, `set_size`, `singletons` and `empty_sets`. Without
    labels it contains only `mean_confidence`, `sharpness` and the scores of sets that need no
    labels.

    Attributes:
        name: Name of the predictions.
        file: File they were read from; empty for predictions in memory.
        n: Number of rows.
        n_labelled: Number of rows with a label, which all scores except those of OOD are computed
            on.
        num_classes: Number of classes C.
        num_bins: Bins of `ece`, `aece`, `cwece`, `mce` and `bins`.
        scores: The scores by key.
        bins: The reliability diagram, equal-width; empty without labels.
        ood: Detection of out-of-distribution rows, by the name of the OOD set.
        nll_clamped: Number of rows whose label had a probability below 1e-12, at which `nll` is
            clamped.
        ece_if_calibrated: Expected `ece` if the probabilities were exactly right: its mean over
            labels drawn from them.
        intervals: Settings of the intervals: level, method, number of resamples, seed.
        calibration_p: p-value of perfect calibration: how often chance alone gives an ECE at least
            as large. None without labels.
        chance_p: The same for every calibration error, by its key.
        sure: Labelled rows of confidence 0.9 or more, where people automate; None without labels.
        risk_coverage: Risk-coverage curve at each per cent of the rows; empty without labels.
        groups: Scores by the values of a column, by column.
        classes: Scores by class: `recall`, `precision`, `f1`, `mean_probability`, `ece`.
        class_names: Names of the C classes in index order.
        confusion: [C, C] number of rows by label (first index) and prediction (second index), both
            in the order of `class_names`, summed over seeds if there are several. Empty without
            labels.
        chance_accuracy: Accuracy of random guessing: the mean of 1/C over rows, which may differ in
            their number of classes.
    """

    name: str
    file: str
    n: int
    n_labelled: int
    num_classes: int
    num_bins: int
    scores: Mapping[str, Score]
    bins: tuple[Bin, ...] = ()
    ood: Mapping[str, OODScores] = field(default_factory=dict)
    nll_clamped: int = 0
    ece_if_calibrated: float | None = None
    intervals: Mapping[str, str | int | float] = field(default_factory=dict)
    calibration_p: float | None = None
    chance_p: Mapping[str, float] = field(default_factory=dict)
    sure: Bin | None = None
    risk_coverage: tuple[CoveragePoint, ...] = ()
    groups: Mapping[str, Mapping[str, PartScores]] = field(default_factory=dict)
    classes: Mapping[str, PartScores] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    chance_accuracy: float | None = None

    @property
    def gap_digits(self) -> int:
        """Decimals of `overconfidence` beside mean confidence and accuracy; for labelled rows."""
        keys = ("overconfidence", "mean_confidence", "accuracy")
        return difference_digits(*(self[key].value for key in keys))

    def __getitem__(self, key: str) -> Score:
        return self.scores[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        """Return the main scores with their intervals, and how to see the others."""
        titled = dict(self._titled())
        shown = [key for key in titled if key not in self.scores or key in MAIN] or [*titled]
        lines = [
            f"{clean(key):<15} {' '.join(titled[key].said())}" for key in shown[: MOST_LINES - 2]
        ]
        rows = f"{self.n_labelled:,} labelled of {counted(self.n, 'row')}"
        head = f"{clean(self.name)}: {rows}, {self.num_classes} classes, {self.num_bins} bins"
        return "\n".join([head, *lines, f"All {len(self)} scores: dict(scores), scores.to_json()"])

    def _titled(self) -> Iterator[tuple[str, Score]]:
        yield from self.items()
        for name, detection in self.ood.items():
            by = f"{name} ({counted(detection.n_out, 'row')}) by {detection.score}"
            yield from (
                (f"{key}, {by}", getattr(detection, key)) for key in ("auroc", "aupr", "fpr95")
            )

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain mappings, lists and numbers, ready for `json.dumps`."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain


def without_nan(content: Any) -> Any:
    """Return plain mappings and lists, with None for NaN and infinities, which JSON lacks."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
