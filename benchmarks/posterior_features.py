"""Out-of-distribution scores of `posteriors.py` that are fitted, not read off a prediction.

Distances to the training rows see the features alone, so one fit serves every last layer on them.
The documented combination of probability and logit variance is fitted to validation rows, of which
it needs no more than the two numbers that a prediction has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import bayeslora as bl
from bayeslora.errors import InputError
from bayeslora.experiments.data import ExperimentData
from bayeslora.metrics.ood import detection, thresholds
from bayeslora.posteriors.combined import TailCombination
from bayeslora.posteriors.config import PosteriorConfig
from bayeslora.posteriors.config_scores import COMBINED, check_feature_scores
from bayeslora.predictions.record import Predictions

FEATURE_DISTANCES = ("mahalanobis", "relative_mahalanobis", "knn")


def distance_detections(
    data: ExperimentData, load: Callable[[], bl.BayesianClassifier]
) -> dict[str, float]:
    """Return the AUROC of every out-of-distribution set by distances to the training rows.

    Args:
        data: The rows.
        load: Returns a classifier whose features are meant.
    """
    clf = load()
    # The plain last layer costs nothing, and distances do not depend on it.
    clf.calibrate(data.train, posterior="mle", feature_scores=FEATURE_DISTANCES)
    outside = {name: clf.predict(rows, unknown_labels="ood") for name, rows in data.ood.items()}
    return detections(clf.predict(data.test), outside, FEATURE_DISTANCES)


def combined_detections(
    posterior: PosteriorConfig,
    validation: Predictions,
    inside: Predictions,
    outside: Mapping[str, Predictions],
) -> dict[str, float]:
    """Return the AUROC of every set by `combined`; nothing where the posterior cannot have it.

    Args:
        posterior: Of the predictions.
        validation: The predictions of validation rows.
        inside: Those of test rows.
        outside: Those of the out-of-distribution sets.
    """
    try:
        check_feature_scores((COMBINED,), posterior)
    except InputError:
        return {}
    score = TailCombination.fitted(*_parts(validation), "validation")
    familiar = score(*_parts(inside)).numpy()
    return {
        f"{name} {COMBINED}": auroc(familiar, score(*_parts(item)).numpy())
        for name, item in outside.items()
    }


def detections(
    inside: Predictions, outside: Mapping[str, Predictions], scores: Iterable[str]
) -> dict[str, float]:
    """Return the AUROC of every out-of-distribution set by every score of the predictions."""
    return {
        f"{name} {score}": auroc(inside.uncertainty(score), item.uncertainty(score))
        for score in scores
        for name, item in outside.items()
    }


def auroc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Return the probability that an outside row has the larger score."""
    return float(detection(thresholds(inside, outside))[0])


def _parts(predictions: Predictions) -> tuple[Tensor, Tensor]:
    """Return [N] of 1 − highest probability and [N] of logit variance."""
    variance = predictions.uncertainty("logit_variance")
    return torch.from_numpy(1 - predictions.confidence), torch.from_numpy(np.array(variance))
