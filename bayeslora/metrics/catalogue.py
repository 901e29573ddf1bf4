"""The catalogue of scores: key, meaning, direction, bounds, interval and source of each.

Tables, help and documentation use it, in this order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bayeslora.errors import InputError, unknown_choice

Kind = Literal["share", "mean", "other"]
"""How a score is computed from rows: a share of them, another mean over them, or neither."""


@dataclass(frozen=True)
class ScoreInfo:
    """Description of a score.

    Attributes:
        key: Its key in `Scores` and in JSON.
        title: Its name in tables.
        meaning: One-line description.
        goal: Best value: ∞ if higher is better, −∞ if lower is better, 0 if zero is best; None
            without a direction.
        source: Source of the printed computation, or of the definition.
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
    goal: float | None
    source: str
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


_UP, _DOWN = math.inf, -math.inf

_ALL = (
    ScoreInfo(
        "accuracy",
        "Accuracy",
        "share of examples whose most probable class is the label",
        _UP,
        "mean over rows",
        kind="share",
    ),
    ScoreInfo(
        "f1",
        "F1, macro",
        "mean over classes of the harmonic mean of precision and recall",
        _UP,
        "van Rijsbergen 1979",
        listed=False,
        details="2·correct/(labelled + predicted) of each class",
    ),
    ScoreInfo(
        "balanced_accuracy",
        "Balanced accuracy",
        "mean over classes of the share of the class's examples that are found (recall)",
        _UP,
        "Brodersen et al. 2010",
        listed=False,
    ),
    ScoreInfo(
        "mcc",
        "MCC",
        "Matthews correlation of labels and predictions: 0 at chance, 1 where all are right",
        _UP,
        "Gorodkin 2004",
        low=-1.0,
        listed=False,
        details="for any number of classes",
    ),
    ScoreInfo(
        "nll",
        "NLL",
        "mean −log p(label), nats; probabilities below 1e-12 count as 1e-12",
        _DOWN,
        "mean over rows",
        high=-math.log(1e-12),
        kind="mean",
        details="`nll_clamped` is their number; each costs 27.6 nats",
    ),
    ScoreInfo(
        "brier",
        "Brier",
        "mean over examples of Σ_c (p_c − 1[c = y])²",
        _DOWN,
        "Brier 1950",
        high=2.0,
        kind="mean",
    ),
    ScoreInfo(
        "brier_reliability",
        "Brier: reliability",
        "part of the Brier score that is due to miscalibration of any class",
        _DOWN,
        "Murphy 1973",
        high=2.0,
        reflected=True,
        details="Σ_c Σ_b (n_cb/n)(p̄_cb − o_cb)², equal-width bins of every class's probability",
    ),
    ScoreInfo(
        "brier_resolution",
        "Brier: resolution",
        "part by which informative predictions lower the Brier score",
        _UP,
        "Stephenson, Coelho and Jolliffe 2008",
        low=-2.0,
        reflected=True,
        details="reliability + uncertainty − Brier, exact",
    ),
    ScoreInfo(
        "brier_uncertainty",
        "Brier: uncertainty",
        "Brier score of always predicting the class shares",
        None,
        "Murphy 1973",
        reflected=True,
        details="Σ_c o_c(1 − o_c) with class shares o",
    ),
    ScoreInfo(
        "ece",
        "ECE",
        "Σ_bins (n_b/n)·|accuracy_b − confidence_b|, equal-width bins of the highest probability",
        _DOWN,
        "Naeini et al. 2015",
        reflected=True,
    ),
    ScoreInfo(
        "aece",
        "ECE, equal-mass bins",
        "ECE with bins of equally many examples",
        _DOWN,
        "Nguyen and O'Connor 2015",
        reflected=True,
    ),
    ScoreInfo(
        "cwece",
        "ECE, class-wise",
        "ECE of the probability of every class, averaged over classes",
        _DOWN,
        "Kull et al. 2019",
        reflected=True,
    ),
    ScoreInfo(
        "mce",
        "Largest gap of a bin (MCE)",
        "the largest gap between accuracy and confidence of a bin",
        _DOWN,
        "Naeini et al. 2015",
        reflected=True,
    ),
    ScoreInfo(
        "ece_debiased",
        "ECE, debiased",
        "ECE minus an estimate of its bias from noise; may be slightly negative",
        _DOWN,
        "Kumar, Liang and Ma 2019",
        low=-1.0,
        details="Σ_b (n_b/n)(2|g_b| − E|g_b + s_b ε|) with gaps g_b and s_b² = a_b(1 − a_b)/n_b",
    ),
    ScoreInfo(
        "smece",
        "ECE, smooth",
        "ECE with a kernel instead of bins, whose width equals the error",
        _DOWN,
        "Błasiok and Nakkiran 2023",
        details="∫|(1/n) Σ_i r_i K_σ(t, c_i)|dt with a reflected Gaussian kernel",
    ),
    ScoreInfo(
        "ece_over",
        "ECE, overconfident",
        "part of ECE in bins with confidence above accuracy",
        _DOWN,
        "ECE by sign",
        reflected=True,
        listed=False,
        details="`ece_over` + `ece_under` = `ece`",
    ),
    ScoreInfo(
        "ece_under",
        "ECE, underconfident",
        "part of ECE in bins with confidence below accuracy",
        _DOWN,
        "ECE by sign",
        reflected=True,
        listed=False,
    ),
    ScoreInfo(
        "aurc",
        "AURC",
        "area under the risk-coverage curve: mean error of the most confident examples",
        _DOWN,
        "Geifman et al. 2019",
        details="(1/n) Σ_k (errors in the k most confident examples)/k, ties averaged over "
        "their orders",
    ),
    ScoreInfo(
        "eaurc",
        "AURC, excess",
        "AURC minus the AURC with all errors ranked last",
        _DOWN,
        "Geifman et al. 2019",
    ),
    ScoreInfo(
        "accuracy_at_50",
        "Accuracy at 50 % coverage",
        "accuracy of the 50 % most confident examples",
        _UP,
        "El-Yaniv and Wiener 2010",
        listed=False,
        kind="share",
        percent=50,
        details="of ⌈50 % · n⌉ examples; 1 minus it is the risk at that coverage",
    ),
    ScoreInfo(
        "accuracy_at_80",
        "Accuracy at 80 % coverage",
        "accuracy of the 80 % most confident examples",
        _UP,
        "El-Yaniv and Wiener 2010",
        listed=False,
        kind="share",
        percent=80,
    ),
    ScoreInfo(
        "accuracy_at_90",
        "Accuracy at 90 % coverage",
        "accuracy of the 90 % most confident examples",
        _UP,
        "El-Yaniv and Wiener 2010",
        kind="share",
        percent=90,
    ),
    ScoreInfo(
        "accuracy_at_95",
        "Accuracy at 95 % coverage",
        "accuracy of the 95 % most confident examples",
        _UP,
        "El-Yaniv and Wiener 2010",
        listed=False,
        kind="share",
        percent=95,
    ),
    ScoreInfo(
        "mean_confidence",
        "Mean confidence",
        "mean highest probability",
        None,
        "mean over rows",
        kind="mean",
    ),
    ScoreInfo(
        "overconfidence",
        "Overconf.",
        "mean confidence minus accuracy: above 0 overconfident, below 0 underconfident",
        0.0,
        "mean over rows",
        low=-1.0,
        kind="mean",
    ),
    ScoreInfo(
        "sharpness",
        "Sharpness",
        "mean sum of squared probabilities: 1/C where nothing is known, 1 where all is;"
        " 1 − sharpness is the Brier score of a calibrated model",
        None,
        "Gneiting, Balabdaoui and Raftery 2007",
        kind="mean",
        details="mean of Σ_c p_c²",
    ),
)

SCORES: Mapping[str, ScoreInfo] = {info.key: info for info in _ALL}
"""All scores of labelled predictions by key, in order."""

SCORE_KEYS = tuple(SCORES)
"""The keys of `Scores`, in order."""

_OF_SETS = (
    ScoreInfo(
        "coverage",
        "Coverage",
        "share of examples whose set holds the label",
        None,
        "mean over rows",
        kind="share",
    ),
    ScoreInfo(
        "set_size",
        "Set size",
        "mean number of classes in a set",
        _DOWN,
        "mean over rows",
        high=math.inf,
        kind="mean",
    ),
    ScoreInfo(
        "singletons",
        "Sets of one class",
        "share of sets with one class",
        None,
        "mean over rows",
        kind="share",
    ),
    ScoreInfo(
        "empty_sets",
        "Empty sets",
        "share of sets with no class",
        None,
        "mean over rows",
        kind="share",
    ),
    ScoreInfo(
        "worst_class_coverage",
        "Coverage, lowest of a class",
        "lowest coverage of the examples of a class",
        None,
        "mean over the rows of a class",
    ),
)

SET_SCORES: Mapping[str, ScoreInfo] = {info.key: info for info in _OF_SETS}
"""All scores of prediction sets by key, in order."""

_OF_DETECTION = (
    ScoreInfo(
        "auroc",
        "AUROC",
        "probability that an out-of-distribution example (positive) is more uncertain than an"
        " in-distribution one; ties count half",
        _UP,
        "Hanley and McNeil 1982",
        kind="share",
    ),
    ScoreInfo(
        "aupr",
        "AUPR",
        "mean precision of flagging the most uncertain examples first",
        _UP,
        "Hendrycks and Gimpel 2017",
        kind="mean",
    ),
    ScoreInfo(
        "fpr95",
        "FPR95",
        "share of in-distribution examples flagged at the threshold that flags 95 % of the"
        " out-of-distribution examples",
        _DOWN,
        "Liang, Li and Srikant 2018",
        kind="share",
    ),
    ScoreInfo(
        "aupr_in",
        "AUPR, in-distribution",
        "AUPR in the other direction: in-distribution examples positive, least uncertain first",
        _UP,
        "Hendrycks and Gimpel 2017",
        kind="mean",
    ),
)

DETECTION_SCORES: Mapping[str, ScoreInfo] = {info.key: info for info in _OF_DETECTION}
"""All scores of out-of-distribution detection by key, in order."""

ALL_SCORES: Mapping[str, ScoreInfo] = {**SCORES, **SET_SCORES}
"""Scores of labelled predictions, then of prediction sets."""

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
