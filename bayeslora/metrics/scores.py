"""What `evaluate` returns: every score with its interval, and the bins behind the calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bayeslora.errors import InputError
from bayeslora.metrics.notebook import scores_html


@dataclass(frozen=True)
class Score:
    """A number and its 95 % confidence interval.

    Attributes:
        value: The score of all rows.
        low: Lower end of the interval, at most `value`.
        high: Upper end of the interval, at least `value`.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bin:
    """The rows whose confidence lies in one bin of a reliability diagram.

    Attributes:
        low: Left edge, inside the bin.
        high: Right edge, outside the bin; inside the last one.
        count: Number of rows.
        confidence: Their mean confidence; None in an empty bin, as are the three below.
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
    """How well an uncertainty tells out-of-distribution rows (the positive class) from the others.

    Attributes:
        n_in: Number of in-distribution rows.
        n_out: Number of out-of-distribution rows.
        score: The uncertainty that `auroc`, `aupr` and `fpr95` are about.
        auroc: Probability that an OOD row is the more uncertain one of a random pair; ties half.
        aupr: Average precision; a useless score gives n_out / (n_in + n_out).
        fpr95: Share of in-distribution rows flagged where at least 95 % of OOD rows are.
        by_score: The same three for every uncertainty that both sets have.
    """

    n_in: int
    n_out: int
    score: str
    auroc: Score
    aupr: Score
    fpr95: Score
    by_score: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores(Mapping[str, Score]):
    """All scores of one set of predictions; a mapping from a score's key to its `Score`.

    Keys: `accuracy`, `nll` (nats), `brier`, `ece`, `aece`, `cwece`, `mce`, `aurc`,
    `mean_confidence`, `overconfidence`; of prediction sets, where there are any, `coverage`,
    `set_size`, `singletons`, `empty_sets`, `worst_class_coverage`. Without labels only
    `mean_confidence` is there, and what can be said of sets without them.

    Attributes:
        name: What made the predictions.
        file: Where they were read from; empty where they came from memory.
        n: Number of rows.
        n_labelled: Number of rows with a label; all scores but those of OOD are over these.
        num_classes: C.
        num_bins: Bins of `ece`, `aece`, `cwece`, `mce` and `bins`.
        scores: The scores by key.
        bins: The reliability diagram, equal-width; empty without labels.
        ood: Detection of out-of-distribution rows, by the name of the OOD set.
        nll_clamped: Rows whose label had a probability below 1e-12, where `nll` is cut off.
        ece_if_calibrated: What `ece` would read on average, were the confidences exactly right.
        intervals: How the intervals were made: level, method, number of resamples, seed.
        stated_coverage: The coverage that the prediction sets were made for; None where there are
            none, or their file does not say.
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
    stated_coverage: float | None = None

    def __getitem__(self, key: str) -> Score:
        return self.scores[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def _repr_html_(self) -> str:
        """Return a table of the scores; notebooks show it."""
        return scores_html(self)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain mappings, lists and numbers, ready for `json.dumps`."""
        return {**asdict(self), "bins": [asdict(one) for one in self.bins]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scores:
        """Return the scores that `to_json` wrote.

        Raises:
            InputError: A key is missing, or one that belongs to a part is unknown.
        """
        try:
            return cls(
                **{
                    **content,
                    "scores": _each_score(content["scores"]),
                    "bins": tuple(Bin(**one) for one in content["bins"]),
                    "ood": {name: _ood_scores(one) for name, one in content["ood"].items()},
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this is not the JSON of scores: {error!r}") from None


def _each_score(content: Mapping[str, Any]) -> dict[str, Score]:
    return {key: Score(**score) for key, score in content.items()}


def _ood_scores(content: Mapping[str, Any]) -> OODScores:
    triple = _each_score({key: content[key] for key in ("auroc", "aupr", "fpr95")})
    by_score = {name: _each_score(scores) for name, scores in content["by_score"].items()}
    return OODScores(**{**content, **triple, "by_score": by_score})
