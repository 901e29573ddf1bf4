"""Out-of-distribution scores of logits, and those fitted beside a posterior; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bayeslora.errors import InputError, unknown_choice
from bayeslora.posteriors.base import Posterior

UNFAMILIARITY, DISTANCE, NO_SCORE = "unfamiliarity", "mahalanobis", "none"
MIDDLE = "middle_mahalanobis"
USUAL_SCORES = (DISTANCE, UNFAMILIARITY)
MAHALANOBIS = {DISTANCE, MIDDLE}


@dataclass(frozen=True)
class FeatureScoreInfo:
    """Entry of a score in lists.

    Attributes:
        name: Name, as in `score_<name>` of the predictions.
        summary: Short description.
        source: Source of the formula.
    """

    name: str
    summary: str
    source: str


LOGIT_SCORES = {
    info.name: info
    for info in (
        FeatureScoreInfo(
            "logit_variance",
            "variance of the logits about their mean over classes",
            "MacKay 1992, doi 10.1162/neco.1992.4.5.720",
        ),
        FeatureScoreInfo(
            "energy",
            "minus the logsumexp of the mean logits, which are shifted to sum to zero",
            "Liu, Wang, Owens and Li 2020, arXiv 2010.03759",
        ),
        FeatureScoreInfo(
            "max_logit",
            "minus the highest of the shifted mean logits",
            "Hendrycks et al. 2022, arXiv 1911.11132",
        ),
    )
}
"""Scores that every prediction has."""

FEATURE_SCORES = {
    info.name: info
    for info in (
        FeatureScoreInfo(
            DISTANCE,
            "squared Mahalanobis distance to the nearest class mean, shared covariance",
            "Lee, Lee, Lee and Shin 2018, arXiv 1807.03888",
        ),
        FeatureScoreInfo(
            "knn",
            "distance to the tenth-nearest training row, with features scaled to length 1",
            "Sun, Ming, Zhu and Li 2022, arXiv 2204.06507",
        ),
        FeatureScoreInfo(
            MIDDLE,
            "squared Mahalanobis distance of the mean state in the middle of the backbone",
            "ours",
        ),
        FeatureScoreInfo(
            UNFAMILIARITY,
            "¾ log mahalanobis + ¼ log middle_mahalanobis + ¼ log(1 − highest probability)",
            "ours",
        ),
    )
}


def feature_scores(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return unique names of scores from a sequence or comma-separated text.

    `none` and an empty sequence are no score; None stays None, for `USUAL_SCORES` where possible.
    `unfamiliarity` adds the distance that it is computed from.

    Raises:
        InputError: A name is unknown.
    """
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value
    names = [name for part in parts if (name := str(part).strip()) not in ("", NO_SCORE)]
    for name in names:
        if name not in FEATURE_SCORES:
            raise unknown_choice("feature score", name, [*FEATURE_SCORES, NO_SCORE])
    if UNFAMILIARITY in names and DISTANCE not in names:
        names.insert(names.index(UNFAMILIARITY), DISTANCE)
    return tuple(dict.fromkeys(names))


def check_middle(names: Sequence[str] | None, *, has_middle: bool) -> None:
    """Raise InputError for a score of states in the middle of a backbone that has none.

    Raises:
        InputError: The model's layers are not one list, or do not have one state per token.
    """
    if MIDDLE in (names or ()) and not has_middle:
        raise InputError(
            f"feature score {MIDDLE!r} needs one state per token in the middle of the backbone, "
            "which this model does not have; leave it out",
            code="no-middle",
        )


def has_one_feature(posterior: Posterior) -> bool:
    """Return whether a posterior has one set of features per text, as scores require."""
    return posterior.num_members == 1 and not posterior.is_sampled


def settled_scores(names: Sequence[str] | None, posterior: Posterior) -> Sequence[str] | None:
    """Return the scores to fit; none by default if a posterior has several sets of features."""
    return () if names is None and not has_one_feature(posterior) else names


def check_feature_scores(names: Sequence[str] | None, posterior: Posterior) -> None:
    """Raise InputError for scores that a posterior cannot have.

    Raises:
        InputError: The posterior has several sets of features.
    """
    if names and not has_one_feature(posterior):
        raise InputError(
            f"feature scores need one set of features per text, and posterior {posterior.name!r} "
            "has several; choose a posterior of the last layer, such as 'vbll' or 'laplace'",
            code="several-networks",
        )
