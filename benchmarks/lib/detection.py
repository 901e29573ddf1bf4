"""Fitted out-of-distribution scores of `posteriors`.

Distances to the training rows depend only on the features, so one fit serves every last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

import bayeslora as bl
from bayeslora.metrics.ood import detection, sorted_by_uncertainty
from bayeslora.predictions.record import Predictions
from benchmarks.lib.experiment_data import ExperimentData

FEATURE_DISTANCES = ("mahalanobis", "relative_mahalanobis", "knn")


def distance_detections(
    data: ExperimentData, load: Callable[[], bl.BayesianClassifier]
) -> dict[str, float]:
    """Return the AUROC of every out-of-distribution set by distances to the training rows.

    Args:
        data: Rows of the data set.
        load: Loads the classifier that computes the features.
    """
    clf = load()
    # The point-estimate last layer is cheap, and distances do not depend on it.
    clf.calibrate(data.train, posterior="mle", feature_scores=FEATURE_DISTANCES)
    outside = {name: clf.predict(rows, unknown_labels="ood") for name, rows in data.ood.items()}
    return detections(clf.predict(data.test), outside, FEATURE_DISTANCES)


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
    return float(detection(sorted_by_uncertainty(inside, outside))[0])
